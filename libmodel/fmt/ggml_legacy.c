/* The ggml files of llama.cpp in 2023, before GGUF:
 * https://github.com/ggml-org/llama.cpp/blob/master/convert_llama_ggml_to_gguf.py
 *
 *   "lmgg" | "fmgg" u32 1 | "tjgg" u32 1..3        (the words ggml, ggmf, ggjt as u32)
 *   7 x u32: n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, file type
 *   n_vocab x { u32 n; n bytes; f32 score, but not in ggml }
 *   to the end: { u32 n_dims; u32 n_name; u32 type; u32 ne[n_dims], fastest first;
 *                 name; in ggjt zeros up to a multiple of 32; data }
 *
 * All little-endian; names and order of rows are Meta's. The blocks of quantized
 * types changed under the same numbers: until ggjt 2 scales are F32 (not in
 * Q4_2, Q4_3, Q5_0, Q5_1), until ggjt 1 neighbours share a byte. Both are read,
 * as F32. The programs for other models used the magic ggml too, each with a
 * header of its own: those are named and refused. */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/gguf.h"
#include "libmodel/fmt/llama_keys.h"
#include "libmodel/fmt/meta_names.h"
#include "libmodel/fmt/views.h"

enum { MAX_NAME = 4096, MAX_PARTS = 64, MAX_TENSORS = 65536, ALIGN = 32, N_RESERVED = 3, N_BYTES = 256 };

static const char again[] = "convert the original model again";

/* ---- blocks that are no type any more */

/* Codes of a block in natural order. Old: element 2j is the low half of byte j;
 * later: element j is, and element j + n / 2 the high one. */
static inline unsigned code(const uint8_t *q, unsigned i, unsigned n, bool paired)
{
    unsigned j = paired ? i / 2 : i % (n / 2);
    bool high = paired ? i % 2 : i >= n / 2;

    return high ? q[j] >> 4 : q[j] & 15u;
}

/* 5-bit codes have their highest bits apart, in the order of the elements. */
static inline unsigned code5(const uint8_t *high, const uint8_t *q, unsigned i, bool paired)
{
    return code(q, i, 32, paired) | (lm_load_u32le(high) >> i & 1) << 4;
}

#define DECODER(NAME, N, VALUE) \
    static void NAME(float *x, const uint8_t *b) \
    { \
        for (unsigned i = 0; i < N; i++) \
            x[i] = VALUE; \
    }
#define F32(at) lm_load_f32le(b + at)
#define F16(at) lm_f16_to_f32(lm_load_u16le(b + at))
DECODER(q4_0_paired, 32, ((float)code(b + 4, i, 32, true) - 8) * F32(0))
DECODER(q4_1_paired, 32, (float)code(b + 8, i, 32, true) * F32(0) + F32(4))
DECODER(q4_2_paired, 16, ((float)code(b + 2, i, 16, true) - 8) * F16(0))
DECODER(q4_3_paired, 16, (float)code(b + 4, i, 16, true) * F16(0) + F16(2))
DECODER(q5_0_paired, 32, ((float)code5(b + 2, b + 6, i, true) - 16) * F16(0))
DECODER(q5_1_paired, 32, (float)code5(b + 4, b + 8, i, true) * F16(0) + F16(2))
DECODER(q4_0_wide, 32, ((float)code(b + 4, i, 32, false) - 8) * F32(0))
DECODER(q4_1_wide, 32, (float)code(b + 8, i, 32, false) * F32(0) + F32(4))
DECODER(q8_0_wide, 32, (float)(int8_t)b[4 + i] * F32(0))
#undef DECODER
#undef F32
#undef F16

/* Until which version of ggjt (ggml and ggmf count as 1) from which one on. */
static const struct old_type {
    uint32_t id, since, until;
    const char *name;
    struct lmi_old_blocks blocks;
} old_types[] = {
    {2, 1, 1, "Q4_0", {32, 20, q4_0_paired}}, {3, 1, 1, "Q4_1", {32, 24, q4_1_paired}},
    {4, 1, 1, "Q4_2", {16, 10, q4_2_paired}}, {5, 1, 1, "Q4_3", {16, 12, q4_3_paired}},
    {6, 1, 1, "Q5_0", {32, 22, q5_0_paired}}, {7, 1, 1, "Q5_1", {32, 24, q5_1_paired}},
    {2, 2, 2, "Q4_0", {32, 20, q4_0_wide}},   {3, 2, 2, "Q4_1", {32, 24, q4_1_wide}},
    {8, 1, 2, "Q8_0", {32, 36, q8_0_wide}},
};

