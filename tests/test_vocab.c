/* Reading vocabularies from every source, writing them to every destination and
 * back, and refusing broken ones for the right reason. */
#include "tests/files.h"

#include "libmodel/libmodel.h"
#include "libmodel/parse/protobuf.h"
#include "libmodel/tok/build.h"
#include "libmodel/tok/charsmap.h"

#define FIXTURES "tests/fixtures/tokenizers/"

static const char *const all_models[] = {
    "samples/polish-5m",          FIXTURES "gpt2",                    FIXTURES "gpt2/vocab.json",
    FIXTURES "llama3",            FIXTURES "qwen2",                   FIXTURES "spm-user/tokenizer.model",
    FIXTURES "spm-unused/tokenizer.model", FIXTURES "spm-unknown/tokenizer.model", FIXTURES "spm-rules/tokenizer.model",
    FIXTURES "spm-plain/tokenizer.model",  FIXTURES "hf-prepend",     FIXTURES "hf-metaspace",
    FIXTURES "hf-flags",
};
enum { N_MODELS = sizeof all_models / sizeof *all_models };

static struct lm_vocab *open_vocab(const char *path)
{
    struct lm_vocab *v;
    struct lm_err e;

    if (lm_vocab_open(&v, path, &e) < 0)
        fail_msg("%s", e.text);
    return v;
}

/* ---- escaping */

static void escape_is_reversible(void **state)
{
    uint8_t bytes[3], back[16];
    char text[64];

    (void)state;
    for (unsigned a = 0; a < 256; a++)
        for (unsigned b = 0; b < 256; b++) {
            bytes[0] = (uint8_t)a;
            bytes[1] = (uint8_t)b;
            bytes[2] = (uint8_t)(a ^ b);
            size_t n = lm_piece_escape(lm_span_of(bytes, 3), text, sizeof text);
            assert_int_equal(n, strlen(text));
            assert_true(lm_utf8_valid(lm_span_str(text)));
            for (size_t i = 0; i < n; i++)
                assert_true((uint8_t)text[i] >= ' ' && text[i] != 0x7f);
            assert_int_equal(lm_piece_unescape(text, back, sizeof back), 3);
            assert_memory_equal(back, bytes, 3);
        }
}

static void escape_of_known_texts(void **state)
{
    static const struct {
        const char *text, *escaped;
    } cases[] = {
        {"▁kot", "▁kot"}, {"a b", "a b"}, {"\\", "\\\\"}, {"\n\t", "\\x0A\\x09"}, {"\xff", "\\xFF"},
        {"\xe2\x80\xae", "\\xE2\\x80\\xAE"}, {"\x1b[31m", "\\x1B[31m"}, {"\xc2\xa0", "\\xC2\\xA0"}, {"🦙", "🦙"}, {"", ""},
    };
    char buf[64];
    uint8_t back[8];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(lm_piece_escape(lm_span_str(cases[i].text), buf, sizeof buf), strlen(cases[i].escaped));
        assert_string_equal(buf, cases[i].escaped);
    }
    assert_int_equal(lm_piece_escape(lm_span_of("\0x", 2), buf, 4), 5);
    assert_string_equal(buf, "\\x0");
    static const char *const malformed[] = {"\\", "\\x", "\\x1", "\\xg0", "\\n", "a\\"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
        assert_int_equal(lm_piece_unescape(malformed[i], back, sizeof back), -1);
}

static void letters_of_bytes(void **state)
{
    bool seen[0x200] = {false};

    (void)state;
    for (unsigned b = 0; b < 256; b++) {
        uint32_t letter = lmi_byte_letter((uint8_t)b);
        assert_true(letter < 0x200 && !seen[letter]);
        seen[letter] = true;
        assert_int_equal(lmi_letter_byte(letter), b);
    }
    assert_int_equal(lmi_byte_letter(' '), 0x120);
    assert_int_equal(lmi_byte_letter('\n'), 0x10a);
    assert_int_equal(lmi_letter_byte(0x144), -1);
    assert_int_equal(lmi_letter_byte(' '), -1);
}

