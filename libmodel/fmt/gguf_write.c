/* Version 3, little-endian, tensors in the order given and without gaps, as
 * llama.cpp's loader demands. */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/gguf.h"

static void put_str(struct lmi_buffer *b, struct lm_span s)
{
    lmi_put_u64(b, s.size);
    lmi_put(b, s.data, s.size);
}

static void put_f32(struct lmi_buffer *b, float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof u);
    lmi_put_u32(b, u);
}

static void put_f64(struct lmi_buffer *b, double f)
{
    uint64_t u;

    memcpy(&u, &f, sizeof u);
    lmi_put_u64(b, u);
}

static void put_scalar(struct lmi_buffer *b, const struct lm_meta_value *v)
{
    uint8_t byte;

    switch (v->type) {
    case LM_META_U8:
    case LM_META_BOOL:
        byte = (uint8_t)v->u;
        lmi_put(b, &byte, 1);
        break;
    case LM_META_I8:
        byte = (uint8_t)v->i;
        lmi_put(b, &byte, 1);
        break;
    case LM_META_U16: lmi_put_u16(b, (uint16_t)v->u); break;
    case LM_META_I16: lmi_put_u16(b, (uint16_t)v->i); break;
    case LM_META_U32: lmi_put_u32(b, (uint32_t)v->u); break;
    case LM_META_I32: lmi_put_u32(b, (uint32_t)v->i); break;
    case LM_META_U64: lmi_put_u64(b, v->u); break;
    case LM_META_I64: lmi_put_u64(b, (uint64_t)v->i); break;
    case LM_META_F32: put_f32(b, (float)v->f); break;
    case LM_META_F64: put_f64(b, v->f); break;
    case LM_META_STR: put_str(b, v->str); break;
    case LM_META_ARRAY:
    case LM_META_N_TYPES: break;
    }
}

static void put_array(struct lmi_buffer *b, const struct lm_meta_value *v)
{
    size_t width = lm_meta_width(v->elem);

    lmi_put_u32(b, v->elem);
    lmi_put_u64(b, v->n);
    if (v->elem == LM_META_STR) {
        for (size_t i = 0; i < v->n; i++)
            put_str(b, v->strs[i]);
        return;
    }
    if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ || width == 1) {
        lmi_put(b, v->data, v->n * width);
        return;
    }
    const uint8_t *data = v->data;
    for (size_t i = 0; i < v->n; i++)
        for (size_t j = width; j-- > 0;)
            lmi_put(b, data + i * width + j, 1);
}

static void put_pair(struct lmi_buffer *b, const char *key, const struct lm_meta_value *v)
{
    put_str(b, lm_span_str(key));
    lmi_put_u32(b, v->type);
    if (v->type == LM_META_ARRAY)
        put_array(b, v);
    else
        put_scalar(b, v);
}

/* ---- checks */

static int find_alignment(const struct lm_meta *meta, uint64_t *alignment, struct lm_err *e)
{
    const struct lm_meta_value *v = meta ? lm_meta_get(meta, "general.alignment") : NULL;

    *alignment = LMI_GGUF_ALIGNMENT;
    if (!v)
        return 0;
    if (v->type != LM_META_U32 || !lmi_gguf_alignment_ok(v->u))
        return lm_err_set(e, LM_USAGE, "general.alignment must be a u32, a power of two from 8 to %d",
                          LMI_GGUF_MAX_ALIGNMENT);
    *alignment = v->u;
    return 0;
}

/* Programs that read GGUF keep names in 64 bytes and sizes in four numbers, and
 * llama.cpp until 2026 divided by the sizes. A name is never cut: two could
 * become one. */
static int check_tensor(const struct lm_write_tensor *t, uint64_t n_bytes, struct lm_err *e)
{
    if (strlen(t->name) > LMI_GGUF_MAX_NAME)
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%.200s': the name has %zu bytes, GGUF allows %d", t->name,
                          strlen(t->name), LMI_GGUF_MAX_NAME);
    if (t->n_dims > LMI_GGUF_MAX_DIMS)
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' has %u dimensions, GGUF allows %d", t->name, t->n_dims,
                          LMI_GGUF_MAX_DIMS);
    if (n_bytes == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' has no elements; programs that read GGUF divide by its sizes and "
                          "crash, leave it out", t->name);
    return 0;
}

/* Bytes to padded bytes, in place. */
static int check_and_pad(const struct lm_write_spec *spec, uint64_t *sizes, uint64_t alignment, struct lm_err *e)
{
    for (size_t i = 0; i < spec->n_tensors; i++) {
        if (check_tensor(&spec->tensors[i], sizes[i], e) < 0)
            return -1;
        if (!lm_align_up_u64(sizes[i], alignment, &sizes[i]))
            return lm_err_set(e, LM_LIMIT, "tensor '%s': its size overflows 64 bits", spec->tensors[i].name);
    }
    return 0;
}

/* ---- head */

static bool is_split_key(const char *key)
{
    return strcmp(key, "split.no") == 0 || strcmp(key, "split.count") == 0 || strcmp(key, "split.tensors.count") == 0;
}

