/* "model" of a tokenizer.json that is not BPE:
 *   Unigram    vocab [[text, score], …], unk_id, byte_fallback
 *   WordPiece  vocab {text: id}, unk_token, continuing_subword_prefix, max_input_chars_per_word
 *   WordLevel  vocab {text: id}, unk_token
 * The vocabulary was read as it stands in the file; model has the other members. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/tok/hf_vocab.h"

/* ---- scores
 *
 * Hugging Face's reader of numbers (serde_json) does not round correctly: digits
 * are gathered in 64 bits and scaled once by a power of ten, which is often one
 * unit in the last place off. Near-ties between pieces hang on that, so we read
 * scores the same way. */

static double power_of_ten(int n)
{
    char text[16];

    snprintf(text, sizeof text, "1e%d", n);
    return strtod(text, NULL);
}

static double scale(uint64_t digits, int exponent)
{
    double f = (double)digits;

    while (exponent < -308 && f != 0) {
        f /= 1e308;
        exponent += 308;
    }
    if (f == 0)
        return 0;
    return exponent < 0 ? f / power_of_ten(-exponent) : exponent > 308 ? INFINITY : f * power_of_ten(exponent);
}

struct number {
    struct lm_span s;
    size_t i;
    uint64_t digits;
    int exponent;
    bool full; /* no more digits fit */
};

static bool is_digit(const struct number *x)
{
    return x->i < x->s.size && x->s.data[x->i] >= '0' && x->s.data[x->i] <= '9';
}

static void take_digits(struct number *x, bool fraction)
{
    for (; is_digit(x); x->i++) {
        uint64_t d = (uint64_t)(x->s.data[x->i] - '0');
        x->full = x->full || x->digits > (UINT64_MAX - d) / 10;
        if (!x->full)
            x->digits = x->digits * 10 + d;
        x->exponent += fraction ? -!x->full : x->full;
    }
}

static int exponent_of(struct number *x)
{
    bool negative = false;
    int n = 0;

    if (x->i >= x->s.size)
        return 0;
    x->i++; /* e */
    if (x->i < x->s.size && (x->s.data[x->i] == '-' || x->s.data[x->i] == '+'))
        negative = x->s.data[x->i++] == '-';
    for (; is_digit(x); x->i++)
        n = n < 100000 ? n * 10 + (x->s.data[x->i] - '0') : n;
    return negative ? -n : n;
}

/* s is a number by JSON's grammar. */
static double number_of(struct lm_span s)
{
    struct number x = {.s = s, .i = s.data[0] == '-'};

    take_digits(&x, false);
    if (x.i < s.size && s.data[x.i] == '.') {
        x.i++;
        take_digits(&x, true);
    }
    x.exponent += exponent_of(&x);
    double f = scale(x.digits, x.exponent);
    return s.data[0] == '-' ? -f : f;
}

/* ---- Unigram */

static bool more_scores(struct lmi_vocab *b)
{
    size_t n = b->n_scores;

    if (n > 0 && (n & (n - 1)) != 0) /* room is powers of two */
        return true;
    double *p = n > SIZE_MAX / 16 / sizeof *p ? NULL : realloc(b->scores, (n ? 2 * n : 1) * sizeof *p);
    if (p)
        b->scores = p;
    return p != NULL;
}

/* [text, score] */
static int read_pair(struct lmi_vocab *b, struct lmi_pull *p)
{
    struct lm_span text;
    size_t n = 0, id = b->v.n_pieces, begin;

    if (lmi_pull_peek(p) != '[' || lmi_pull_element(p, &n) != 1 || lmi_pull_peek(p) != '"')
        return lm_err_set(p->e, LM_MALFORMED, "model.vocab[%zu] is no pair of a text and a score", id);
    if (lmi_pull_string(p, &text) < 0)
        return -1;
    if (lmi_pull_element(p, &n) != 1 || (lmi_pull_peek(p) != '-' && (lmi_pull_peek(p) < '0' || lmi_pull_peek(p) > '9')))
        return lm_err_set(p->e, LM_MALFORMED, "model.vocab[%zu] is no pair of a text and a score", id);
    begin = p->pos;
    if (lmi_pull_skip(p) < 0)
        return -1;
    double score = number_of(lm_span_of(p->text.data + begin, p->pos - begin));
    if (lmi_pull_element(p, &n) != 0 || !isfinite((float)score))
        return lm_err_set(p->e, LM_MALFORMED, "the score of model.vocab[%zu] is no finite float", id);
    struct lm_piece *piece = more_scores(b) ? lmi_vocab_piece(b, id) : NULL;
    if (!piece)
        return lmi_nomem_vocab(p->e);
    b->scores[b->n_scores++] = score;
    *piece = (struct lm_piece){.text = lmi_vocab_copy(b, text), .score = (float)score, .kind = LM_PIECE_NORMAL,
                               .in_model = true};
    return piece->text.data ? 0 : lmi_nomem_vocab(p->e);
}