/* ---- header */

struct reader {
    struct lm_cursor c;
    struct lm_model *m;
    size_t file;
    const char *magic;         /* "ggjt" */
    uint32_t version, layout;  /* of ggmf and ggjt, 0 for ggml; whose blocks: 1, 2, 3 */
    uint32_t n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, ftype;
    struct lmi_view_list list;
    size_t n_old;
    const char *old_name;      /* a type among those */
    struct lm_err *e;
};

static const struct { const char *bytes, *name; uint32_t min, max; } magics[] = {
    {"lmgg", "ggml", 0, 0}, {"fmgg", "ggmf", 1, 1}, {"tjgg", "ggjt", 1, 3},
};

static const char *magic_of(struct lm_span f)
{
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++)
        if (f.size >= 4 && memcmp(f.data, magics[i].bytes, 4) == 0)
            return magics[i].name;
    return NULL;
}

static int cut_short(struct reader *r, const char *where)
{
    return lm_err_set(r->e, LM_MALFORMED, "the file ends inside %s: it is cut short or not completely downloaded", where);
}

/* A header that makes no sense as llama's is that of another program. */
static int another(struct reader *r)
{
    return lm_err_set(r->e, LM_UNSUPPORTED, "its header is not llama.cpp's: other programs (whisper.cpp, gpt-2, gpt-j …) used "
                      "the same magic with headers of their own; %s", again);
}

static int read_version(struct reader *r)
{
    struct lm_span m = lm_cur_bytes(&r->c, 4);
    size_t i = 0;

    while (memcmp(m.data, magics[i].bytes, 4) != 0) /* the probe has seen it */
        i++;
    r->magic = magics[i].name;
    r->version = magics[i].max ? lm_cur_u32(&r->c) : 0;
    if (r->c.failed)
        return cut_short(r, "the header");
    if (r->version < magics[i].min || r->version > magics[i].max)
        return lm_err_set(r->e, LM_UNSUPPORTED, "version %u is not known (%u to %u are); %s", r->version, magics[i].min,
                          magics[i].max, again);
    r->layout = magics[i].max == 3 ? r->version : 1;
    return 0;
}

static int read_numbers(struct reader *r)
{
    uint32_t *const fields[] = {&r->n_vocab, &r->n_embd, &r->n_mult, &r->n_head, &r->n_layer, &r->n_rot, &r->ftype};

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        *fields[i] = lm_cur_u32(&r->c);
    if (r->c.failed)
        return cut_short(r, "the header");
    if (!r->n_vocab || !r->n_embd || !r->n_head || !r->n_layer || r->n_embd % r->n_head || r->n_vocab > 1u << 20 ||
        r->n_embd > 1u << 20 || r->n_layer > 1u << 16)
        return another(r);
    return 0;
}

/* ---- vocabulary */

struct pieces {
    struct lm_span *texts;
    float *scores;
    int32_t *kinds;
};

/* As SentencePiece stores it: U+2581 for a space. */
static int mark_spaces(struct lm_arena *a, struct lm_span s, struct lm_span *out)
{
    static const char mark[] = "\xe2\x96\x81";
    uint8_t *text = lm_arena_alloc(a, s.size * 3 + 1);
    size_t n = 0;

    if (!text)
        return -1;
    for (size_t i = 0; i < s.size; i++) {
        bool space = s.data[i] == ' ';
        memcpy(text + n, space ? (const void *)mark : &s.data[i], space ? 3 : 1);
        n += space ? 3 : 1;
    }
    *out = lm_span_of(text, n);
    return 0;
}

/* The converters of the time wrote pieces as text: what kind they were must be
 * seen from their place, as in every llama vocabulary. */