/* ---- what the readers find */

static void sample_model(void **state)
{
    struct lm_vocab *v = open_vocab("samples/polish-5m");

    (void)state;
    assert_int_equal(v->algo, LM_VOCAB_SPM_BPE);
    assert_int_equal(v->n_pieces, 4096);
    assert_int_equal(v->unk_id, 0);
    assert_int_equal(v->bos_id, 1);
    assert_int_equal(v->eos_id, 2);
    assert_int_equal(v->pad_id, -1);
    assert_true(v->byte_fallback && v->add_dummy_prefix && v->escape_whitespaces);
    assert_false(v->remove_extra_whitespaces);
    assert_false(v->add_bos); /* tokenizer_config.json says so */
    assert_string_equal(v->source, "tokenizer.model");
    assert_int_equal(v->pieces[3].kind, LM_PIECE_BYTE);
    for (size_t i = 0; i < v->n_pieces; i++)
        assert_int_equal(lm_vocab_find(v, v->pieces[i].text), i);
    assert_int_equal(lm_vocab_find(v, lm_span_str("no such piece")), -1);
    lm_vocab_free(v);
}

static void byte_bpe_models(void **state)
{
    static const struct {
        const char *path, *pre, *source;
        bool add_bos, ignore_merges, nfc;
    } cases[] = {
        {FIXTURES "gpt2", "gpt-2", "tokenizer.json", false, false, false},
        {FIXTURES "gpt2/vocab.json", "gpt-2", "vocab.json + merges.txt", false, false, false},
        {FIXTURES "llama3", "llama-bpe", "tokenizer.json", true, true, false},
        {FIXTURES "qwen2", "qwen2", "tokenizer.json", false, false, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lm_vocab *v = open_vocab(cases[i].path);
        assert_int_equal(v->algo, LM_VOCAB_BYTE_BPE);
        assert_string_equal(v->pre, cases[i].pre);
        assert_string_equal(v->source, cases[i].source);
        assert_int_equal(v->add_bos, cases[i].add_bos);
        assert_int_equal(v->ignore_merges, cases[i].ignore_merges);
        assert_int_equal(v->nfc, cases[i].nfc);
        assert_true(v->n_merges > 100);
        for (size_t k = 0; k < v->n_merges; k++) {
            struct lm_span l = v->pieces[v->merges[k].left].text, r = v->pieces[v->merges[k].right].text;
            assert_int_equal(v->pieces[v->merges[k].result].text.size, l.size + r.size);
        }
        lm_vocab_free(v);
    }
}

/* ---- there and back */

static void assert_spans(struct lm_span a, struct lm_span b)
{
    assert_int_equal(a.size, b.size);
    if (a.size)
        assert_memory_equal(a.data, b.data, a.size);
}

static void assert_same_pieces(const struct lm_vocab *a, const struct lm_vocab *b)
{
    assert_int_equal(a->algo, b->algo);
    assert_int_equal(a->n_pieces, b->n_pieces);
    for (size_t i = 0; i < a->n_pieces; i++) {
        assert_spans(a->pieces[i].text, b->pieces[i].text);
        assert_int_equal(a->pieces[i].kind, b->pieces[i].kind);
        if (a->pieces[i].kind != LM_PIECE_UNKNOWN) /* only tokenizer.json says whether that is special */
            assert_int_equal(a->pieces[i].special, b->pieces[i].special);
        if (a->algo == LM_VOCAB_SPM_BPE)
            assert_true(a->pieces[i].score == b->pieces[i].score);
    }
}

static void assert_same_rules(const struct lm_vocab *a, const struct lm_vocab *b)
{
    assert_int_equal(a->bos_id, b->bos_id);
    assert_int_equal(a->eos_id, b->eos_id);
    assert_int_equal(a->pad_id, b->pad_id);
    assert_int_equal(a->add_bos, b->add_bos);
    assert_int_equal(a->add_eos, b->add_eos);
    assert_int_equal(a->add_dummy_prefix, b->add_dummy_prefix);
    assert_int_equal(a->remove_extra_whitespaces, b->remove_extra_whitespaces);
    assert_int_equal(a->byte_fallback, b->byte_fallback);
    assert_int_equal(a->ignore_merges, b->ignore_merges);
    assert_spans(a->charsmap, b->charsmap);
    assert_spans(a->pre_pattern, b->pre_pattern);
    assert_spans(a->chat_template, b->chat_template);
    assert_string_equal(a->pre, b->pre);
}

static void assert_same_merges(const struct lm_vocab *a, const struct lm_vocab *b)
{
    assert_int_equal(a->n_merges, b->n_merges);
    if (a->n_merges)
        assert_memory_equal(a->merges, b->merges, a->n_merges * sizeof *a->merges);
}

static const char hard_text[] = "Ala ma  kota's 123456 caf\xc3\xa9 cafe\xcc\x81 \xe6\xbc\xa2 <s></s> abc de a\xe2\x96\x81" "b word<tool> "
                                "<|eot_id|><|im_end|>\n\n \t\xff \xe2\x96\x81\xe2\x96\x81x <left>  <right> y<norm>";

/* What a vocabulary is for: the same ids, offsets and text. */
static void assert_same_ids(const struct lm_vocab *a, const struct lm_vocab *b)
{
    struct lm_tokenizer *t[2];
    struct lm_ids ids[2] = {{0}};
    struct lm_err e;

    for (unsigned flags = 0; flags < 8; flags++) {
        for (int i = 0; i < 2; i++) {
            lm_ids_free(&ids[i]);
            if (lm_tokenizer_new(&t[i], i ? b : a, &e) < 0 ||
                lm_tokenizer_encode(t[i], lm_span_of(hard_text, sizeof hard_text - 1), flags, &ids[i], &e) < 0)
                fail_msg("%s", e.text);
            lm_tokenizer_free(t[i]);
        }
        assert_int_equal(ids[0].n, ids[1].n);
        assert_memory_equal(ids[0].ids, ids[1].ids, ids[0].n * sizeof *ids[0].ids);
        if (flags & LM_ENCODE_OFFSETS)
            assert_memory_equal(ids[0].offsets, ids[1].offsets, ids[0].n * sizeof *ids[0].offsets);
    }
    lm_ids_free(&ids[0]);
    lm_ids_free(&ids[1]);
}

static int save(void *user, const char *name, struct lm_span data, struct lm_err *e)
{
    (void)e;
    write_file(path_in(user, name), data.data, data.size);
    return 0;
}

static void through_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        struct lm_vocab *v = open_vocab(all_models[i]), *back;
        struct lm_err e;
        char folder[64];
        tmp_make(folder);
        if (lm_vocab_to_files(v, save, folder, &e) < 0)
            fail_msg("%s: %s", all_models[i], e.text);
        back = open_vocab(folder);
        assert_same_pieces(v, back);
        assert_same_rules(v, back);
        assert_same_merges(v, back);
        assert_int_equal(v->unk_id, back->unk_id);
        assert_int_equal(v->prefix_every_part, back->prefix_every_part);
        assert_same_ids(v, back);
        lm_vocab_free(v);
        lm_vocab_free(back);
        tmp_remove(folder);
    }
}

