/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See descriptors.h.
 */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

bool descriptors_open_standard(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
            int opened = open("/dev/null", O_RDWR); /* the lowest that is free */

            if (opened != fd)
                return false;
        }
    }
    return true;
}
