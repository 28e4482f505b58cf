/* WordPiece, WordLevel and RWKV's greedy vocabularies: ids against the reference
 * library's, other forms of the same vocabulary, hostile files. */
#include "tests/tok_cases.h"

#include "libmodel/meta.h"

static void as_hugging_face(void **state)
{
    static const struct {
        const char *name;
        enum lm_vocab_algo algo;
    } models[] = {{"wp-bert", LM_VOCAB_WORDPIECE}, {"wp-cased", LM_VOCAB_WORDPIECE}, {"wp-prefix", LM_VOCAB_WORDPIECE},
                  {"wl-words", LM_VOCAB_WORDLEVEL}};

    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct loaded l = load(models[i].name, "/tokenizer.json");
        assert_int_equal(l.v->algo, models[i].algo);
        assert_int_equal(each_case(models[i].name, check_special, &l), 124);
        unload(&l);
    }
}

/* vocab.txt with its config is the same tokenizer. */
static void from_vocab_txt(void **state)
{
    struct loaded l = load("wp-txt", "/vocab.txt"), folder = load("wp-txt", "");

    (void)state;
    each_case("wp-bert", check_special, &l);
    each_case("wp-bert", check_special, &folder);
    assert_int_equal(l.v->bos_id, 2);
    assert_int_equal(l.v->eos_id, 3);
    assert_true(l.v->add_bos && l.v->add_eos);
    unload(&l);
    unload(&folder);
}

static void framed_by_cls_and_sep(void **state)
{
    struct loaded l = load("wp-bert", "/tokenizer.json");
    struct lm_ids ids = {0};
    struct lm_err e;

    (void)state;
    assert_int_equal(lm_tokenizer_encode(l.t, lm_span_str("the word"), LM_ENCODE_BOS_EOS, &ids, &e), 0);
    assert_true(ids.n > 2);
    assert_int_equal(ids.ids[0], 2);
    assert_int_equal(ids.ids[ids.n - 1], 3);
    lm_ids_free(&ids);
    unload(&l);
}

/* Without LM_ENCODE_SPECIAL no text becomes a control token, though "[CLS]" is a word of the vocabulary. */
static void special_text_is_text(void **state)
{
    static const char *const files[] = {"wp-prefix", "wl-words"};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct loaded l = load(files[i], "/tokenizer.json");
        struct lm_ids ids = {0};
        struct lm_err e;
        assert_int_equal(lm_tokenizer_encode(l.t, lm_span_str("[CLS] [SEP] [PAD]"), 0, &ids, &e), 0);
        for (size_t k = 0; k < ids.n; k++)
            assert_true(ids.ids[k] == l.v->unk_id || !l.v->pieces[ids.ids[k]].special);
        lm_ids_free(&ids);
        unload(&l);
    }
}

/* ---- other forms */

static void through_gguf_keys(void **state)
{
    static const char *const names[] = {"wp-bert", "wp-cased"};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct loaded l = load(names[i], "/tokenizer.json"), back = through_gguf(l.v);
        for (size_t k = 0; k < l.v->n_pieces; k++)
            assert_true(lm_span_eq(l.v->pieces[k].text, back.v->pieces[k].text));
        assert_int_equal(back.v->unk_id, l.v->unk_id);
        assert_int_equal(back.v->bos_id, l.v->bos_id);
        assert_int_equal(back.v->eos_id, l.v->eos_id);
        each_case(names[i], check_special, &back);
        unload(&back);
        unload(&l);
    }
}