static int refuse_to_save(void *user, const char *name, struct lm_span data, struct lm_err *e)
{
    (void)user;
    (void)data;
    return lm_err_set(e, LM_IO, "no room for %s", name);
}

static void a_failing_writer_is_heard(void **state)
{
    struct lm_vocab *v = open_vocab(FIXTURES "gpt2");
    struct lm_err e;

    (void)state;
    assert_int_equal(lm_vocab_to_files(v, refuse_to_save, NULL, &e), -1);
    assert_string_equal(e.text, "no room for tokenizer.json");
    lm_vocab_free(v);
}

static struct lm_vocab *from_meta(const struct lm_meta *m)
{
    struct lmi_vocab *b = lmi_vocab_new();
    struct lm_err e;

    if (lmi_gguf_vocab_read(b, m, &e) != 1 || lmi_vocab_finish(b, &e) < 0)
        fail_msg("%s", e.text);
    return &b->v;
}

/* GGUF knows no flags of added tokens, no NFC, no merges of SentencePiece-style
 * vocabularies and no plain spaces: those four give other ids. */
static bool gguf_keeps_ids(const char *path, const struct lm_vocab *v)
{
    bool spm = v->algo == LM_VOCAB_SPM_BPE;

    return !strstr(path, "hf-") && (spm ? v->escape_whitespaces : !v->nfc);
}

