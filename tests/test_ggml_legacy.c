/* The ggml files of 2023: every magic and version, every block layout against
 * values computed here, what they convert to, and damage with its reason. */
#include "tests/mutate.h"

#include "convert/convert.h"

enum { N_VOCAB = 300, N_EMBD = 64, N_HEAD = 4, N_LAYER = 2, N_FF = 96 };

/* ---- a model */

struct kind { const char *bytes; uint32_t version; };
static const struct kind kinds[] = {{"lmgg", 0}, {"fmgg", 1}, {"tjgg", 1}, {"tjgg", 2}, {"tjgg", 3}};
enum { N_KINDS = 5 };

static void put_f32(struct bytes *b, float f)
{
    put(b, &f, 4);
}

static void put_header(struct bytes *b, struct kind k, uint32_t ftype)
{
    const uint32_t numbers[] = {N_VOCAB, N_EMBD, 256, N_HEAD, N_LAYER, N_EMBD / N_HEAD, ftype};

    put(b, k.bytes, 4);
    if (k.version)
        put_u32(b, k.version);
    for (int i = 0; i < 7; i++)
        put_u32(b, numbers[i]);
    for (uint32_t i = 0; i < N_VOCAB; i++) {
        char text[16];
        size_t n = 1;
        if (i >= 3 && i < 259)
            text[0] = (char)(i - 3);
        else
            n = i == 0 ? (size_t)snprintf(text, sizeof text, " \xe2\x81\x87 ") : i < 3 ? 0 : (size_t)snprintf(text, sizeof text, " p%u", i);
        put_u32(b, (uint32_t)n);
        put(b, text, n);
        if (k.version)
            put_f32(b, -(float)i);
    }
}

static void put_tensor(struct bytes *b, struct kind k, const char *name, uint32_t type, uint64_t rows, uint64_t cols,
                       const void *data, size_t n)
{
    put_u32(b, rows ? 2 : 1);
    put_u32(b, (uint32_t)strlen(name));
    put_u32(b, type);
    put_u32(b, (uint32_t)cols);
    if (rows)
        put_u32(b, (uint32_t)rows);
    put_text(b, name);
    if (memcmp(k.bytes, "tjgg", 4) == 0)
        pad_to(b, 32);
    put(b, data, n);
}

static const struct { const char *name, *gguf; uint64_t rows, cols; } weights[] = {
    {"tok_embeddings.weight", "token_embd.weight", N_VOCAB, N_EMBD},
    {"norm.weight", "output_norm.weight", 0, N_EMBD},
    {"output.weight", "output.weight", N_VOCAB, N_EMBD},
    {"layers.%d.attention.wq.weight", "blk.%d.attn_q.weight", N_EMBD, N_EMBD},
    {"layers.%d.attention.wk.weight", "blk.%d.attn_k.weight", N_EMBD / 2, N_EMBD},
    {"layers.%d.attention.wv.weight", "blk.%d.attn_v.weight", N_EMBD / 2, N_EMBD},
    {"layers.%d.attention.wo.weight", "blk.%d.attn_output.weight", N_EMBD, N_EMBD},
    {"layers.%d.attention_norm.weight", "blk.%d.attn_norm.weight", 0, N_EMBD},
    {"layers.%d.feed_forward.w1.weight", "blk.%d.ffn_gate.weight", N_FF, N_EMBD},
    {"layers.%d.feed_forward.w2.weight", "blk.%d.ffn_down.weight", N_EMBD, N_FF},
    {"layers.%d.feed_forward.w3.weight", "blk.%d.ffn_up.weight", N_FF, N_EMBD},
    {"layers.%d.ffn_norm.weight", "blk.%d.ffn_norm.weight", 0, N_EMBD},
};
enum { N_WEIGHTS = sizeof weights / sizeof weights[0] };

/* Random blocks of a type (any bytes are blocks, but scales should be numbers), or floats. */
static uint64_t seed = 1;
static uint8_t random_byte(void)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint8_t)(seed >> 56);
}

struct layout { uint32_t id, n_elems, n_bytes, n_f32, n_f16; }; /* scales first */
static struct layout layout_of(struct kind k, uint32_t id)
{
    bool v1 = k.version < 2, wide = k.version < 3;
    switch (id) {
    case 0: return (struct layout){0, 1, 4, 1, 0};
    case 1: return (struct layout){1, 1, 2, 0, 1};
    case 2: return wide ? (struct layout){2, 32, 20, 1, 0} : (struct layout){2, 32, 18, 0, 1};
    case 3: return wide ? (struct layout){3, 32, 24, 2, 0} : (struct layout){3, 32, 20, 0, 2};
    case 4: return (struct layout){4, 16, 10, 0, 1};
    case 5: return (struct layout){5, 16, 12, 0, 2};
    case 6: return (struct layout){6, 32, 22, 0, 1};
    case 7: return (struct layout){7, 32, 24, 0, 2};
    default: break;
    }
    (void)v1;
    return wide ? (struct layout){8, 32, 36, 1, 0} : (struct layout){8, 32, 34, 0, 1};
}

