/* For the tests of storage types: fixtures, and every instruction set in turn. */
#ifndef TESTS_QUANT_H
#define TESTS_QUANT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libmodel/dtype.h"

static const char *const isas[] = {"portable", "avx2", "avx512"};
enum { N_ISAS = 3 };

/* The bytes of tests/fixtures/quant/`name`; the caller frees. */
static inline void *read_fixture(const char *name, size_t *size)
{
    char path[256];

    snprintf(path, sizeof path, "tests/fixtures/quant/%s", name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s: cannot open", path);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long n = ftell(f);
    rewind(f);
    assert_true(n > 0);
    void *p = malloc((size_t)n);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, (size_t)n, f), (size_t)n);
    fclose(f);
    *size = (size_t)n;
    return p;
}

static inline uint32_t bits_of(float f)
{
    uint32_t u;

    memcpy(&u, &f, 4);
    return u;
}

#endif
