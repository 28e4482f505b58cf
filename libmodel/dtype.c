/* The registry of storage types and the choice of an instruction set. */
#include "libmodel/dtype.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "libmodel/dtype/rows.h"

#define DTYPE(s) extern const struct lm_dtype_info lm_dtype_info_##s;
#include "libmodel/dtypes.def"
#undef DTYPE

static const struct lm_dtype_info *const infos[] = {
#define DTYPE(s) &lm_dtype_info_##s,
#include "libmodel/dtypes.def"
#undef DTYPE
};

const struct lm_dtype_info *lm_dtype_info(enum lm_dtype d)
{
    return infos[d];
}

const char *lm_dtype_name(enum lm_dtype d)
{
    return infos[d]->name;
}

int lm_dtype_find(const char *name)
{
    for (int d = 0; d < LM_N_DTYPES; d++)
        if (strcasecmp(infos[d]->name, name) == 0)
            return d;
    return -1;
}

size_t lm_dtype_bytes(enum lm_dtype d, uint64_t n)
{
    size_t bytes;

    if (n % infos[d]->block_elems != 0 ||
        __builtin_mul_overflow(n / infos[d]->block_elems, (uint64_t)infos[d]->block_bytes, &bytes))
        return 0;
    return bytes;
}

/* ---- byte order */

static void reverse(uint8_t *p, size_t width)
{
    for (size_t i = 0; i < width / 2; i++) {
        uint8_t t = p[i];
        p[i] = p[width - 1 - i];
        p[width - 1 - i] = t;
    }
}

static void swap_block(const struct lm_dtype_info *info, uint8_t *block)
{
    for (int f = 0; f < LM_DTYPE_MAX_FIELDS; f++)
        for (size_t i = 0; i < info->fields[f].count; i++)
            reverse(block + info->fields[f].offset + i * info->fields[f].width, info->fields[f].width);
}

void lm_dtype_swap(enum lm_dtype d, void *data, size_t n)
{
    const struct lm_dtype_info *info = infos[d];
    uint8_t *p = data;

    for (size_t i = 0; i < n / info->block_elems; i++, p += info->block_bytes)
        swap_block(info, p);
}

/* ---- instruction sets */

#if defined(__x86_64__)
/* What the _avx2 files are compiled for.  F16C is asked of cpuid because
 * clang 14's __builtin_cpu_supports does not know it. */
static bool have_avx2(void)
{
    unsigned a, b, c, d;

    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool have_avx512(void)
{
    return have_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}
#endif

static const struct lmi_rows *find_rows(const char *isa)
{
#if defined(__x86_64__)
    if (strcmp(isa, "avx512") == 0)
        return have_avx512() ? &lmi_rows_avx512 : NULL;
    if (strcmp(isa, "avx2") == 0)
        return have_avx2() ? &lmi_rows_avx2 : NULL;
#endif
    return strcmp(isa, "portable") == 0 ? &lmi_rows_portable : NULL;
}

static const struct lmi_rows *best_rows(void)
{
    static const char *const best_first[] = {"avx512", "avx2", "portable"};
    const char *forced = getenv("LM_ISA");
    const struct lmi_rows *rows = forced ? find_rows(forced) : NULL;

    for (size_t i = 0; !rows; i++)
        rows = find_rows(best_first[i]);
    return rows;
}

/* Threads that get here first together all store the same answer. */
static _Atomic(const struct lmi_rows *) chosen;

const struct lmi_rows *lmi_rows(void)
{
    const struct lmi_rows *rows = atomic_load_explicit(&chosen, memory_order_relaxed);

    if (!rows) {
        rows = best_rows();
        atomic_store_explicit(&chosen, rows, memory_order_relaxed);
    }
    return rows;
}

const char *lm_dtype_isa(void)
{
    return lmi_rows()->isa;
}

int lm_dtype_set_isa(const char *name)
{
    const struct lmi_rows *rows = find_rows(name);

    if (!rows)
        return -1;
    atomic_store_explicit(&chosen, rows, memory_order_relaxed);
    return 0;
}
