/* GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 *   "GGUF"  u32 version (1, 2, 3)  u64 n_tensors  u64 n_kv
 *   n_kv      x { str key; u32 type; value }     str = u64 length + bytes
 *   n_tensors x { str name; u32 n_dims; u64 ne[n_dims], fastest first; u32 type; u64 offset }
 *   zeros up to a multiple of general.alignment (default 32)
 *   tensor data; offsets count from here and are aligned
 *
 * In version 1 counts, lengths and ne are u32. A big-endian file has the same
 * magic bytes and everything else swapped, tensor data too. We write version 3,
 * little-endian. Split sets: <base>-00001-of-00003.gguf with the keys split.no,
 * split.count, split.tensors.count; all other keys in the first part. */
#include "libmodel/fmt/gguf.h"

#include <stdlib.h>

static const struct {
    uint32_t id;
    enum lm_dtype dtype;
} wire[] = {
    {0, LM_F32},      {1, LM_F16},      {2, LM_Q4_0},     {3, LM_Q4_1},    {6, LM_Q5_0},    {7, LM_Q5_1},
    {8, LM_Q8_0},     {9, LM_Q8_1},     {10, LM_Q2_K},    {11, LM_Q3_K},   {12, LM_Q4_K},   {13, LM_Q5_K},
    {14, LM_Q6_K},    {15, LM_Q8_K},    {16, LM_IQ2_XXS}, {17, LM_IQ2_XS}, {18, LM_IQ3_XXS}, {19, LM_IQ1_S},
    {20, LM_IQ4_NL},  {21, LM_IQ3_S},   {22, LM_IQ2_S},   {23, LM_IQ4_XS}, {24, LM_I8},     {25, LM_I16},
    {26, LM_I32},     {27, LM_I64},     {28, LM_F64},     {29, LM_IQ1_M},  {30, LM_BF16},   {34, LM_TQ1_0},
    {35, LM_TQ2_0},   {39, LM_MXFP4},   {40, LM_NVFP4},   {41, LM_Q1_0},   {42, LM_Q2_0},
};
enum { N_WIRE = sizeof wire / sizeof wire[0] };

/* Ids that were in use once and mean nothing now. */
static const struct {
    uint32_t id;
    const char *name;
} removed[] = {
    {4, "Q4_2"},      {5, "Q4_3"},       {31, "Q4_0_4_4"},   {32, "Q4_0_4_8"},
    {33, "Q4_0_8_8"}, {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"},
};

int lmi_gguf_type_id(enum lm_dtype d)
{
    for (size_t i = 0; i < N_WIRE; i++)
        if (wire[i].dtype == d)
            return (int)wire[i].id;
    return -1;
}

int lmi_gguf_dtype(uint32_t id, struct lm_err *e)
{
    for (size_t i = 0; i < N_WIRE; i++)
        if (wire[i].id == id)
            return (int)wire[i].dtype;
    for (size_t i = 0; i < sizeof removed / sizeof removed[0]; i++)
        if (removed[i].id == id)
            return lm_err_set(e, LM_UNSUPPORTED, "type %s (id %u) was removed from GGUF; quantize the original model "
                              "again", removed[i].name, id);
    return lm_err_set(e, LM_UNSUPPORTED, "type id %u is unknown", id);
}

bool lmi_gguf_alignment_ok(uint64_t a)
{
    return a >= 8 && a <= LMI_GGUF_MAX_ALIGNMENT && (a & (a - 1)) == 0;
}

static bool can_store(enum lm_dtype d)
{
    return lmi_gguf_type_id(d) >= 0;
}

/* Five digits at s, or -1. */
static int five_digits(const char *s)
{
    int v = 0;

    for (int i = 0; i < 5; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -1;
        v = v * 10 + (s[i] - '0');
    }
    return v;
}

bool lmi_gguf_split_name(const char *name, size_t *base_length, unsigned *no, unsigned *count)
{
    enum { TAIL = 1 + 5 + 4 + 5 + 5 }; /* "-00001-of-00003.gguf" */
    size_t n = strlen(name);

    if (n <= TAIL)
        return false;
    const char *tail = name + n - TAIL;
    int i = five_digits(tail + 1), of = tail[0] == '-' && memcmp(tail + 6, "-of-", 4) == 0 ? five_digits(tail + 10) : -1;
    if (strcmp(tail + 15, ".gguf") != 0 || of < 1 || i < 1 || i > of)
        return false;
    *base_length = n - TAIL;
    *no = (unsigned)i;
    *count = (unsigned)of;
    return true;
}

static int probe(struct lm_span f, const char *path)
{
    if (f.size >= 4 && memcmp(f.data, "GGUF", 4) == 0)
        return 100;
    return lmi_has_suffix(path, ".gguf") ? 10 : 0;
}

const struct lm_format lm_format_gguf = {
    .name = "gguf",
    .title = "GGUF",
    .probe = probe,
    .read = lmi_gguf_read,
    .layout = lmi_gguf_layout,
    .can_store = can_store,
    .carries = true,
};
