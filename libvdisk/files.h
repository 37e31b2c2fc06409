/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tests may do to the files of an image: stand between them and the kernel.
 */
#ifndef VD_FILES_H
#define VD_FILES_H

#include "vdisk/files.h"

#include <sys/types.h>
#include <sys/uio.h>

/* Parts of one split image, part 0 included: the number in a name has three digits. */
#define VD_PARTS_MAX 1000u

/* The system calls on the data path, with the meaning of the manual: -1 and errno. All are
 * set. openat and unlinkat are called for parts from number 1 on. */
struct vd_file_calls {
    ssize_t (*pread)(int fd, void *data, size_t length, off_t offset);
    ssize_t (*pwritev)(int fd, const struct iovec *vectors, int count, off_t offset);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd); /* of the directory */
    int (*fallocate)(int fd, int mode, off_t offset, off_t length);
    int (*ftruncate)(int fd, off_t length);
    int (*openat)(int directory, const char *name, int flags, mode_t mode);
    int (*unlinkat)(int directory, const char *name, int flags);
};

/* Those in use; never NULL. */
const struct vd_file_calls *vd_files_calls(const struct vdisk_files *files);
/* `calls` lives as long as the files; NULL puts the real ones back. */
void vd_files_set_calls(struct vdisk_files *files, const struct vd_file_calls *calls);

#endif
