/* Broken vocabularies of every kind are refused for the right reason, and odd
 * but sound ones are not. */
#include "tests/files.h"

#include "libmodel/libmodel.h"
#include "libmodel/parse/protobuf.h"
#include "libmodel/tok/build.h"
#include "libmodel/tok/charsmap.h"

#define FIXTURES "tests/fixtures/tokenizers/"

static struct lm_vocab *open_vocab(const char *path)
{
    struct lm_vocab *v;
    struct lm_err e;

    if (lm_vocab_open(&v, path, &e) < 0)
        fail_msg("%s", e.text);
    return v;
}

static void assert_spans(struct lm_span a, struct lm_span b)
{
    assert_int_equal(a.size, b.size);
    if (a.size)
        assert_memory_equal(a.data, b.data, a.size);
}

/* ---- hostile SentencePiece models */

static void fails(const char *path, enum lm_code code, const char *reason)
{
    struct lm_vocab *v;
    struct lm_err e = {0};

    if (lm_vocab_open(&v, path, &e) == 0)
        fail_msg("%s should be refused (%s)", path, reason);
    assert_null(v);
    if (e.code != code || !strstr(e.text, reason))
        fail_msg("expected code %d and '%s', got code %d and '%s'", code, reason, e.code, e.text);
    assert_true(lm_utf8_valid(lm_span_str(e.text)) && !strchr(e.text, '\n'));
}

static void spm_piece(struct lmi_buf *out, struct lm_span text, float score, int kind)
{
    struct lmi_buf p = {0};

    lmi_pb_put_bytes(&p, 1, text);
    lmi_pb_put_float(&p, 2, score);
    lmi_pb_put_uint(&p, 3, (uint64_t)kind);
    lmi_pb_put_bytes(out, 1, lm_span_of(p.data, p.n));
    lmi_buf_free(&p);
}

static void spm_trainer(struct lmi_buf *out, uint64_t type, bool byte_fallback, uint32_t extra)
{
    struct lmi_buf t = {0};

    lmi_pb_put_uint(&t, 3, type);
    lmi_pb_put_uint(&t, 35, byte_fallback);
    if (extra)
        lmi_pb_put_uint(&t, extra, 1);
    lmi_pb_put_bytes(out, 2, lm_span_of(t.data, t.n));
    lmi_buf_free(&t);
}

/* A sound model (unknown, "a", and what `add` puts) with a charsmap. */
static void spm_write_with(const char *folder, void (*add)(struct lmi_buf *), uint64_t type, bool bytes, uint32_t extra,
                           struct lm_span charsmap)
{
    struct lmi_buf out = {0}, n = {0};

    spm_piece(&out, lm_span_str("<unk>"), 0, LM_PIECE_UNKNOWN);
    spm_piece(&out, lm_span_str("a"), 0, LM_PIECE_NORMAL);
    if (add)
        add(&out);
    spm_trainer(&out, type, bytes, extra);
    lmi_pb_put_bytes(&n, 2, charsmap);
    lmi_pb_put_bytes(&out, 3, lm_span_of(n.data, n.n));
    write_file(path_in(folder, "tokenizer.model"), out.data, out.n);
    lmi_buf_free(&out);
    lmi_buf_free(&n);
}