/* What converters before 2026 write: every piece NORMAL, brackets as they are. */
static void from_older_gguf(void **state)
{
    static const char *const tokens[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\xe2\x96\x81the", "m", "\xe2\x96\x81o"};
    struct lm_span texts[8];
    struct lm_meta *m = lm_meta_new();
    struct lmi_vocab *b = lmi_vocab_new();
    struct lm_ids ids = {0};
    struct lm_err e;

    (void)state;
    for (size_t i = 0; i < 8; i++)
        texts[i] = lm_span_str(tokens[i]);
    lm_meta_set_str(m, "tokenizer.ggml.model", lm_span_str("bert"));
    lm_meta_set_strs(m, "tokenizer.ggml.tokens", texts, 8);
    if (lmi_gguf_vocab_read(b, m, &e) != 1 || lmi_vocab_finish(b, &e) < 0)
        fail_msg("%s", e.text);
    struct loaded l = loaded_of(&b->v);
    assert_int_equal(lm_tokenizer_encode(l.t, lm_span_str("TH\xc3\x89m om xyz"), LM_ENCODE_BOS_EOS, &ids, &e), 0);
    const int32_t want[] = {2, 5, 6, 7, 6, 1, 3};
    assert_int_equal(ids.n, 7);
    assert_memory_equal(ids.ids, want, sizeof want);
    lm_ids_free(&ids);
    lm_meta_free(m);
    unload(&l);
}

static void through_tokenizer_json(void **state)
{
    static const char *const names[] = {"wp-bert", "wp-prefix", "wl-words"};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct loaded l = load(names[i], "/tokenizer.json");
        struct loaded back = through_file(l.v, "tokenizer.json", lmi_tokenizer_json_read);
        each_case(names[i], check_special, &back);
        unload(&back);
        unload(&l);
    }
}

static void what_gguf_cannot_hold(void **state)
{
    static const char *const names[] = {"wp-prefix", "wl-words"};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct loaded l = load(names[i], "/tokenizer.json");
        struct lm_meta *m = lm_meta_new();
        struct lm_err e;
        assert_int_equal(lm_vocab_to_meta(m, l.v, 0, &e), -1);
        assert_int_equal(e.code, LM_UNSUPPORTED);
        lm_meta_free(m);
        unload(&l);
    }
}

/* ---- RWKV */

/* By definition: of all pieces that begin the rest of the text the longest. */
static void check_greedy(void *user, const struct tok_case *c)
{
    const struct loaded *l = user;
    struct lm_ids ids = {0};
    struct lm_err e;
    size_t pos = 0, n;
    char *text;

    if (c->is_long)
        return;
    assert_int_equal(lm_tokenizer_encode(l->t, c->text, LM_ENCODE_OFFSETS, &ids, &e), 0);
    for (size_t i = 0; i < ids.n; i++) {
        struct lm_span rest = lm_span_of(c->text.data + pos, c->text.size - pos), mine = l->v->pieces[ids.ids[i]].text;
        assert_int_equal(ids.offsets[i].begin, pos);
        assert_true(mine.size <= rest.size && memcmp(mine.data, rest.data, mine.size) == 0);
        for (size_t k = 1; k < l->v->n_pieces; k++) {
            struct lm_span s = l->v->pieces[k].text;
            assert_false(s.size > mine.size && s.size <= rest.size && memcmp(s.data, rest.data, s.size) == 0);
        }
        pos += mine.size;
    }
    assert_int_equal(pos, c->text.size);
    assert_int_equal(lm_tokenizer_decode(l->t, ids.ids, ids.n, false, &text, &n, &e), 0);
    assert_int_equal(n, c->text.size);
    assert_memory_equal(text, c->text.data, n);
    free(text);
    lm_ids_free(&ids);
}

static void rwkv(void **state)
{
    struct loaded l = load("rwkv", "/rwkv_vocab_v20230424.txt"), gguf, file;

    (void)state;
    assert_int_equal(l.v->algo, LM_VOCAB_GREEDY);
    assert_int_equal(lm_vocab_find(l.v, lm_span_str("\n\n")) > 256, 1);
    assert_int_equal(lm_vocab_find(l.v, lm_span_str("don't")) > 256, 1);
    each_case("uni-plain", check_greedy, &l);
    gguf = through_gguf(l.v);
    file = through_file(l.v, "rwkv_vocab_v20230424.txt", lmi_rwkv_read);
    for (size_t i = 1; i < l.v->n_pieces; i++) {
        assert_true(lm_span_eq(l.v->pieces[i].text, gguf.v->pieces[i].text));
        assert_true(lm_span_eq(l.v->pieces[i].text, file.v->pieces[i].text));
    }
    unload(&gguf);
    unload(&file);
    unload(&l);
}

