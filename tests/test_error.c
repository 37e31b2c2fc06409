/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words of errors (libvdisk/error.c).
 */
#include "error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <string.h>

static void test_errors_have_words(void **state)
{
    struct vdisk_error error;
    char text[VDISK_ERROR_TEXT_BYTES + 100];

    (void)state;
    assert_string_equal(vdisk_strerror(-ENOSPC), "no space left on the device");
    assert_string_equal(vdisk_strerror(VDISK_E_WRONG_KEY), "wrong key");
    assert_string_equal(vdisk_strerror(0), "success");
    for (int code = VDISK_E_DAMAGED; code <= VDISK_E_WRONG_KEY; code++)
        assert_string_not_equal(vdisk_strerror(code), "unknown error");
    assert_string_equal(vdisk_strerror(5), "unknown error");
    assert_string_equal(vdisk_strerror(-9999), "unknown error");
    assert_string_equal(vdisk_strerror(INT_MIN), "unknown error");
    assert_non_null(vdisk_strerror(-ESTALE));

    assert_int_equal(vd_fail(&error, -EINVAL, "%d is too many", 12), -EINVAL);
    assert_string_equal(error.text, "12 is too many");
    assert_int_equal(error.code, -EINVAL);
    assert_int_equal(vd_corrupt(NULL, VDISK_E_MALFORMED, "x"), VDISK_E_MALFORMED);
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(vd_corrupt(&error, VDISK_E_MALFORMED, "%s", text), VDISK_E_MALFORMED);
    assert_int_equal(strlen(error.text), VDISK_ERROR_TEXT_BYTES - 1);
}

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_errors_have_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