static void through_gguf_keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        struct lm_vocab *v = open_vocab(all_models[i]), *back;
        struct lm_meta *m = lm_meta_new();
        struct lm_err e;
        if (lm_vocab_to_meta(m, v, 0, &e) < 0)
            fail_msg("%s: %s", all_models[i], e.text);
        back = from_meta(m);
        assert_same_pieces(v, back);
        if (v->algo == LM_VOCAB_BYTE_BPE)
            assert_same_merges(v, back);
        if (gguf_keeps_ids(all_models[i], v)) {
            assert_same_rules(v, back);
            struct lmi_vocab *b = (struct lmi_vocab *)back;
            b->v.prefix_every_part = v->prefix_every_part; /* comes from tokenizer_config.json */
            assert_same_ids(v, back);
        }
        /* Booleans are always there: their defaults differ among readers. */
        assert_non_null(lm_meta_get(m, "tokenizer.ggml.add_bos_token"));
        assert_non_null(lm_meta_get(m, "tokenizer.ggml.add_eos_token"));
        assert_non_null(lm_meta_get(m, "tokenizer.ggml.add_space_prefix"));
        lm_meta_free(m);
        lm_vocab_free(v);
        lm_vocab_free(back);
    }
}

static void padded_to_the_embedding(void **state)
{
    struct lm_vocab *v = open_vocab(FIXTURES "gpt2"), *back;
    struct lm_meta *m = lm_meta_new();
    struct lm_err e;

    (void)state;
    assert_int_equal(lm_vocab_to_meta(m, v, v->n_pieces + 3, &e), 0);
    back = from_meta(m);
    assert_int_equal(back->n_pieces, v->n_pieces + 3);
    for (size_t i = v->n_pieces; i < back->n_pieces; i++) {
        char text[32];
        snprintf(text, sizeof text, "[PAD%zu]", i);
        assert_spans(back->pieces[i].text, lm_span_str(text));
        assert_int_equal(back->pieces[i].kind, LM_PIECE_UNUSED);
    }
    assert_same_ids(v, back);
    lm_meta_free(m);
    lm_vocab_free(v);
    lm_vocab_free(back);
}