static int take_piece(struct reader *r, struct lm_arena *a, struct pieces *p, uint32_t i, struct lm_span s)
{
    static const char *const reserved[N_RESERVED] = {"<unk>", "<s>", "</s>"};
    enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };
    char byte[8];

    p->kinds[i] = i == 0 ? UNKNOWN : i < N_RESERVED || s.size == 0 ? CONTROL : NORMAL;
    if (i < N_RESERVED) {
        p->texts[i] = lm_span_str(reserved[i]);
        return 0;
    }
    if (i < N_RESERVED + N_BYTES && s.size == 1 && s.data[0] == i - N_RESERVED) {
        p->kinds[i] = BYTE;
        snprintf(byte, sizeof byte, "<0x%02X>", s.data[0]);
        char *own = lm_arena_str(a, lm_span_str(byte));
        p->texts[i] = lm_span_str(own);
        return own ? 0 : lmi_nomem(r->e);
    }
    return mark_spaces(a, s, &p->texts[i]) < 0 ? lmi_nomem(r->e) : 0;
}

static int put_pieces(struct reader *r, const struct pieces *p)
{
    struct lm_meta *m = r->m->meta;
    uint32_t n = r->n_vocab;

    if (lm_meta_set_str(m, "tokenizer.ggml.model", lm_span_str("llama")) < 0 ||
        lm_meta_set_strs(m, "tokenizer.ggml.tokens", p->texts, n) < 0 ||
        lm_meta_set_array(m, "tokenizer.ggml.scores", LM_META_F32, p->scores, n) < 0 ||
        lm_meta_set_array(m, "tokenizer.ggml.token_type", LM_META_I32, p->kinds, n) < 0 ||
        lm_meta_set_u32(m, "tokenizer.ggml.bos_token_id", 1) < 0 || lm_meta_set_u32(m, "tokenizer.ggml.eos_token_id", 2) < 0 ||
        lm_meta_set_u32(m, "tokenizer.ggml.unknown_token_id", 0) < 0 ||
        lm_meta_set_bool(m, "tokenizer.ggml.add_bos_token", true) < 0)
        return lmi_nomem(r->e);
    return 0;
}

static int read_pieces(struct reader *r, struct lm_arena *a, struct pieces *p)
{
    for (uint32_t i = 0; i < r->n_vocab; i++) {
        struct lm_span s = lm_cur_bytes(&r->c, lm_cur_u32(&r->c));
        p->scores[i] = r->version ? lm_cur_f32(&r->c) : 0;
        if (r->c.failed)
            return r->version ? cut_short(r, "the vocabulary") : another(r);
        if (take_piece(r, a, p, i, s) < 0)
            return -1;
    }
    /* Without scores there is no way to say which pieces a text becomes. */
    return r->version && r->n_vocab > N_RESERVED ? put_pieces(r, p) : 0;
}

static int read_vocab(struct reader *r)
{
    struct lm_arena a = {0};
    struct pieces p;

    if (r->n_vocab > lm_cur_left(&r->c) / (r->version ? 8 : 4))
        return r->version ? lm_err_set(r->e, LM_MALFORMED, "%u pieces of a vocabulary cannot fit in the %zu bytes that follow",
                                       r->n_vocab, lm_cur_left(&r->c))
                          : another(r);
    p.texts = lm_arena_array(&a, r->n_vocab, sizeof *p.texts);
    p.scores = lm_arena_array(&a, r->n_vocab, sizeof *p.scores);
    p.kinds = lm_arena_array(&a, r->n_vocab, sizeof *p.kinds);
    int rc = p.texts && p.scores && p.kinds ? read_pieces(r, &a, &p) : lmi_nomem(r->e);
    lm_arena_free(&a);
    return rc;
}

/* ---- tensors */

static const struct old_type *find_old(const struct reader *r, uint32_t id)
{
    for (size_t i = 0; i < sizeof old_types / sizeof old_types[0]; i++)
        if (old_types[i].id == id && r->layout >= old_types[i].since && r->layout <= old_types[i].until)
            return &old_types[i];
    return NULL;
}