static size_t make_data(uint8_t *dst, struct layout l, uint64_t n_elems)
{
    size_t n = (size_t)(n_elems / l.n_elems * l.n_bytes);

    for (size_t i = 0; i < n; i++) {
        size_t at = i % l.n_bytes;
        dst[i] = random_byte();
        if (at < 4 * l.n_f32 && at % 4 == 3)
            dst[i] = (uint8_t)(0x3c | (dst[i] & 0x81));
        else if (at >= 4 * l.n_f32 && at < 4 * l.n_f32 + 2 * l.n_f16 && at % 2 == 1)
            dst[i] = (uint8_t)(0x2c | (dst[i] & 0x83));
    }
    return n;
}

static void full_name(char out[64], const char *format, int layer)
{
    const char *at = strstr(format, "%d");

    if (at)
        snprintf(out, 64, "%.*s%d%s", (int)(at - format), format, layer, at + 2);
    else
        snprintf(out, 64, "%s", format);
}

/* All matrices of one type, vectors F32, as the converters of the time did. */
static void put_model(struct bytes *b, struct kind k, uint32_t type)
{
    uint8_t *data = malloc(N_VOCAB * N_EMBD * 8);
    char name[64];

    seed = 1;
    put_header(b, k, type);
    for (int layer = 0; layer < N_LAYER; layer++)
        for (size_t i = layer ? 3 : 0; i < N_WEIGHTS; i++) {
            uint32_t id = weights[i].rows ? type : 0;
            size_t n = make_data(data, layout_of(k, id), (weights[i].rows ? weights[i].rows : 1) * weights[i].cols);
            full_name(name, weights[i].name, layer);
            put_tensor(b, k, name, id, weights[i].rows, weights[i].cols, data, n);
        }
    free(data);
}

/* ---- values */

static float f32_at(const uint8_t *p) { float f; memcpy(&f, p, 4); return f; }
static float f16_at(const uint8_t *p) { return lm_f16_to_f32(lm_load_u16le(p)); }

/* Element i of a block, said another way than in the reader: the two elements of
 * a byte are a pair of neighbours, or half a block apart. */
static float expected(const uint8_t *b, struct kind k, struct layout l, unsigned i)
{
    bool pairs = k.version < 2;
    unsigned head = 4 * l.n_f32 + 2 * l.n_f16, half = l.n_elems / 2;
    float d = l.n_f32 ? f32_at(b) : f16_at(b), m = l.n_f32 == 2 ? f32_at(b + 4) : l.n_f16 == 2 ? f16_at(b + 2) : 0;
    const uint8_t *q = b + head + (l.id == 6 || l.id == 7 ? 4 : 0);
    int v;

    if (l.id < 2)
        return d;
    if (l.id == 8)
        return (float)(int8_t)q[i] * d;
    if (pairs)
        v = i & 1 ? q[i >> 1] >> 4 : q[i >> 1] % 16;
    else
        v = i < half ? q[i] % 16 : q[i - half] / 16;
    if (l.id == 6 || l.id == 7)
        v += b[head + i / 8] & 1 << i % 8 ? 16 : 0;
    if (l.id == 3 || l.id == 5 || l.id == 7)
        return (float)v * d + m;
    return (float)(v - (l.id == 6 ? 16 : 8)) * d;
}

static void check_values(struct lm_model *m, struct kind k, uint32_t type)
{
    uint8_t *data = malloc(N_VOCAB * N_EMBD * 8);
    float x[128];
    char name[64];

    seed = 1;
    for (int layer = 0; layer < N_LAYER; layer++)
        for (size_t i = layer ? 3 : 0; i < N_WEIGHTS; i++) {
            struct layout l = layout_of(k, weights[i].rows ? type : 0);
            uint64_t rows = weights[i].rows ? weights[i].rows : 1, cols = weights[i].cols;
            make_data(data, l, rows * cols);
            full_name(name, weights[i].gguf, layer);
            const struct lm_tensor *t = lm_model_find(m, name);
            if (!t)
                fail_msg("no %s", name);
            assert_int_equal(t->n_elems, rows * cols);
            assert_int_equal(t->shape[t->n_dims - 1], cols);
            for (uint64_t r = 0; r < rows; r++) {
                assert_int_equal(lm_tensor_to_f32(t, r * cols, cols, x, NULL), 0);
                for (uint64_t c = 0; c < cols; c++) {
                    uint64_t at = r * cols + c;
                    float want = expected(data + at / l.n_elems * l.n_bytes, k, l, (unsigned)(at % l.n_elems));
                    if (memcmp(&want, &x[c], 4) != 0)
                        fail_msg("%.4s %u type %u: %s[%d] is %g, expected %g", k.bytes, k.version, type, name, (int)at,
                                 (double)x[c], (double)want);
                }
            }
        }
    free(data);
}