static void broken_rwkv_lines(void **state)
{
    static const char *const lines[] = {
        "1 'a' 2\n",        "1 'a'\n",          "x 'a' 1\n",       "1 a 1\n",           "1 'a\" 1\n",      "1 '\\x4' 1\n",
        "1 b'\\u0041' 1\n", "99999999 'a' 1\n", "1 '' 0\n",        "1 '\\' 1\n",        "1 '\\ud800' 3\n", "1 '\n",
        "1",                "1 ",               "1 ' 1\n",         "999999999999 'a' 1", "\n\n",           "1 '\\U00110000' 4\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct lmi_vocab *b = lmi_vocab_new();
        struct lm_err e = {0};
        if (lmi_rwkv_read(b, lm_span_str(lines[i]), &e) != -1)
            fail_msg("accepted: %s", lines[i]);
        assert_int_equal(e.code, LM_MALFORMED);
        lm_vocab_free(&b->v);
    }
}

/* ---- hostile texts and files */

static void long_words(void **state)
{
    enum { N = 1 << 20 };
    struct lmi_vocab *b = lmi_vocab_new();
    struct lm_err e;
    struct lm_ids ids = {0};
    char file[9000], *text = malloc(N);
    size_t n = 0;

    (void)state;
    /* A word of any length is taken, and every piece of it is looked for past its end. */
    n += (size_t)sprintf(file, "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","
                               "\"max_input_chars_per_word\":100000000,\"vocab\":{\"[UNK]\":0,\"a\":1,\"##a\":2");
    for (int k = 2; k < 100; k++)
        n += (size_t)sprintf(file + n, ",\"##%.*sb\":%d", k, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                             "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", k + 1);
    n += (size_t)sprintf(file + n, "}}}");
    if (lmi_tokenizer_json_read(b, lm_span_of(file, n), &e) < 0 || lmi_vocab_finish(b, &e) < 0)
        fail_msg("%s", e.text);
    struct loaded l = loaded_of(&b->v);
    memset(text, 'a', N);
    assert_int_equal(lm_tokenizer_encode(l.t, lm_span_of(text, N), 0, &ids, &e), 0);
    assert_int_equal(ids.n, N);
    assert_int_equal(ids.ids[0], 1);
    assert_int_equal(ids.ids[N - 1], 2);
    ids.n = 0;
    text[N - 1] = 'c';
    assert_int_equal(lm_tokenizer_encode(l.t, lm_span_of(text, N), 0, &ids, &e), 0);
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.ids[0], 0);
    free(text);
    lm_ids_free(&ids);
    unload(&l);
}

static void broken_models(void **state)
{
    static const char *const files[] = {
        "{\"model\":{\"type\":\"WordPiece\",\"vocab\":[]}}",
        "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}",
        "{\"model\":{\"type\":\"WordLevel\"}}",
        "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":-1}}}",
        "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"b\":0}}}",
        "{\"model\":{\"type\":\"WordPiece\",\"vocab\":[[\"a\",-1]]}}",
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":{\"a\":0}}}",
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}",
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",\"b\"]]}}",
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1,2]]}}",
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1e999]]}}",
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1]],\"unk_id\":1}}",
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1]],\"unk_id\":-1}}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct lmi_vocab *b = lmi_vocab_new();
        struct lm_err e = {0};
        if (lmi_tokenizer_json_read(b, lm_span_str(files[i]), &e) == 0 && lmi_vocab_finish(b, &e) == 0)
            fail_msg("accepted: %s", files[i]);
        assert_int_equal(e.code, LM_MALFORMED);
        lm_vocab_free(&b->v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_hugging_face),      cmocka_unit_test(from_vocab_txt),     cmocka_unit_test(framed_by_cls_and_sep),
        cmocka_unit_test(special_text_is_text), cmocka_unit_test(through_gguf_keys),  cmocka_unit_test(from_older_gguf),
        cmocka_unit_test(through_tokenizer_json), cmocka_unit_test(what_gguf_cannot_hold), cmocka_unit_test(rwkv),
        cmocka_unit_test(broken_rwkv_lines),    cmocka_unit_test(long_words),         cmocka_unit_test(broken_models),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
