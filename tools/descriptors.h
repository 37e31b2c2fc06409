/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors that a program is started with. */
#ifndef TOOLS_DESCRIPTORS_H
#define TOOLS_DESCRIPTORS_H

#include <stdbool.h>

/* A descriptor 0, 1 or 2 that is closed would be given to an image, and our messages with it: opens
 * them. False when that fails. */
bool descriptors_open_standard(void);

#endif