static void add_second_unk(struct lmi_buf *o)
{
    spm_piece(o, lm_span_str("<unk2>"), 0, LM_PIECE_UNKNOWN);
}
static void add_empty(struct lmi_buf *o)
{
    spm_piece(o, lm_span_str(""), 0, LM_PIECE_NORMAL);
}
static void add_twice(struct lmi_buf *o)
{
    spm_piece(o, lm_span_str("a"), 0, LM_PIECE_USER_DEFINED);
}
static void add_bad_kind(struct lmi_buf *o)
{
    spm_piece(o, lm_span_str("b"), 0, 7);
}
static void add_nan(struct lmi_buf *o)
{
    spm_piece(o, lm_span_str("b"), __builtin_nanf(""), LM_PIECE_NORMAL);
}
static void add_byte(struct lmi_buf *o)
{
    spm_piece(o, lm_span_str("<0x00>"), 0, LM_PIECE_BYTE);
}
static void add_negative_byte(struct lmi_buf *o)
{
    spm_piece(o, lm_span_str("<0x-1>"), 0, LM_PIECE_BYTE);
}
static void add_score_as_text(struct lmi_buf *o)
{
    struct lmi_buf p = {0};

    lmi_pb_put_bytes(&p, 1, lm_span_str("b"));
    lmi_pb_put_bytes(&p, 2, lm_span_str("-1"));
    lmi_pb_put_bytes(o, 1, lm_span_of(p.data, p.n));
    lmi_buf_free(&p);
}
static void add_cut_piece(struct lmi_buf *o)
{
    lmi_pb_put_bytes(o, 1, lm_span_str("\x0a\x7f" "b"));
}
static void add_group(struct lmi_buf *o)
{
    lmi_buf_add(o, "\x53\x54", 2);
}
static void add_endless_varint(struct lmi_buf *o)
{
    lmi_buf_add(o, "\x50\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12);
}

static void hostile_sentencepiece(void **state)
{
    static const struct {
        void (*add)(struct lmi_buf *);
        uint64_t type;
        bool bytes;
        uint32_t extra;
        enum lm_code code;
        const char *reason;
    } cases[] = {
        {NULL, 9, false, 0, LM_MALFORMED, "model_type is 9"},
        {NULL, 2, true, 0, LM_MALFORMED, "0 of 256 byte pieces"},
        {add_byte, 2, true, 0, LM_MALFORMED, "1 of 256 byte pieces"},
        {add_byte, 2, false, 0, LM_MALFORMED, "byte_fallback is off"},
        {add_negative_byte, 2, false, 0, LM_MALFORMED, "byte piece 2 is '<0x-1>'"},
        {add_second_unk, 2, false, 0, LM_MALFORMED, "both UNKNOWN"},
        {add_empty, 2, false, 0, LM_MALFORMED, "piece 2 is empty"},
        {add_twice, 2, false, 0, LM_MALFORMED, "piece 2 has the text of piece 1"},
        {add_bad_kind, 2, false, 0, LM_MALFORMED, "type 7"},
        {add_nan, 2, false, 0, LM_MALFORMED, "not a number"},
        {add_score_as_text, 2, false, 0, LM_MALFORMED, "wire type 2, expected 5"},
        {add_cut_piece, 2, false, 0, LM_MALFORMED, "cut short"},
        {add_group, 2, false, 0, LM_MALFORMED, "wire type 3"},
        {add_endless_varint, 2, false, 0, LM_MALFORMED, "malformed"},
    };
    char folder[64];

    (void)state;
    tmp_make(folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spm_write_with(folder, cases[i].add, cases[i].type, cases[i].bytes, cases[i].extra, (struct lm_span){0});
        fails(path_in(folder, "tokenizer.model"), cases[i].code, cases[i].reason);
    }
    static const char *const foreign[][2] = {{"", "no pieces"}, {"IQ== 0\nIg== 1\n", "tiktoken"}, {"{}", "field"}, {"\x08", "cut short"}};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        write_file(path_in(folder, "tokenizer.model"), foreign[i][0], strlen(foreign[i][0]));
        struct lm_vocab *v;
        struct lm_err e;
        assert_int_equal(lm_vocab_open(&v, path_in(folder, "tokenizer.model"), &e), -1);
        if (!strstr(e.text, foreign[i][1]))
            fail_msg("expected '%s', got '%s'", foreign[i][1], e.text);
    }
    tmp_remove(folder);
}

static void add_nul_pieces(struct lmi_buf *o)
{
    spm_piece(o, lm_span_of("\0", 1), 0, LM_PIECE_NORMAL);
    spm_piece(o, lm_span_of("a\0", 2), -1, LM_PIECE_NORMAL);
    spm_piece(o, lm_span_of("\0\0", 2), -2, LM_PIECE_NORMAL);
}

