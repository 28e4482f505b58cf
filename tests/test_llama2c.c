/* llama2.c checkpoints of all three versions, made here, and their tokenizer. */
#include "tests/files.h"

#include <math.h>

#include "libmodel/libmodel.h"

enum { DIM = 8, HIDDEN = 12, LAYERS = 2, HEADS = 2, KV_HEADS = 1, VOCAB = 262, CTX = 16, GROUP = 4, V1 = 256 };

static const struct { const char *name; size_t rows, columns; bool norm; } weights[] = {
    {"token_embd.weight", VOCAB, DIM, false}, {"blk.%d.attn_norm.weight", 1, DIM, true},
    {"blk.%d.attn_q.weight", DIM, DIM, false}, {"blk.%d.attn_k.weight", DIM / 2, DIM, false},
    {"blk.%d.attn_v.weight", DIM / 2, DIM, false}, {"blk.%d.attn_output.weight", DIM, DIM, false},
    {"blk.%d.ffn_norm.weight", 1, DIM, true}, {"blk.%d.ffn_gate.weight", HIDDEN, DIM, false},
    {"blk.%d.ffn_down.weight", DIM, HIDDEN, false}, {"blk.%d.ffn_up.weight", HIDDEN, DIM, false},
    {"output_norm.weight", 1, DIM, true}, {"output.weight", VOCAB, DIM, false},
};
/* Places in weights[]; -1 the rotary tables. */
static const int order0[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, -1, 11}, order1[] = {1, 6, 10, 0, 2, 3, 4, 5, 7, 8, 9, 11};

/* Element i of a weight; multiples of 1/127 of a power of two per group, so that version 2 holds them exactly. */
static int8_t level(int w, int layer, size_t i)
{
    return (int8_t)((i * 37 + (size_t)w * 11 + (size_t)layer * 5) % 255 - 127);
}
static float scale(int w, size_t group)
{
    return ldexpf(1, -(int)((group + (size_t)w) % 5) - 3);
}
static float value(int w, int layer, size_t i)
{
    return (float)level(w, layer, i) * scale(w, i / GROUP);
}

static void put_f32(struct bytes *b, float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    put_u32(b, u);
}

static void put_weight(struct bytes *b, int w, bool quantized)
{
    bool layered = strchr(weights[w].name, '%');
    size_t n = weights[w].rows * weights[w].columns;

    for (int l = 0; l < (layered ? LAYERS : 1); l++) {
        for (size_t i = 0; i < n; i++)
            quantized && !weights[w].norm ? put_u8(b, (uint8_t)level(w, l, i)) : put_f32(b, value(w, l, i));
        for (size_t g = 0; quantized && !weights[w].norm && g < n / GROUP; g++)
            put_f32(b, scale(w, g));
    }
}

static void put_model(struct bytes *b, int version, bool shared)
{
    static const uint32_t numbers[] = {DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, CTX};
    const int *order = version ? order1 : order0;

    if (version) {
        put_text(b, "24ka");
        put_u32(b, (uint32_t)version);
    }
    for (int i = 0; i < 7; i++)
        put_u32(b, i == 5 && !version && !shared ? (uint32_t)-VOCAB : numbers[i]);
    if (version)
        put_u8(b, shared);
    if (version == 2)
        put_u32(b, GROUP);
    if (version)
        put_zeros(b, V1 - b->n);
    for (size_t i = 0; i < (version ? 12 : 13); i++) {
        if (order[i] == 11 && shared)
            continue;
        if (order[i] < 0)
            put_zeros(b, CTX * (DIM / HEADS) * 4);
        else
            put_weight(b, order[i], version == 2);
    }
}

static void put_tokenizer(struct bytes *b, int n)
{
    put_u32(b, 10);
    for (int i = 0; i < n; i++) {
        char text[20];
        if (i == 0 || i > 258)
            snprintf(text, sizeof text, i == 0 ? "<unk>" : i == 259 ? " " : i == 260 ? "a" : i == 261 ? " a" : "more%d", i);
        else if (i < 3)
            snprintf(text, sizeof text, i == 1 ? "\n<s>\n" : "\n</s>\n");
        else
            snprintf(text, sizeof text, "<0x%02X>", i - 3);
        put_f32(b, i > 258 ? (float)-i : 0);
        put_u32(b, (uint32_t)strlen(text));
        put_text(b, text);
    }
}

static const char *save(const struct bytes *b, const char *name)
{
    const char *path = path_in(dir, name);
    write_file(path, b->data, b->n);
    return path;
}

static void all_versions_hold_the_same_values(void **state)
{
    (void)state;

    for (int version = 0; version < 3; version++) {
        for (int shared = 0; shared < 2; shared++) {
            struct bytes b = {0};
            put_model(&b, version, shared);
            struct lm_model *m = open_ok(save(&b, "model.bin"));
            assert_string_equal(lm_model_format(m)->name, "llama2c");
            assert_int_equal(lm_model_n_tensors(m), 9 * LAYERS + 2 + !shared);
            for (int w = 0; w < 12 - shared; w++) {
                bool layered = strchr(weights[w].name, '%');
                for (int l = 0; l < (layered ? LAYERS : 1); l++) {
                    char name[64];
                    snprintf(name, sizeof name, "blk.%d%s", l, weights[w].name + 6);
                    const struct lm_tensor *t = lm_model_find(m, layered ? name : weights[w].name);
                    assert_non_null(t);
                    size_t n = weights[w].rows * weights[w].columns;
                    assert_int_equal(t->n_elems, n);
                    assert_int_equal(t->dtype, LM_F32);
                    assert_int_equal(t->shape[0], weights[w].norm ? DIM : weights[w].rows);
                    for (size_t i = 0; i < n; i++)
                        assert_true(lm_load_f32le(t->data + 4 * i) == value(w, l, i));
                }
            }
            lm_model_close(m);
            bytes_free(&b);
        }
    }
}