static bool exists(struct kind k, uint32_t type)
{
    return type < 4 || type > 5 || k.version < 2;
}

static void every_layout_gives_its_values(void **state)
{
    (void)state;
    size_t n = 0;

    for (size_t k = 0; k < N_KINDS; k++)
        for (uint32_t type = 0; type <= 8; type++) {
            struct bytes b = {0};
            const char *path = path_in(dir, "m.bin");
            struct lm_model *m;
            struct lm_err e = {0};
            if (!exists(kinds[k], type))
                continue;
            put_model(&b, kinds[k], type);
            write_file(path, b.data, b.n);
            bytes_free(&b);
            bool unknown_order = !kinds[k].version && type > 1;
            if (unknown_order) {
                open_fails(path, LM_UNSUPPORTED, "two layouts that nothing tells apart");
                assert_int_equal(lm_model_open_headers(&m, path, &e), 0);
                assert_int_equal(lm_model_n_tensors(m), 3 + 9 * N_LAYER);
            } else {
                m = open_ok(path);
                check_values(m, kinds[k], type);
                n++;
            }
            lm_model_close(m);
        }
    assert_int_equal(n, 34);
}

static void removed_types_are_named(void **state)
{
    (void)state;
    struct bytes b = {0};
    struct kind k = {"tjgg", 3};

    put_header(&b, k, 4);
    put_tensor(&b, k, "tok_embeddings.weight", 4, N_VOCAB, N_EMBD, b.data, 100);
    write_file(path_in(dir, "m.bin"), b.data, b.n);
    open_fails(path_in(dir, "m.bin"), LM_UNSUPPORTED, "type Q4_2 (id 4) was removed");
    bytes_free(&b);
}

/* ---- what it says and becomes */

static void keys_and_vocabulary(void **state)
{
    (void)state;
    struct bytes b = {0};
    struct lm_config c;
    struct lm_vocab *v;
    struct lm_err e = {0};
    struct lm_span s;

    put_model(&b, kinds[4], 1);
    write_file(path_in(dir, "m.bin"), b.data, b.n);
    struct lm_model *m = open_ok(path_in(dir, "m.bin"));
    assert_int_equal(lm_config_read(&c, m, NULL, &e), 1);
    assert_int_equal(c.d_model, N_EMBD);
    assert_int_equal(c.n_layers, N_LAYER);
    assert_int_equal(c.n_heads, N_HEAD);
    assert_int_equal(c.n_kv_heads, N_HEAD / 2);
    assert_int_equal(c.d_ff, N_FF);
    assert_int_equal(lm_meta_get_str(lm_model_meta(m), LM_META_ASSUMED, &s, &e), 1);
    assert_non_null(memmem(s.data, s.size, "context_length 2048", 19));
    assert_int_equal(lm_meta_get_str(lm_model_meta(m), "ggml.kind", &s, &e), 1);
    assert_true(lm_span_eq(s, lm_span_str("ggjt 3")));
    assert_int_equal(lm_vocab_of_model(&v, m, &e), 1);
    struct lm_binding *bind;
    assert_int_equal(lm_bind(&bind, m, &e), 0);
    assert_int_equal(bind->n_unknown, 0);
    lm_binding_free(bind);
    lm_vocab_free(v);
    const struct lm_meta_value *tokens = lm_meta_get(lm_model_meta(m), "tokenizer.ggml.tokens");
    assert_true(lm_span_eq(tokens->strs[0], lm_span_str("<unk>")));
    assert_true(lm_span_eq(tokens->strs[3], lm_span_str("<0x00>")));
    assert_true(lm_span_eq(tokens->strs[258], lm_span_str("<0xFF>")));
    assert_true(lm_span_eq(tokens->strs[299], lm_span_str("\xe2\x96\x81p299")));
    lm_model_close(m);
    bytes_free(&b);
}

