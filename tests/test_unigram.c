/* Unigram, and SentencePiece's WORD and CHAR models: ids against the reference
 * libraries', other forms of the same vocabulary, hostile models and texts. */
#include "tests/tok_cases.h"

#include "libmodel/parse/protobuf.h"

static const char *const spm_names[] = {
    "uni-plain",  "uni-rules",  "uni-bytes",  "uni-no-unk", "uni-user",   "uni-suffix",
    "uni-across", "uni-spaces", "word-plain", "word-bytes", "char-plain", "char-bytes",
};
enum { N_SPM = sizeof spm_names / sizeof *spm_names };

static void as_sentencepiece(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SPM; i++) {
        struct loaded l = load(spm_names[i], "/tokenizer.model");
        assert_int_equal(each_case(spm_names[i], check_plain, &l), 124);
        unload(&l);
    }
}

static void as_hugging_face(void **state)
{
    static const char *const names[] = {"hfuni-meta", "hfuni-bytes"};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct loaded l = load(names[i], "/tokenizer.json");
        assert_int_equal(l.v->algo, LM_VOCAB_UNIGRAM);
        assert_int_equal(each_case(names[i], check_special, &l), 124);
        unload(&l);
    }
}

/* Ids in the middle of a text, where sums have lost precision, are those of the
 * whole text: words must not be answered from the cache then. */
static void sums_matter(void **state)
{
    struct loaded l = load("uni-plain", "/tokenizer.model");
    struct lm_ids once = {0}, many = {0};
    struct lm_err e;
    enum { N = 3000 };
    char *text = malloc(4 * N);

    (void)state;
    for (size_t i = 0; i < N; i++)
        memcpy(text + 4 * i, "aab ", 4);
    assert_int_equal(lm_tokenizer_encode(l.t, lm_span_of(text, 4), 0, &once, &e), 0);
    assert_int_equal(lm_tokenizer_encode(l.t, lm_span_of(text, 4 * N), 0, &many, &e), 0);
    assert_true(many.n >= N); /* the cases of this file say which ids */
    assert_int_equal(many.ids[0], once.ids[0]);
    free(text);
    lm_ids_free(&once);
    lm_ids_free(&many);
    unload(&l);
}

/* ---- other forms */

static void through_gguf_keys(void **state)
{
    static const char *const names[] = {"uni-plain", "uni-rules", "uni-bytes", "uni-no-unk", "uni-across"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct loaded l = load(names[i], "/tokenizer.model"), back = through_gguf(l.v);
        assert_int_equal(back.v->algo, LM_VOCAB_UNIGRAM);
        assert_int_equal(back.v->unk_id, l.v->unk_id);
        assert_int_equal(back.v->remove_extra_whitespaces, l.v->remove_extra_whitespaces);
        each_case(names[i], check_plain, &back);
        unload(&back);
        unload(&l);
    }
}

static void through_a_model_file(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SPM; i++) {
        struct loaded l = load(spm_names[i], "/tokenizer.model");
        struct loaded back = through_file(l.v, "tokenizer.model", lmi_spm_read);
        each_case(spm_names[i], check_plain, &back);
        unload(&back);
        unload(&l);
    }
}

static double score_of(const struct lm_vocab *v, int64_t id)
{
    return v->pieces[id].kind == LM_PIECE_NORMAL ? (double)v->pieces[id].score : -20;
}

/* The same ids, or others whose scores add up to the same: doubles break ties
 * elsewhere than floats. */
static void check_best(const struct loaded *l, const struct tok_case *c)
{
    const json_t *want = json_object_get(c->json, "ids");
    struct lm_ids ids = {0};
    struct lm_err e;
    double sum = 0;

    assert_int_equal(lm_tokenizer_encode(l->t, c->text, 0, &ids, &e), 0);
    for (size_t i = 0; i < ids.n; i++)
        sum += score_of(l->v, ids.ids[i]);
    for (size_t i = 0; i < json_array_size(want); i++)
        sum -= score_of(l->v, json_integer_value(json_array_get(want, i)));
    if (!ids_are(c, &ids) && (sum > 1e-4 || sum < -1e-4))
        fail_case(c, &ids);
    lm_ids_free(&ids);
}

