/* Reading vocabularies from every source, writing them to every destination and
 * back. Broken ones: test_vocab_bad.c. */
#include "tests/files.h"

#include "libmodel/libmodel.h"
#include "libmodel/tok/build.h"

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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