static uint64_t put_pairs(struct lmi_buffer *b, const struct lm_write_spec *spec, size_t file, size_t n_files)
{
    uint64_t n = 0;
    const char *key;

    for (size_t i = 0; spec->meta && i < lm_meta_count(spec->meta); i++) {
        const struct lm_meta_value *v = lm_meta_at(spec->meta, i, &key);
        /* The alignment must be known in every part. */
        if (is_split_key(key) || (file > 0 && strcmp(key, "general.alignment") != 0))
            continue;
        put_pair(b, key, v);
        n++;
    }
    if (n_files == 1)
        return n;
    put_pair(b, "split.no", &(struct lm_meta_value){.type = LM_META_U16, .u = file});
    put_pair(b, "split.count", &(struct lm_meta_value){.type = LM_META_U16, .u = n_files});
    put_pair(b, "split.tensors.count", &(struct lm_meta_value){.type = LM_META_I32, .i = (int64_t)spec->n_tensors});
    return n + 3;
}

void lmi_gguf_put_pairs(struct lmi_buffer *b, const struct lm_meta *meta)
{
    const char *key;

    lmi_put_str(b, "GGUF");
    lmi_put_u32(b, 3);
    lmi_put_u64(b, 0);
    lmi_put_u64(b, lm_meta_count(meta));
    for (size_t i = 0; i < lm_meta_count(meta); i++) {
        const struct lm_meta_value *v = lm_meta_at(meta, i, &key);
        put_pair(b, key, v);
    }
}

static void put_tensor(struct lmi_buffer *b, const struct lm_write_tensor *t, uint64_t offset)
{
    put_str(b, lm_span_str(t->name));
    lmi_put_u32(b, t->n_dims ? t->n_dims : 1);
    for (unsigned i = t->n_dims; i-- > 0;)
        lmi_put_u64(b, t->shape[i]);
    if (t->n_dims == 0)
        lmi_put_u64(b, 1);
    lmi_put_u32(b, (uint32_t)lmi_gguf_type_id(t->dtype));
    lmi_put_u64(b, offset);
}

/* Tensors [*next, …) that belong to this file; moves *next behind them. */
static int layout_file(struct lm_layout *out, const struct lm_write_spec *spec, const uint64_t *padded, size_t file,
                       size_t *next, uint64_t alignment, struct lm_err *e)
{
    struct lmi_buffer b = {0};
    uint64_t pos = 0, n_bytes, head_end;
    size_t first = *next;

    lmi_put_str(&b, "GGUF");
    lmi_put_u32(&b, 3);
    lmi_put_u64(&b, 0);
    lmi_put_u64(&b, 0);
    uint64_t n_kv = put_pairs(&b, spec, file, out->n_files);
    for (; *next < spec->n_tensors && out->places[*next].file == file; ++*next) {
        put_tensor(&b, &spec->tensors[*next], pos);
        out->places[*next].offset = pos;
        pos += padded[*next]; /* fits: lmi_layout_split */
    }
    out->files[file].head = b.data;
    out->files[file].n_head = b.n;
    if (b.failed)
        return lmi_nomem(e);
    lm_store_u64le(b.data + 8, *next - first);
    lm_store_u64le(b.data + 16, n_kv);
    if (!lm_align_up_u64(b.n, alignment, &head_end) || !lm_add_u64(head_end, pos, &n_bytes))
        return lm_err_set(e, LM_LIMIT, "the file's size overflows 64 bits");
    for (size_t i = first; i < *next; i++)
        out->places[i].offset += head_end;
    out->files[file].n_bytes = n_bytes;
    return 0;
}

static char *file_name(const char *base, size_t i, size_t n)
{
    size_t stem = strlen(base) - (lmi_has_suffix(base, ".gguf") ? 5 : 0);
    char *name = NULL;

    if (n == 1)
        return strdup(base);
    return asprintf(&name, "%.*s-%05zu-of-%05zu.gguf", (int)stem, base, i + 1, n) < 0 ? NULL : name;
}

static int layout_files(struct lm_layout *out, const struct lm_write_spec *spec, const uint64_t *padded, const char *base,
                        uint64_t alignment, struct lm_err *e)
{
    size_t next = 0;

    if (lmi_layout_split(out, spec, padded, e) < 0)
        return -1;
    if (out->n_files > UINT16_MAX || spec->n_tensors > INT32_MAX)
        return lm_err_set(e, LM_LIMIT, "%zu files of %zu tensors: GGUF counts at most %d files; split less", out->n_files,
                          spec->n_tensors, UINT16_MAX);
    for (size_t f = 0; f < out->n_files; f++) {
        out->files[f].name = file_name(base, f, out->n_files);
        if (!out->files[f].name)
            return lmi_nomem(e);
        if (layout_file(out, spec, padded, f, &next, alignment, e) < 0)
            return -1;
    }
    return 0;
}

int lmi_gguf_layout(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e)
{
    uint64_t alignment;

    *out = (struct lm_layout){0};
    if (find_alignment(spec->meta, &alignment, e) < 0)
        return -1;
    uint64_t *sizes = lmi_layout_sizes(spec, &lm_format_gguf, e);
    int rc = sizes ? check_and_pad(spec, sizes, alignment, e) : -1;
    if (rc == 0)
        rc = layout_files(out, spec, sizes, base, alignment, e);
    free(sizes);
    if (rc < 0)
        lm_layout_free(out);
    return rc;
}