/* Of UTF-8; the rules of a charsmap are applied otherwise there. */
static void only_sound(void *user, const struct tok_case *c)
{
    bool sound = true;

    for (size_t i = 0, w; i < c->text.size && sound; i += w) {
        char one[5] = {0};
        w = c->text.data[i] < 0x80 ? 1 : c->text.data[i] < 0xe0 ? 2 : c->text.data[i] < 0xf0 ? 3 : 4;
        sound = c->text.data[i] >= 0xc2 || c->text.data[i] < 0x80;
        sound &= i + w <= c->text.size;
        if (sound)
            memcpy(one, c->text.data + i, w);
        for (size_t k = 1; k < w && sound; k++)
            sound = ((uint8_t)one[k] & 0xc0) == 0x80;
    }
    /* Pieces in angle brackets are found in a text there. */
    if (sound && !c->is_long && !memchr(c->text.data, '<', c->text.size))
        check_best(user, c);
}

static void through_tokenizer_json(void **state)
{
    static const char *const names[] = {"uni-plain", "uni-bytes", "uni-across"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct loaded l = load(names[i], "/tokenizer.model");
        struct loaded back = through_file(l.v, "tokenizer.json", lmi_tokenizer_json_read);
        each_case(names[i], only_sound, &back);
        unload(&back);
        unload(&l);
    }
}

static void what_gguf_cannot_hold(void **state)
{
    static const char *const names[] = {"uni-suffix", "word-plain", "char-plain"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct loaded l = load(names[i], "/tokenizer.model");
        struct lm_meta *m = lm_meta_new();
        struct lm_err e;
        assert_int_equal(lm_vocab_to_meta(m, l.v, 0, &e), -1);
        assert_int_equal(e.code, LM_UNSUPPORTED);
        lm_meta_free(m);
        unload(&l);
    }
}

/* ---- hostile models */

struct model {
    struct lmi_buf buf;
    unsigned type; /* 0: Unigram */
};

static void add_piece(struct model *m, const char *text, size_t n, float score, unsigned kind)
{
    struct lmi_buf p = {0};

    lmi_pb_put_bytes(&p, 1, lm_span_of(text, n));
    lmi_pb_put_float(&p, 2, score);
    lmi_pb_put_uint(&p, 3, kind);
    lmi_pb_put_bytes(&m->buf, 1, lm_span_of(p.data, p.n));
    lmi_buf_free(&p);
}

static void add_type(struct model *m, unsigned type)
{
    struct lmi_buf t = {0};

    lmi_pb_put_uint(&t, 3, type);
    lmi_pb_put_bytes(&m->buf, 2, lm_span_of(t.data, t.n));
    lmi_buf_free(&t);
}

/* Opens the model and makes a tokenizer; the code of what failed, LM_OK if nothing did. */
static enum lm_code outcome(struct model *m, struct lm_tokenizer **t, struct lmi_vocab **v)
{
    struct lm_err e = {0};

    *t = NULL;
    *v = lmi_vocab_new();
    add_type(m, m->type ? m->type : 1);
    int rc = lmi_spm_read(*v, lm_span_of(m->buf.data, m->buf.n), &e) < 0 || lmi_vocab_finish(*v, &e) < 0 ? -1
             : lm_tokenizer_new(t, &(*v)->v, &e);
    lmi_buf_free(&m->buf);
    return rc < 0 ? e.code : LM_OK;
}

static void refused(struct model *m, enum lm_code code)
{
    struct lm_tokenizer *t;
    struct lmi_vocab *v;

    assert_int_equal(outcome(m, &t, &v), code);
    lm_tokenizer_free(t);
    lm_vocab_free(&v->v);
}