/* Type and bytes of the view, which has name and shape. */
static int set_type(struct reader *r, struct lmi_view *v, uint32_t id, uint64_t *n_bytes)
{
    const struct old_type *old = find_old(r, id);
    uint64_t n_elems;
    int dtype = old ? (int)LM_F32 : lmi_gguf_dtype(id, r->e);

    if (dtype < 0)
        return -1;
    v->dtype = (enum lm_dtype)dtype;
    if (lmi_tensor_measure(v->name, v->dtype, v->shape, v->n_dims, &n_elems, n_bytes, r->e) < 0)
        return -1;
    lmi_view_row_major(v);
    if (!old)
        return 0;
    v->quant = LMI_QUANT_BLOCKS;
    v->blocks = &old->blocks;
    r->n_old++;
    r->old_name = old->name;
    *n_bytes = n_elems / old->blocks.n_elems * old->blocks.n_bytes; /* less than n_elems floats */
    return 0;
}

static int read_data(struct reader *r, struct lmi_view *v, uint64_t n_bytes)
{
    struct lmi_blob *b = lm_arena_alloc(&r->m->arena, sizeof *b);

    if (!b)
        return lmi_nomem(r->e);
    if (strcmp(r->magic, "ggjt") == 0)
        lm_cur_bytes(&r->c, (ALIGN - r->c.pos % ALIGN) % ALIGN);
    *b = (struct lmi_blob){.file = r->file, .offset = r->c.pos, .n_stored = n_bytes, .n_bytes = n_bytes};
    v->blob = b;
    size_t left = lm_cur_left(&r->c);
    lm_cur_bytes(&r->c, n_bytes);
    if (r->c.failed)
        return lm_err_set(r->e, LM_MALFORMED, "%llu bytes of data, %zu are left in the file: it is cut short or not "
                          "completely downloaded", (unsigned long long)n_bytes, left);
    return 0;
}

static int read_shape(struct reader *r, struct lmi_view *v)
{
    for (unsigned i = v->n_dims; i-- > 0;)
        v->shape[i] = lm_cur_u32(&r->c);
    return r->c.failed ? cut_short(r, "a tensor's description") : 0;
}

static int read_tensor(struct reader *r)
{
    struct lmi_view *v = lmi_view_new(&r->list);
    uint64_t n_bytes = 0;

    if (!v)
        return lmi_nomem(r->e);
    v->n_dims = lm_cur_u32(&r->c);
    uint32_t n_name = lm_cur_u32(&r->c), type = lm_cur_u32(&r->c);
    if (r->c.failed)
        return cut_short(r, "a tensor's description");
    if (v->n_dims > LMI_GGUF_MAX_DIMS || n_name == 0 || n_name > MAX_NAME)
        return lm_err_set(r->e, LM_MALFORMED, "a tensor of %u dimensions with a name of %u bytes (at most %d, and 1 to %d)",
                          v->n_dims, n_name, LMI_GGUF_MAX_DIMS, MAX_NAME);
    if (read_shape(r, v) < 0)
        return -1;
    v->name = lm_cur_bytes(&r->c, n_name);
    if (r->c.failed)
        return cut_short(r, "a tensor's description");
    return set_type(r, v, type, &n_bytes) < 0 || read_data(r, v, n_bytes) < 0
               ? lm_err_prefix(r->e, "tensor '%.*s'", LMI_SHOW(v->name))
               : 0;
}

static const struct lmi_view *first_view(const struct reader *r, const char *name)
{
    for (size_t i = 0; i < r->list.n; i++)
        if (lm_span_eq(r->list.v[i].name, lm_span_str(name)))
            return &r->list.v[i];
    return NULL;
}

/* Before ggjt large models were several files, model.bin, model.bin.1 …, with a
 * slice of every matrix in each. */
static int check_whole(struct reader *r)
{
    const struct lmi_view *embd = first_view(r, "tok_embeddings.weight");

    if (!embd)
        return r->list.n ? another(r) : cut_short(r, "the tensors");
    if (embd->n_dims == 2 && embd->shape[1] && embd->shape[1] < r->n_embd && r->n_embd % embd->shape[1] == 0 &&
        r->n_embd / embd->shape[1] <= MAX_PARTS)
        return lm_err_set(r->e, LM_UNSUPPORTED, "this is one of %llu files, each with a slice of every matrix; they are not put "
                          "together: %s", (unsigned long long)(r->n_embd / embd->shape[1]), again);
    return 0;
}