/* From a model file: GGUF, and a folder without any tokenizer. */
static void of_models(void **state)
{
    struct lm_vocab *v = open_vocab(FIXTURES "llama3"), *back;
    struct lm_write_spec spec = {.meta = lm_meta_new()};
    struct lm_layout l;
    struct lm_model *m;
    struct lm_err e;
    char folder[64];

    (void)state;
    tmp_make(folder);
    assert_int_equal(lm_vocab_to_meta((struct lm_meta *)spec.meta, v, 0, &e), 0);
    assert_int_equal(lm_format_find("gguf")->layout(&l, &spec, "model.gguf", &e), 0);
    write_layout(&l, folder, &spec, NULL, NULL);
    back = open_vocab(path_in(folder, "model.gguf"));
    assert_same_pieces(v, back);
    assert_same_ids(v, back);
    lm_vocab_free(back);
    back = open_vocab(folder); /* no tokenizer file in it, but a model */
    assert_int_equal(back->n_pieces, v->n_pieces);
    lm_vocab_free(back);
    m = open_ok("tests/fixtures/models/tiny-llama");
    assert_int_equal(lm_vocab_of_model(&back, m, &e), 0);
    assert_null(back);
    lm_model_close(m);
    assert_int_equal(lm_vocab_open(&back, "tests/fixtures/models/tiny-llama", &e), -1);
    assert_non_null(strstr(e.text, "no tokenizer"));
    lm_layout_free(&l);
    lm_meta_free((struct lm_meta *)spec.meta);
    lm_vocab_free(v);
    tmp_remove(folder);
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
        {NULL, 1, false, 0, LM_UNSUPPORTED, "is Unigram"},
        {NULL, 3, false, 0, LM_UNSUPPORTED, "is Word"},
        {NULL, 4, false, 0, LM_UNSUPPORTED, "is Char"},
        {NULL, 9, false, 0, LM_UNSUPPORTED, "unknown type"},
        {NULL, 2, false, 24, LM_UNSUPPORTED, "treat_whitespace_as_suffix"},
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
    v = (lm_vocab_free(v), open_vocab(path_in(folder, "tokenizer.model")));
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
    lm_meta_set_str(m, "tokenizer.ggml.model", lm_span_str("bert"));
    meta_fails(m, LM_UNSUPPORTED, "'bert'");
    m = gguf_keys();
    lm_meta_set_str(m, "tokenizer.ggml.model", lm_span_str("gpt2"));
    lm_meta_set_str(m, "tokenizer.ggml.pre", lm_span_str("kimi-k2"));
    meta_fails(m, LM_UNSUPPORTED, "'kimi-k2'");
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
        {"{", LM_MALFORMED, "not valid JSON"},
        {"{\"a\":1,\"\\u0061\":2}", LM_MALFORMED, "not valid JSON"},
        {"[]", LM_MALFORMED, "no object 'model'"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", LM_UNSUPPORTED, "WordPiece"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", LM_UNSUPPORTED, "Unigram"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", LM_MALFORMED, "model.vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}", LM_UNSUPPORTED, "neither byte-level nor"},
        {MODEL("\"merges\":{}"), LM_MALFORMED, "merges is no array"},
        {MODEL("\"merges\":[\"ab\"]"), LM_MALFORMED, "merge 0 is not two halves"},
        {MODEL("\"merges\":[\"a b c\"]"), LM_MALFORMED, "merge 0 is not two halves"},
        {MODEL("\"merges\":[[\"a\"]]"), LM_MALFORMED, "merge 0 is neither"},
        {MODEL("\"merges\":[[\"a\",1]]"), LM_MALFORMED, "merge 0 is neither"},
        {MODEL("\"merges\":[\"a x\"]"), LM_MALFORMED, "the right half is not in the vocabulary"},
        {MODEL("\"merges\":[\"b a\"]"), LM_MALFORMED, "the result is not in the vocabulary"},
        {MODEL("\"merges\":[[\"\",\"a\"]]"), LM_MALFORMED, "empty half"},
        {MODEL("\"merges\":[],\"dropout\":0.1"), LM_UNSUPPORTED, "model.dropout"},
        {MODEL("\"merges\":[],\"continuing_subword_prefix\":\"##\""), LM_UNSUPPORTED, "continuing_subword_prefix"},
        {MODEL("\"merges\":[],\"end_of_word_suffix\":\"</w>\""), LM_UNSUPPORTED, "end_of_word_suffix"},
        {MODEL("\"merges\":[],\"unk_token\":\"x\""), LM_MALFORMED, "unk_token 'x'"},
        {"{" BYTES "\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", LM_MALFORMED, "the id of 'a'"},
        {"{" BYTES "\"model\":{\"vocab\":{\"a\":99999999999},\"merges\":[]}}", LM_MALFORMED, "the id of 'a'"},
        {"{" BYTES "\"model\":{\"vocab\":{\"a\":1.0},\"merges\":[]}}", LM_MALFORMED, "the id of 'a'"},
        {"{" BYTES "\"model\":{\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}}", LM_MALFORMED, "two pieces have the id 1"},
        {"{" BYTES "\"model\":{\"vocab\":{},\"merges\":[]}}", LM_MALFORMED, "empty"},
        {WITH(BYTES "\"normalizer\":{\"type\":\"NFKC\"}"), LM_UNSUPPORTED, "normalizer NFKC"},
        {WITH(BYTES "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}"), LM_UNSUPPORTED, "Lowercase"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Punctuation\"},{\"type\":\"ByteLevel\"}]}"),
         LM_UNSUPPORTED, "Punctuation"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
              "{\"type\":\"Digits\"}]}"), LM_UNSUPPORTED, "before others"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},"
              "\"behavior\":\"MergedWithNext\"},{\"type\":\"ByteLevel\"}]}"), LM_UNSUPPORTED, "Split with this behavior"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\"},"
              "\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\"}]}"), LM_UNSUPPORTED, "empty"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"split\":true}"), LM_UNSUPPORTED, "split"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"split\":false}"), LM_UNSUPPORTED, "replacement"},
        {WITH(BYTES "\"added_tokens\":[{\"id\":3,\"content\":\"\"}]"), LM_MALFORMED, "has no content"},
        {WITH(BYTES "\"added_tokens\":[{\"id\":-3,\"content\":\"x\"}]"), LM_MALFORMED, "added token 0"},
        {WITH(BYTES "\"added_tokens\":[{\"id\":88888888,\"content\":\"x\"}]"), LM_MALFORMED, "added token 0"},
        {WITH(BYTES "\"post_processor\":{\"type\":\"Odd\"}"), LM_UNSUPPORTED, "post-processor Odd"},
        {WITH(BYTES "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}"),
         LM_UNSUPPORTED, "special token 'x'"},
        {WITH(BYTES "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
                    "\"special_tokens\":{\"x\":{\"ids\":[77]}}}"), LM_MALFORMED, "id of the BOS token is 77"},
        {WITH(BYTES "\"post_processor\":{\"type\":\"RobertaProcessing\"}"), LM_MALFORMED, "has no ids"},
    };
    char folder[64];

    (void)state;
    tmp_make(folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(path_in(folder, "tokenizer.json"), cases[i].text, strlen(cases[i].text));
        fails(folder, cases[i].code, cases[i].reason);
    }
    char deep[300] = "{\"normalizer\":";
    memset(deep + strlen(deep), '[', 200);
    write_file(path_in(folder, "tokenizer.json"), deep, 200);
    fails(folder, LM_LIMIT, "deeper");
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

static void foreign_tokenizers(void **state)
{
    static const char *const files[][2] = {{"tekken.json", "tekken"}, {"spiece.model", "Unigram"}, {"vocab.txt", "WordPiece"}};

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escape_is_reversible),
        cmocka_unit_test(escape_of_known_texts),
        cmocka_unit_test(letters_of_bytes),
        cmocka_unit_test(sample_model),
        cmocka_unit_test(byte_bpe_models),
        cmocka_unit_test(through_files),
        cmocka_unit_test(a_failing_writer_is_heard),
        cmocka_unit_test(through_gguf_keys),
        cmocka_unit_test(padded_to_the_embedding),
        cmocka_unit_test(of_models),
        cmocka_unit_test(hostile_sentencepiece),
        cmocka_unit_test(nul_is_kept),
        cmocka_unit_test(truncated_sentencepiece),
        cmocka_unit_test(hostile_charsmap),
        cmocka_unit_test(circular_charsmap),
        cmocka_unit_test(hostile_gguf),
        cmocka_unit_test(gguf_without_tokenizer),
        cmocka_unit_test(hostile_json),
        cmocka_unit_test(hostile_neighbours),
        cmocka_unit_test(neighbours),
        cmocka_unit_test(foreign_tokenizers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