int lmi_unigram_stream(struct lmi_vocab *b, struct lmi_pull *p)
{
    bool exact = true;
    size_t n = 0;
    int rc;

    b->hf = true;
    while ((rc = lmi_pull_element(p, &n)) > 0) {
        if (read_pair(b, p) < 0)
            return -1;
        exact &= (double)b->pieces[b->v.n_pieces - 1].score == b->scores[b->n_scores - 1];
    }
    if (rc == 0 && exact) { /* they were floats, and the pieces have them */
        free(b->scores);
        b->scores = NULL;
        b->n_scores = 0;
    }
    return rc;
}

static void mark_bytes(struct lmi_vocab *b)
{
    for (size_t i = 0; i < b->v.n_pieces && b->v.byte_fallback; i++)
        if (lmi_byte_piece(b->pieces[i].text) >= 0)
            b->pieces[i].kind = LM_PIECE_BYTE;
}

int lmi_hf_unigram(struct lmi_vocab *b, const json_t *model, struct lm_err *e)
{
    const json_t *unk = json_object_get(model, "unk_id");

    b->v.algo = LM_VOCAB_UNIGRAM;
    b->v.fuse_unk = true;
    if (b->v.n_pieces == 0 || !b->hf)
        return lm_err_set(e, LM_MALFORMED, "model.vocab is no list of pieces with scores");
    b->v.byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    mark_bytes(b);
    if (json_is_integer(unk)) {
        json_int_t id = json_integer_value(unk);
        if (id < 0 || (size_t)id >= b->v.n_pieces)
            return lm_err_set(e, LM_MALFORMED, "model.unk_id is %lld, but there are %zu pieces", (long long)id,
                              b->v.n_pieces);
        b->v.unk_id = id;
        b->pieces[id].kind = LM_PIECE_UNKNOWN;
    }
    return lmi_vocab_index(b, e);
}

/* ---- WordPiece, WordLevel */

static int read_words(struct lmi_vocab *b, const json_t *model, struct lm_err *e)
{
    struct lm_span unk = lm_json_span(json_object_get(model, "unk_token"));

    if (b->v.n_pieces == 0 || b->hf)
        return lm_err_set(e, LM_MALFORMED, "model.vocab is no object with pieces");
    uint32_t id = unk.data ? lmi_texts_get(&b->texts, unk) : LMI_NONE;
    if (id != LMI_NONE) {
        b->v.unk_id = id;
        b->pieces[id].kind = LM_PIECE_UNKNOWN;
    }
    return 0;
}

int lmi_hf_wordpiece(struct lmi_vocab *b, const json_t *model, struct lm_err *e)
{
    struct lm_span prefix = lm_json_span(json_object_get(model, "continuing_subword_prefix"));
    const json_t *limit = json_object_get(model, "max_input_chars_per_word");

    b->v.algo = LM_VOCAB_WORDPIECE;
    b->v.continuing_subword_prefix = lmi_vocab_copy(b, prefix.data ? prefix : lm_span_str("##"));
    if (!b->v.continuing_subword_prefix.data)
        return lmi_nomem_vocab(e);
    b->v.max_input_chars_per_word = 100;
    if (json_is_integer(limit) && json_integer_value(limit) >= 0)
        b->v.max_input_chars_per_word = (size_t)json_integer_value(limit);
    return read_words(b, model, e);
}

int lmi_hf_wordlevel(struct lmi_vocab *b, const json_t *model, struct lm_err *e)
{
    b->v.algo = LM_VOCAB_WORDLEVEL;
    return read_words(b, model, e);
}