static void broken_models(void **state)
{
    static const uint32_t odd[] = {0x7f800000, 0xff800000, 0x7fc00000}; /* infinite, not a number */
    static char longest[1025];

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct model m = {0};
        float score;
        memcpy(&score, &odd[i], sizeof score);
        add_piece(&m, "<unk>", 5, 0, 2);
        add_piece(&m, "a", 1, score, 1);
        refused(&m, LM_MALFORMED);
    }
    struct model no_unk = {0}, two = {0}, type = {.type = 5}, big = {0};
    add_piece(&no_unk, "a", 1, -1, 1);
    refused(&no_unk, LM_MALFORMED);
    add_piece(&two, "<unk>", 5, 0, 2);
    add_piece(&two, "a", 1, -1, 1);
    add_piece(&two, "a", 1, -2, 1);
    refused(&two, LM_MALFORMED);
    add_piece(&type, "<unk>", 5, 0, 2);
    refused(&type, LM_MALFORMED);
    memset(longest, 'a', sizeof longest);
    add_piece(&big, "<unk>", 5, 0, 2);
    add_piece(&big, longest, sizeof longest, -1, 1);
    refused(&big, LM_LIMIT);
}

/* No normal piece at all, or scores at the ends of a float: odd, but the ids hold. */
static void extreme_scores(void **state)
{
    static const float scores[] = {3e38f, -3e38f, 1e-40f, -1e5f, 1e5f};
    struct lm_tokenizer *t;
    struct lmi_vocab *v;
    struct lm_err e;

    (void)state;
    for (size_t i = 0; i < sizeof scores / sizeof *scores; i++) {
        struct model m = {0};
        struct lm_ids ids = {0};
        add_piece(&m, "<unk>", 5, 0, 2);
        add_piece(&m, "a", 1, scores[i], 1);
        add_piece(&m, "aa", 2, scores[i], 1);
        add_piece(&m, "b", 1, 0, 4);
        assert_int_equal(outcome(&m, &t, &v), LM_OK);
        assert_int_equal(lm_tokenizer_encode(t, lm_span_str("aaaa bbb aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa cc"), 4, &ids, &e), 0);
        for (size_t k = 0; k < ids.n; k++)
            assert_in_range(ids.ids[k], 0, 3);
        lm_ids_free(&ids);
        lm_tokenizer_free(t);
        lm_vocab_free(&v->v);
    }
}

/* ---- hostile texts: one letter, one space, no space; a vocabulary whose pieces share all their prefixes */

static void many_of_one(struct lm_tokenizer *t, int byte)
{
    enum { N = 1 << 20 };
    struct lm_ids ids = {0};
    struct lm_err e;
    char *text = malloc(N);
    size_t end = 0;

    memset(text, byte, N);
    assert_int_equal(lm_tokenizer_encode(t, lm_span_of(text, N), LM_ENCODE_OFFSETS, &ids, &e), 0);
    for (size_t i = 0; i < ids.n; i++) {
        assert_true(ids.offsets[i].begin == end || ids.offsets[i].begin == ids.offsets[i].end);
        end = ids.offsets[i].end;
    }
    free(text);
    lm_ids_free(&ids);
}

static void long_texts(void **state)
{
    struct loaded l = load("uni-bytes", "/tokenizer.model");
    struct model m = {0};
    struct lm_tokenizer *t;
    struct lmi_vocab *v;
    char piece[64];

    (void)state;
    many_of_one(l.t, 'a');
    many_of_one(l.t, ' ');
    many_of_one(l.t, 'Q');
    many_of_one(l.t, 0xff);
    unload(&l);
    memset(piece, 'a', sizeof piece);
    add_piece(&m, "<unk>", 5, 0, 2);
    for (size_t n = 1; n <= sizeof piece; n++)
        add_piece(&m, piece, n, -(float)n, 1);
    assert_int_equal(outcome(&m, &t, &v), LM_OK);
    many_of_one(t, 'a');
    lm_tokenizer_free(t);
    lm_vocab_free(&v->v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_sentencepiece),     cmocka_unit_test(as_hugging_face), cmocka_unit_test(sums_matter),
        cmocka_unit_test(through_gguf_keys),    cmocka_unit_test(through_a_model_file),
        cmocka_unit_test(through_tokenizer_json), cmocka_unit_test(what_gguf_cannot_hold),
        cmocka_unit_test(broken_models),        cmocka_unit_test(extreme_scores),  cmocka_unit_test(long_texts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