/* Real models have a piece that is one NUL. */
static void nul_is_kept(void **state)
{
    struct lm_vocab *v;
    struct lm_tokenizer *t;
    struct lm_ids ids = {0};
    struct lm_err e;
    char folder[64], *out;
    size_t n;

    (void)state;
    tmp_make(folder);
    spm_write_with(folder, add_nul_pieces, 2, false, 0, (struct lm_span){0});
    v = open_vocab(path_in(folder, "tokenizer.model"));
    assert_int_equal(lm_vocab_find(v, lm_span_of("a\0", 2)), 3);
    assert_int_equal(lm_tokenizer_new(&t, v, &e), 0);
    assert_int_equal(lm_tokenizer_encode(t, lm_span_of("a\0\0\0", 4), 0, &ids, &e), 0);
    const int32_t want[] = {0, 3, 4};
    assert_int_equal(ids.n, 3);
    assert_memory_equal(ids.ids, want, sizeof want);
    assert_int_equal(lm_tokenizer_decode(t, ids.ids + 1, 2, false, &out, &n, &e), 0);
    assert_int_equal(n, 4);
    assert_memory_equal(out, "a\0\0\0", 4);
    free(out);
    lm_ids_free(&ids);
    lm_tokenizer_free(t);
    lm_vocab_free(v);
    tmp_remove(folder);
}

/* No prefix of a model is a model. */
static void truncated_sentencepiece(void **state)
{
    uint8_t file[70000];
    FILE *f = fopen("samples/polish-5m/tokenizer.model", "rb");
    size_t n = fread(file, 1, sizeof file, f);

    (void)state;
    fclose(f);
    for (size_t k = 0; k < n; k += k < 300 || n - k < 300 ? 1 : 997) {
        struct lmi_vocab *b = lmi_vocab_new();
        struct lm_err e;
        uint8_t *exact = malloc(k + 1);
        memcpy(exact, file, k);
        /* Behind trainer_spec only normalizer_spec is missing, and that has defaults. */
        if (lmi_spm_read(b, lm_span_of(exact, k), &e) == 0)
            assert_true(n - k < 100);
        free(exact);
        lm_vocab_free(&b->v);
    }
}

/* ---- precompiled_charsmap */

static uint8_t map_bytes[4 + 1024 + 2];

static void map_reset(void)
{
    memset(map_bytes, 0, sizeof map_bytes);
    lm_store_u32le(map_bytes, 1024);
    /* Root, children at 'a' ^ 1 = unit 0x60; that leads to the value at unit 0. */
    lm_store_u32le(map_bytes + 4, 1u << 10);
    lm_store_u32le(map_bytes + 4 + 4 * ('a' ^ 1), 'a' | 1 << 8 | 2u << 10);
    lm_store_u32le(map_bytes + 4 + 4 * ('a' ^ 1 ^ 2), 0x80000000u);
    map_bytes[1028] = 'b';
}

static void map_fails(struct lm_span s, const char *reason)
{
    struct lmi_charsmap m;
    struct lm_err e;

    assert_int_equal(lmi_charsmap_open(&m, s, &e), -1);
    assert_int_equal(e.code, LM_MALFORMED);
    if (!strstr(e.text, reason))
        fail_msg("expected '%s', got '%s'", reason, e.text);
}

static void hostile_charsmap(void **state)
{
    struct lm_span all = lm_span_of(map_bytes, sizeof map_bytes), to;
    struct lmi_charsmap m;
    struct lm_err e;

    (void)state;
    map_reset();
    assert_int_equal(lmi_charsmap_open(&m, all, &e), 0);
    assert_int_equal(lmi_charsmap_match(&m, lm_span_str("ab"), &to), 1);
    assert_spans(to, lm_span_str("b"));
    assert_int_equal(lmi_charsmap_match(&m, lm_span_str("b"), &to), 0);
    for (size_t n = 1; n < sizeof map_bytes - 1; n++)
        map_fails(lm_span_of(map_bytes, n), "precompiled_charsmap");
    map_bytes[sizeof map_bytes - 1] = 'x';
    map_fails(all, "do not end with NUL");
    map_reset();
    lm_store_u32le(map_bytes, 1023);
    map_fails(all, "multiple of 1024");
    lm_store_u32le(map_bytes, 0xfffffc00);
    map_fails(all, "that fits");
    map_reset();
    lm_store_u32le(map_bytes + 4, 0x80000000u);
    map_fails(all, "root unit");
    map_reset();
    lm_store_u32le(map_bytes + 4, 0x7ffffe00u | 1u << 9);
    map_fails(all, "unit 0 points to");
    map_reset();
    lm_store_u32le(map_bytes + 4 + 4 * ('a' ^ 1 ^ 2), 0x80000002u);
    map_fails(all, "gives replacement 2");
    map_reset();
    lm_store_u32le(map_bytes + 4 + 4 * ('a' ^ 1 ^ 2), 'z');
    map_fails(all, "gives replacement");
}

