/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A line of the management socket, of any bytes: it is refused with a sentence, or everything in
 * the request is within its bounds.
 */
#include "control.h"
#include "control_server.h"
#include "require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct control_request request;
    struct vdisk_error error = {.code = 0};

    if (size > CONTROL_LINE_MAX)
        return 0;
    int rc = control_parse((const char *)data, size, &request, &error);

    require(rc == 0 || rc == -22);
    require(rc == 0 || (error.code == rc && error.text[0]));
    if (rc)
        return 0;
    require(request.command != NULL);
    require((request.fields & request.command->required) == request.command->required);
    require(!(request.fields & ~(request.command->required | request.command->allowed)));
    require(memchr(request.export, 0, sizeof(request.export)) != NULL);
    require(memchr(request.image, 0, sizeof(request.image)) != NULL);
    require(memchr(request.key_file, 0, sizeof(request.key_file)) != NULL);
    require(request.size <= VDISK_SIZE_MAX && request.slot < VDISK_KEYSLOTS);
    return 0;
}