static void converts(void **state)
{
    (void)state;
    struct bytes b = {0};
    struct lm_request req = {.to = lm_format_find("gguf"), .dtype = -1};
    struct lm_run_options o = {.n_threads = 1};
    struct lm_plan *p;
    struct lm_err e = {0};
    bool noted = false;

    put_model(&b, kinds[2], 2);
    write_file(path_in(dir, "m.bin"), b.data, b.n);
    struct lm_model *m = open_ok(path_in(dir, "m.bin"));
    assert_int_equal(lm_plan_make(&p, m, &req, &e), 0);
    for (size_t i = 0; i < p->n_notes; i++)
        noted |= strncmp(p->notes[i], "assumed: ", 9) == 0;
    assert_true(noted);
    if (lm_plan_run(p, path_in(dir, "m.gguf"), &o, &e) < 0)
        fail_msg("%s", e.text);
    lm_plan_free(p);
    lm_model_close(m);
    m = open_ok(path_in(dir, "m.gguf"));
    check_values(m, kinds[2], 2);
    lm_model_close(m);
    bytes_free(&b);
}

/* ---- damage */

static void poke(size_t at, uint32_t v, enum lm_code code, const char *reason)
{
    struct bytes b = {0};

    put_model(&b, kinds[4], 2);
    lm_store_u32le(b.data + at, v);
    write_file(path_in(dir, "bad.bin"), b.data, b.n);
    open_fails(path_in(dir, "bad.bin"), code, reason);
    bytes_free(&b);
}

static void damage_has_its_reason(void **state)
{
    (void)state;
    struct bytes b = {0};
    const char *path = path_in(dir, "bad.bin");

    poke(4, 0, LM_UNSUPPORTED, "version 0 is not known (1 to 3 are)");
    poke(4, 4, LM_UNSUPPORTED, "version 4 is not known");
    poke(8, 0, LM_UNSUPPORTED, "its header is not llama.cpp's");
    poke(8, UINT32_MAX, LM_UNSUPPORTED, "its header is not llama.cpp's");
    poke(8, 1u << 20, LM_MALFORMED, "1048576 pieces of a vocabulary cannot fit");
    poke(12, 0, LM_UNSUPPORTED, "its header is not llama.cpp's");
    poke(20, 0, LM_UNSUPPORTED, "its header is not llama.cpp's");
    poke(20, 7, LM_UNSUPPORTED, "its header is not llama.cpp's");
    poke(24, 0, LM_UNSUPPORTED, "its header is not llama.cpp's");
    poke(12, 2 * N_EMBD, LM_UNSUPPORTED, "this is one of 2 files");
    poke(36, UINT32_MAX, LM_MALFORMED, "inside the vocabulary");

    struct bytes head = {0};
    put_header(&head, kinds[4], 2);
    size_t t = head.n; /* u32 n_dims, n_name, type, ne0, ne1, name */
    poke(t, 5, LM_MALFORMED, "a tensor of 5 dimensions");
    poke(t + 4, 5000, LM_MALFORMED, "a name of 5000 bytes");
    poke(t + 4, 0, LM_MALFORMED, "a name of 0 bytes");
    poke(t + 8, 99, LM_UNSUPPORTED, "type id 99 is unknown");
    poke(t + 12, N_EMBD - 1, LM_MALFORMED, "whole");
    poke(t + 12, UINT32_MAX - 31, LM_MALFORMED, "cut short or not completely downloaded");
    poke(t + 16, UINT32_MAX, LM_MALFORMED, "cut short or not completely downloaded");
    bytes_free(&head);

    put_model(&b, kinds[4], 2);
    write_file(path, b.data, b.n - 1);
    open_fails(path, LM_MALFORMED, "tensor 'layers.1.ffn_norm.weight': 256 bytes of data, 255 are left in the file");
    put_u8(&b, 0);
    write_file(path, b.data, b.n);
    open_fails(path, LM_MALFORMED, "inside a tensor's description");
    b.n = 0;
    put_header(&b, kinds[4], 2);
    write_file(path, b.data, b.n);
    open_fails(path, LM_MALFORMED, "inside the tensors");
    b.n = 0;
    put_header(&b, kinds[0], 0);
    put_tensor(&b, kinds[0], "encoder.conv1.weight", 0, 0, 4, "0123456789abcdef", 16);
    write_file(path, b.data, b.n);
    open_fails(path, LM_UNSUPPORTED, "its header is not llama.cpp's");
    bytes_free(&b);
    write_file(path, "lmgg\1\0\0\0", 8);
    open_fails(path, LM_MALFORMED, "a ggml file of 2023, before GGUF (magic 'ggml'): the file ends inside the header");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_gives_its_values),
        cmocka_unit_test(removed_types_are_named),
        cmocka_unit_test(keys_and_vocabulary),
        cmocka_unit_test(converts),
        cmocka_unit_test(damage_has_its_reason),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