/* A chain of units that leads back to itself must not make a search endless. */
static void circular_charsmap(void **state)
{
    struct lmi_charsmap m;
    struct lm_span to;
    struct lm_err e;
    char text[5000];

    (void)state;
    map_reset();
    lm_store_u32le(map_bytes + 4 + 4 * ('a' ^ 1), 'a' | (uint32_t)'a' << 10); /* children of 0x60: 0x60 ^ 'a' = 1 = its own */
    assert_int_equal(lmi_charsmap_open(&m, lm_span_of(map_bytes, sizeof map_bytes), &e), 0);
    memset(text, 'a', sizeof text);
    assert_int_equal(lmi_charsmap_match(&m, lm_span_of(text, sizeof text), &to), 0);
}

/* ---- hostile GGUF keys */

static struct lm_meta *gguf_keys(void)
{
    struct lm_vocab *v = open_vocab(FIXTURES "spm-user/tokenizer.model");
    struct lm_meta *m = lm_meta_new();
    struct lm_err e;

    assert_int_equal(lm_vocab_to_meta(m, v, 0, &e), 0);
    lm_vocab_free(v);
    return m;
}

static void meta_fails(struct lm_meta *m, enum lm_code code, const char *reason)
{
    struct lmi_vocab *b = lmi_vocab_new();
    struct lm_err e = {0};
    int rc = lmi_gguf_vocab_read(b, m, &e);

    if (rc == 1)
        rc = lmi_vocab_finish(b, &e);
    if (rc != -1)
        fail_msg("should be refused: %s", reason);
    if (e.code != code || !strstr(e.text, reason))
        fail_msg("expected code %d and '%s', got code %d and '%s'", code, reason, e.code, e.text);
    lm_vocab_free(&b->v);
    lm_meta_free(m);
}

static void hostile_gguf(void **state)
{
    static const int8_t bytes[600];
    static const float floats[600];
    static const int32_t kinds[600];
    struct lm_meta *m = gguf_keys();
    size_t n = lm_meta_get(m, "tokenizer.ggml.tokens")->n;
    struct lm_span bad_byte = lm_span_str("<0xZZ>"), texts[600];
    int32_t bad_kinds[600];

    (void)state;
    assert_true(n < 600);
    lm_meta_set_array(m, "tokenizer.ggml.scores", LM_META_I8, bytes, n);
    meta_fails(m, LM_MALFORMED, "tokenizer.ggml.scores");
    m = gguf_keys();
    lm_meta_set_array(m, "tokenizer.ggml.token_type", LM_META_U8, bytes, n);
    meta_fails(m, LM_MALFORMED, "tokenizer.ggml.token_type");
    m = gguf_keys();
    lm_meta_set_array(m, "tokenizer.ggml.scores", LM_META_F32, floats, n - 1);
    meta_fails(m, LM_MALFORMED, "elements, but there are");
    m = gguf_keys();
    lm_meta_set_array(m, "tokenizer.ggml.token_type", LM_META_I32, kinds, 1);
    meta_fails(m, LM_MALFORMED, "elements, but there are");
    m = gguf_keys();
    lm_meta_remove(m, "tokenizer.ggml.scores");
    meta_fails(m, LM_MALFORMED, "scores is missing");
    m = gguf_keys();
    lm_meta_remove(m, "tokenizer.ggml.tokens");
    meta_fails(m, LM_MALFORMED, "tokens is missing");
    m = gguf_keys();
    lm_meta_set_u32(m, "tokenizer.ggml.bos_token_id", (uint32_t)n);
    meta_fails(m, LM_MALFORMED, "bos_token_id is");
    m = gguf_keys();
    memset(bad_kinds, 0, sizeof bad_kinds);
    bad_kinds[5] = -3;
    lm_meta_set_array(m, "tokenizer.ggml.token_type", LM_META_I32, bad_kinds, n);
    meta_fails(m, LM_MALFORMED, "token_type[5] is -3");
    m = gguf_keys();
    memcpy(texts, lm_meta_get(m, "tokenizer.ggml.tokens")->strs, n * sizeof *texts);
    texts[10] = bad_byte;
    struct lm_meta *copy = gguf_keys();
    lm_meta_set_strs(copy, "tokenizer.ggml.tokens", texts, n);
    lm_meta_free(m);
    meta_fails(copy, LM_MALFORMED, "byte piece 10 is '<0xZZ>'");
    m = gguf_keys();
    lm_meta_set_str(m, "tokenizer.ggml.model", lm_span_str("plamo2"));
    meta_fails(m, LM_UNSUPPORTED, "'plamo2'");
    m = gguf_keys();
    lm_meta_set_str(m, "tokenizer.ggml.model", lm_span_str("gpt2"));
    lm_meta_set_str(m, "tokenizer.ggml.pre", lm_span_str("no-such-name"));
    meta_fails(m, LM_UNSUPPORTED, "'no-such-name'");
    m = gguf_keys();
    lm_meta_set_str(m, "tokenizer.ggml.model", lm_span_str("gpt2"));
    meta_fails(m, LM_MALFORMED, "merges is missing");
    static const char *const merges[][2] = {{"ab", "no space"}, {"a zz", "right half"}, {"zz a", "left half"}, {"c e", "the result"}, {"a ", "empty half"}};
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        struct lm_span one = lm_span_str(merges[i][0]);
        m = gguf_keys();
        lm_meta_set_str(m, "tokenizer.ggml.model", lm_span_str("gpt2"));
        lm_meta_set_strs(m, "tokenizer.ggml.merges", &one, 1);
        meta_fails(m, LM_MALFORMED, merges[i][1]);
    }
}