static void it_is_a_llama_with_adjacent_pairs(void **state)
{
    (void)state;
    struct bytes b = {0}, t = {0};
    struct lm_err e = {0};
    struct lm_binding *bind;
    struct lm_vocab *v;

    put_model(&b, 0, true);
    put_tokenizer(&t, VOCAB);
    save(&t, "tokenizer.bin");
    struct lm_model *m = open_ok(save(&b, "model.bin"));
    if (lm_bind(&bind, m, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(bind->rope, LM_ROPE_ADJACENT);
    assert_int_equal(bind->config.d_head, DIM / HEADS);
    assert_int_equal(bind->config.n_kv_heads, KV_HEADS);
    assert_true(bind->config.tied);
    lm_binding_free(bind);
    assert_int_equal(lm_vocab_of_model(&v, m, &e), 1);
    assert_int_equal(v->n_pieces, VOCAB);
    assert_true(lm_span_eq(v->pieces[1].text, lm_span_str("<s>")));
    assert_true(lm_span_eq(v->pieces[259].text, lm_span_str("\xe2\x96\x81")));
    assert_true(lm_span_eq(v->pieces[261].text, lm_span_str("\xe2\x96\x81" "a")));
    assert_int_equal(v->pieces[13].kind, LM_PIECE_BYTE);
    assert_int_equal(v->bos_id, 1);
    lm_vocab_free(v);
    lm_model_close(m);

    /* One that does not fit is left aside, and said so. */
    t.n = 0;
    put_tokenizer(&t, VOCAB - 1);
    save(&t, "tokenizer.bin");
    m = open_ok(path_in(dir, "model.bin"));
    assert_int_equal(lm_vocab_of_model(&v, m, &e), 0);
    struct lm_span note = {0};
    lm_meta_get_str(lm_model_meta(m), "llama2c.tokenizer", &note, &e);
    assert_non_null(memmem(note.data, note.size, "does not hold the 262 pieces", 28));
    lm_model_close(m);
    unlink(path_in(dir, "tokenizer.bin"));
    bytes_free(&b);
    bytes_free(&t);
}

static const struct { size_t at; uint32_t value; enum lm_code code; const char *reason; } headers[] = {
    {4, 3, LM_UNSUPPORTED, "version 3"},
    {8, 0, LM_MALFORMED, "zero or negative"},
    {8, UINT32_MAX, LM_MALFORMED, "zero or negative"},
    {8, 9, LM_MALFORMED, "do not divide"},
    {8, 10, LM_MALFORMED, "do not divide"}, /* heads of 5 */
    {16, 3, LM_MALFORMED, "describes a file of"},
    {16, 0x7fffffff, LM_MALFORMED, "more layers than"},
    {20, 3, LM_MALFORMED, "do not divide"},
    {24, 3, LM_MALFORMED, "do not divide"},
    {28, 100, LM_MALFORMED, "bytes follow the last tensor"},
    {28, 1000, LM_MALFORMED, "cut short"},
    {36, 2 | GROUP << 8, LM_MALFORMED, "neither 0 nor 1"},
    {37, 0, LM_MALFORMED, "group size is zero"},
    {37, UINT32_MAX, LM_MALFORMED, "group size is zero or negative"},
    {37, 5, LM_MALFORMED, "not whole groups"},
    {100, 1, LM_MALFORMED, "not zero"},
};

static void bad_headers_are_refused(void **state)
{
    (void)state;
    struct bytes b = {0};

    put_model(&b, 2, true);
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        uint8_t saved[4];
        memcpy(saved, b.data + headers[i].at, 4);
        lm_store_u32le(b.data + headers[i].at, headers[i].value);
        open_fails(save(&b, "bad.bin"), headers[i].code, headers[i].reason);
        memcpy(b.data + headers[i].at, saved, 4);
    }
    for (size_t n = 4; n < b.n; n += n < 300 ? 1 : 37) {
        struct bytes part = {b.data, n, n};
        open_fails(save(&part, "bad.bin"), LM_MALFORMED, "cut short");
    }
    bytes_free(&b);
    put_model(&b, 0, true);
    b.n--;
    open_fails(save(&b, "bad.bin"), LM_MALFORMED, "cut short or not completely downloaded");
    open_fails(save(&b, "bad.dat"), LM_UNSUPPORTED, "not a model in a known format"); /* version 0 is known by its size */
    bytes_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_versions_hold_the_same_values),
        cmocka_unit_test(it_is_a_llama_with_adjacent_pairs),
        cmocka_unit_test(bad_headers_are_refused),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
