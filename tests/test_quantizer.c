/* Encoding on a device: one made of the CPU's encoders stands in for it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>

#include "convert/convert.h"
#include "tests/commands.h"

struct lm_quantizer_dev { atomic_size_t n_calls, n_elems, largest; bool lies, fails; };
static struct lm_quantizer_dev device;

static int open_device(struct lm_quantizer_dev **out, int ordinal, struct lm_err *e)
{
    if (ordinal != 2)
        return lm_err_set(e, LM_MISSING, "device %d", ordinal);
    *out = &device;
    return 0;
}

static void close_device(struct lm_quantizer_dev *d)
{
    (void)d;
}

static void describe(const struct lm_quantizer_dev *d, char *buf, size_t size)
{
    (void)d;
    snprintf(buf, size, "stand-in");
}

static bool can(const struct lm_quantizer_dev *d, enum lm_dtype to, bool weighted)
{
    (void)d;
    return to != LM_Q6_K && !weighted;
}

static int encode(struct lm_quantizer_dev *d, enum lm_dtype to, void *dst, const float *src, const float *weights,
                  size_t n_per_row, size_t n_rows, struct lm_err *e)
{
    assert_true(can(d, to, weights != NULL));
    if (d->fails)
        return lm_err_set(e, LM_IO, "the device fell off the bus");
    d->n_calls++;
    d->n_elems += n_per_row * n_rows;
    lm_dtype_info(to)->from_f32(dst, src, n_per_row * n_rows);
    if (d->lies)
        *(uint8_t *)dst ^= 1;
    return 0;
}

static const struct lm_quantizer stand_in = {"stand-in", open_device, close_device, describe, can, encode};

static int quantize(const char *dst, const struct lm_quantizer *q, int ordinal, struct lm_err *e)
{
    struct lm_request r = {.to = lm_format_find("gguf"), .quantize = true, .dtype = -1, .ftype = lm_ftype_find("Q4_K_M")};
    struct lm_run_options o = {.n_threads = 2, .quantizer = q, .quantizer_ordinal = ordinal};
    struct lm_model *m = NULL;
    struct lm_plan *p = NULL;
    int rc = lm_model_open(&m, "samples/polish-5m", e) || lm_plan_make(&p, m, &r, e) || lm_plan_run(p, dst, &o, e) ? -1 : 0;

    lm_plan_free(p);
    lm_model_close(m);
    return rc;
}

static void same_file(const char *a, const char *b)
{
    struct bytes x = read_back(a), y = read_back(b);

    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.data, y.data, x.n);
    bytes_free(&x);
    bytes_free(&y);
}

static void test_same_bytes(void **state)
{
    char folder[64];
    struct lm_err e = {0};
    (void)state;

    tmp_make(folder);
    assert_int_equal(quantize(path_in(folder, "cpu.gguf"), NULL, 0, &e), 0);
    assert_int_equal(quantize(path_in(folder, "device.gguf"), &stand_in, 2, &e), 0);
    assert_true(device.n_calls > 0 && device.n_elems > 2000000);
    same_file(path_in(folder, "cpu.gguf"), path_in(folder, "device.gguf"));
    tmp_remove(folder);
}

static void refused(const char *folder, int ordinal, const char *why)
{
    struct lm_err e = {0};

    assert_int_equal(quantize(path_in(folder, "no.gguf"), &stand_in, ordinal, &e), -1);
    if (!strstr(e.text, why))
        fail_msg("\"%s\" does not say \"%s\"", e.text, why);
    assert_int_not_equal(access(path_in(folder, "no.gguf"), F_OK), 0);
}

static void test_errors_leave_nothing(void **state)
{
    char folder[64];
    (void)state;

    tmp_make(folder);
    refused(folder, 0, "device 0");
    device.lies = true;
    refused(folder, 2, "to other bytes than the CPU");
    device = (struct lm_quantizer_dev){.fails = true};
    refused(folder, 2, "fell off the bus");
    device.fails = false;
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest all[] = {cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_errors_leave_nothing)};

    return cmocka_run_group_tests(all, NULL, NULL);
}