static void gguf_without_tokenizer(void **state)
{
    static const char *const none[] = {NULL, "none", "no_vocab"};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct lmi_vocab *b = lmi_vocab_new();
        struct lm_meta *m = lm_meta_new();
        if (none[i])
            lm_meta_set_str(m, "tokenizer.ggml.model", lm_span_str(none[i]));
        assert_int_equal(lmi_gguf_vocab_read(b, m, NULL), 0);
        lm_meta_free(m);
        lm_vocab_free(&b->v);
    }
}

/* ---- hostile tokenizer.json */

static void hostile_json(void **state)
{
#define MODEL(s) "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}," s "}}"
#define WITH(s) "{" s ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}"
#define BYTES "\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"
    static const struct {
        const char *text;
        enum lm_code code;
        const char *reason;
    } cases[] = {
        {"", LM_MALFORMED, "not valid JSON"},
        {"{", LM_MALFORMED, "ends early"},
        {"{\"decoder\":null,\"\\u0064ecoder\":null}", LM_MALFORMED, "decoder occurs twice"},
        {"{\"normalizer\":{\"a\":1,\"\\u0061\":2}}", LM_MALFORMED, "not valid JSON"},
        {"[]", LM_MALFORMED, "no object 'model'"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", LM_MALFORMED, "no object with pieces"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", LM_MALFORMED, "no list of pieces"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", LM_MALFORMED, "model.vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", LM_MALFORMED, "two pieces have the id 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\\u0061\":1},\"merges\":[]}}", LM_MALFORMED, "the text of another"},
        {"{\"model\":{\"type\":\"Odd\",\"vocab\":{}}}", LM_UNSUPPORTED, "model Odd"},
        {"{\"model\":{},\"model\":{}}", LM_MALFORMED, "occurs twice"},
        {MODEL("\"merges\":{}"), LM_MALFORMED, "merges is no array"},
        {MODEL("\"merges\":[\"ab\"]"), LM_MALFORMED, "merge 0 is not two halves"},
        {MODEL("\"merges\":[\"a b c\"]"), LM_MALFORMED, "merge 0 is not two halves"},
        {MODEL("\"merges\":[[\"a\"]]"), LM_MALFORMED, "merge 0 is neither"},
        {MODEL("\"merges\":[[\"a\",1]]"), LM_MALFORMED, "merge 0 is neither"},
        {MODEL("\"merges\":[\"a x\"]"), LM_MALFORMED, "the right half is not in the vocabulary"},
        {MODEL("\"merges\":[\"b a\"]"), LM_MALFORMED, "the result is not in the vocabulary"},
        {MODEL("\"merges\":[[\"\",\"a\"]]"), LM_MALFORMED, "empty half"},
        {MODEL("\"continuing_subword_prefix\":\"##\",\"merges\":[\"a b\"]"), LM_MALFORMED, "shorter than"},
        {MODEL("\"merges\":[],\"unk_token\":\"x\""), LM_MALFORMED, "unk_token 'x'"},
        {"{" BYTES "\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", LM_MALFORMED, "the id of 'a'"},
        {"{" BYTES "\"model\":{\"vocab\":{\"a\":99999999999},\"merges\":[]}}", LM_MALFORMED, "the id of 'a'"},
        {"{" BYTES "\"model\":{\"vocab\":{\"a\":1.0},\"merges\":[]}}", LM_MALFORMED, "the id of 'a'"},
        {"{" BYTES "\"model\":{\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}}", LM_MALFORMED, "two pieces have the id 1"},
        {"{" BYTES "\"model\":{\"vocab\":{},\"merges\":[]}}", LM_MALFORMED, "empty"},
        {WITH(BYTES "\"normalizer\":{\"type\":\"Odd\"}"), LM_UNSUPPORTED, "normalizer Odd"},
        {WITH(BYTES "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Odd\"}]}"), LM_UNSUPPORTED, "Odd"},
        {WITH(BYTES "\"normalizer\":{\"type\":\"Sequence\"}"), LM_MALFORMED, "no array 'normalizers'"},
        {WITH(BYTES "\"normalizer\":7"), LM_UNSUPPORTED, "without a type"},
        {WITH(BYTES "\"normalizer\":{\"type\":\"Replace\",\"content\":\"x\"}"), LM_MALFORMED, "Replace has no pattern"},
        {WITH(BYTES "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"x\"}"), LM_UNSUPPORTED, "regex"},
        {WITH(BYTES "\"normalizer\":{\"type\":\"Prepend\"}"), LM_MALFORMED, "no 'prepend'"},
        {WITH(BYTES "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"!\"}"), LM_MALFORMED, "base64"},
        {WITH(BYTES "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAA=\"}"), LM_MALFORMED, "charsmap"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Odd\"}"), LM_UNSUPPORTED, "pre-tokenizer Odd"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\"}"), LM_UNSUPPORTED, "'Odd' of Split"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"__\"}"), LM_MALFORMED, "not one character"},
        {WITH("\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":0}"), LM_MALFORMED, "no characters"},
        {WITH("\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":-1}"), LM_MALFORMED, "no count"},
        {WITH("\"decoder\":{\"type\":\"Odd\"}"), LM_UNSUPPORTED, "decoder Odd"},
        {WITH("\"decoder\":{\"type\":\"Strip\",\"content\":\"\",\"start\":1,\"stop\":0}"), LM_MALFORMED, "not one character"},
        {WITH(BYTES "\"added_tokens\":[{\"id\":3,\"content\":\"\"}]"), LM_MALFORMED, "has no content"},
        {WITH(BYTES "\"added_tokens\":[{\"id\":-3,\"content\":\"x\"}]"), LM_MALFORMED, "added token 0"},
        {WITH(BYTES "\"added_tokens\":[{\"id\":88888888,\"content\":\"x\"}]"), LM_MALFORMED, "added token 0"},
        {WITH(BYTES "\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]"), LM_MALFORMED, "which another piece has"},
        {WITH(BYTES "\"post_processor\":{\"type\":\"Odd\"}"), LM_UNSUPPORTED, "post-processor Odd"},
        {WITH(BYTES "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}"),
         LM_UNSUPPORTED, "special token 'x'"},
        {WITH(BYTES "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
                    "\"special_tokens\":{\"x\":{\"ids\":[77]}}}"), LM_MALFORMED, "adds id 77"},
        {WITH(BYTES "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}"), LM_UNSUPPORTED, "the text 0 times"},
        {WITH(BYTES "\"post_processor\":{\"type\":\"RobertaProcessing\"}"), LM_MALFORMED, "has no ids"},
    };
    char folder[64];

    (void)state;
    tmp_make(folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(path_in(folder, "tokenizer.json"), cases[i].text, strlen(cases[i].text));
        fails(folder, cases[i].code, cases[i].reason);
    }
    char nested[2000] = "{\"decoder\":";
    for (int i = 0; i < 12; i++)
        strcat(nested, "{\"type\":\"Sequence\",\"decoders\":[");
    for (int i = 0; i < 12; i++)
        strcat(nested, "]}");
    strcat(nested, ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}");
    write_file(path_in(folder, "tokenizer.json"), nested, strlen(nested));
    fails(folder, LM_LIMIT, "Sequences nested deeper");
    char deep[300] = "{\"normalizer\":";
    memset(deep + strlen(deep), '[', 200);
    write_file(path_in(folder, "tokenizer.json"), deep, 200);
    fails(folder, LM_MALFORMED, "deeper");
    tmp_remove(folder);
}