static int read_tensors(struct reader *r)
{
    while (lm_cur_left(&r->c)) {
        if (r->list.n == MAX_TENSORS)
            return lm_err_set(r->e, LM_LIMIT, "more than %d tensors", MAX_TENSORS);
        if (read_tensor(r) < 0)
            return -1;
    }
    if (check_whole(r) < 0)
        return -1;
    return lmi_views_add(r->m, r->list.v, r->list.n, r->m->files[r->file].path, r->e);
}

/* ---- metadata */

static uint32_t rows_of(const struct lm_model *m, const char *name, uint32_t otherwise)
{
    const struct lm_tensor *t = lm_model_find(m, name);

    return t && t->n_dims == 2 && t->shape[0] <= INT32_MAX ? (uint32_t)t->shape[0] : otherwise;
}

/* The user gave the rest on the command line, or llama.cpp took these. */
static int set_meta(struct reader *r)
{
    uint32_t d_head = r->n_embd / r->n_head;
    struct lmi_llama_keys k = {
        .layers = r->n_layer, .dim = r->n_embd, .heads = r->n_head, .d_head = d_head, .vocab = r->n_vocab, .ctx = 2048,
        .hidden = rows_of(r->m, "blk.0.ffn_up.weight", 4 * r->n_embd), .norm_eps = 5e-6, .rope_theta = 10000,
        .kv_heads = rows_of(r->m, "blk.0.attn_k.weight", r->n_embd) / d_head,
        .assumed = "context_length 2048, attention.layer_norm_rms_epsilon 5e-6 and rope.freq_base 10000 (the file does not say; "
                   "those of llama.cpp at the time)",
    };
    char kind[32];

    snprintf(kind, sizeof kind, r->version ? "%s %u" : "%s", r->magic, r->version);
    if (lmi_put_llama_keys(r->m, &k, r->e) < 0)
        return -1;
    return lm_meta_set_str(r->m->meta, "ggml.kind", lm_span_str(kind)) < 0 ||
                   lm_meta_set_u32(r->m->meta, "ggml.file_type", r->ftype) < 0
               ? lmi_nomem(r->e)
               : 0;
}

/* What the reader of the list should know. */
static int note_old(struct reader *r)
{
    char text[200];

    if (!r->n_old)
        return 0;
    snprintf(text, sizeof text, "%zu tensors are stored in blocks of 2023 (%s …) that no type has now: read as F32", r->n_old,
             r->old_name);
    /* In its first days ggml moved the scales of a row without a new magic. */
    if (!r->version)
        r->m->refused = "quantized ggml files of March 2023 exist in two layouts that nothing tells apart; convert the original "
                        "model again";
    return lm_meta_set_str(r->m->meta, "ggml.old_blocks", lm_span_str(text)) < 0 ? lmi_nomem(r->e) : 0;
}

/* ---- the format */

static int read_all(struct reader *r)
{
    if (read_version(r) < 0 || read_numbers(r) < 0 || read_vocab(r) < 0 || read_tensors(r) < 0 || lmi_meta_rename(r->m, r->e) < 0)
        return -1;
    return set_meta(r) < 0 ? -1 : note_old(r);
}

static int read_path(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct reader r = {.m = m, .e = e};

    if (lm_model_add_file(m, path, &r.file, e) < 0)
        return -1;
    r.c = lm_cursor_of(m->files[r.file].map);
    m->sidecar_dir = NULL; /* a folder of such files belongs to none of them */
    int rc = read_all(&r);
    free(r.list.v);
    if (rc == 0)
        return 0;
    lm_err_prefix(e, "a ggml file of 2023, before GGUF (magic '%s')", magic_of(m->files[r.file].map));
    return lm_err_prefix(e, "%s", path);
}

static int probe(struct lm_span f, const char *path)
{
    (void)path;
    return magic_of(f) ? 100 : 0;
}

const struct lm_format lm_format_ggml_legacy = {
    .name = "ggml",
    .title = "ggml of 2023",
    .probe = probe,
    .read = read_path,
};
