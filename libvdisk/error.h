/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the library fails: a code to return and one sentence for a person.
 *
 * The sentence is written where the reason is known and does not name the image; whoever
 * prints it puts the path in front. Callers further up return the code and leave the
 * sentence alone.
 */
#ifndef VD_ERROR_H
#define VD_ERROR_H

#include "vdisk/error.h"

/* Fills `error` (NULL allowed; an earlier content is replaced) and returns `code`. A sentence
 * that is too long is cut. */
int vd_fail(struct vdisk_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, for bytes that are not what an honest writer leaves: every corruption that the
 * library detects is raised here, so that one breakpoint finds them all. */
int vd_corrupt(struct vdisk_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