/* The neighbours of a model can be broken too. */
static void hostile_neighbours(void **state)
{
    static const char *const cases[][3] = {
        {"tokenizer_config.json", "[]", "expected an object"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{\"content\":\"a\"}}}", "'x' of added_tokens_decoder"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"99999999\":{\"content\":\"a\"}}}", "is no id below"},
        {"tokenizer_config.json", "{\"added_tokens_decoder\":{\"5\":{}}}", "added token 5 has no content"},
        {"added_tokens.json", "{\"<x>\":-1}", "the id of '<x>'"},
        {"added_tokens.json", "{\"<x>\":\"1\"}", "the id of '<x>'"},
        {"config.json", "{", "not valid JSON"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[64];
        tmp_make(folder);
        spm_write_with(folder, NULL, 2, false, 0, (struct lm_span){0});
        write_file(path_in(folder, cases[i][0]), cases[i][1], strlen(cases[i][1]));
        fails(folder, LM_MALFORMED, cases[i][2]);
        tmp_remove(folder);
    }
}

static void foreign_tokenizers(void **state)
{
    static const char *const files[][2] = {{"sentencepiece.bpe.model", "shifted"}};

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char folder[64];
        tmp_make(folder);
        write_file(path_in(folder, files[i][0]), "x", 1);
        fails(folder, LM_UNSUPPORTED, files[i][1]);
        tmp_remove(folder);
    }
    fails("tests/no-such-file/tokenizer.json", LM_IO, "No such file");
}

static void neighbours(void **state)
{
    static const char config[] = "{\"added_tokens_decoder\":{\"2\":{\"content\":\"<x>\",\"special\":true},\"4\":{\"content\":\"<y>\"}},"
                                 "\"eos_token\":{\"content\":\"<x>\"},\"add_eos_token\":true,"
                                 "\"chat_template\":[{\"name\":\"tool\",\"template\":\"T\"},{\"name\":\"default\",\"template\":\"D\"}]}";
    char folder[64];

    (void)state;
    tmp_make(folder);
    spm_write_with(folder, NULL, 2, false, 0, (struct lm_span){0});
    write_file(path_in(folder, "tokenizer_config.json"), config, sizeof config - 1);
    write_file(path_in(folder, "config.json"), "{\"bos_token_id\":1,\"pad_token_id\":77}", 36);
    struct lm_vocab *v = open_vocab(folder);
    assert_int_equal(v->n_pieces, 5);
    assert_int_equal(v->pieces[2].kind, LM_PIECE_CONTROL);
    assert_spans(v->pieces[3].text, lm_span_str("[PAD3]"));
    assert_int_equal(v->pieces[4].kind, LM_PIECE_USER_DEFINED);
    assert_true(v->pieces[4].added && !v->pieces[4].in_model);
    assert_int_equal(v->eos_id, 2);
    assert_true(v->add_eos);
    assert_int_equal(v->bos_id, 1);
    assert_int_equal(v->pad_id, -1); /* beyond the vocabulary: config.json only fills in */
    assert_spans(v->chat_template, lm_span_str("D"));
    lm_vocab_free(v);
    tmp_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_sentencepiece),
        cmocka_unit_test(nul_is_kept),
        cmocka_unit_test(truncated_sentencepiece),
        cmocka_unit_test(hostile_charsmap),
        cmocka_unit_test(circular_charsmap),
        cmocka_unit_test(hostile_gguf),
        cmocka_unit_test(gguf_without_tokenizer),
        cmocka_unit_test(hostile_json),
        cmocka_unit_test(hostile_neighbours),
        cmocka_unit_test(foreign_tokenizers),
        cmocka_unit_test(neighbours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
