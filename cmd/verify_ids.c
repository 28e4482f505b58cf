/* Which tokens lm-verify compares. */
#include <stdlib.h>

#include "cmd/verify.h"

enum { N_SPREAD = 256 };

static const char built_in_text[] =
    "Wieczorem rzeka była spokojna, a nad łąkami stała mgła. Stary młynarz siedział na progu i liczył worki, które "
    "rano miał odwieźć do miasteczka. „Trzydzieści dwa”, powiedział wreszcie i zamknął zeszyt.\n"
    "The river was quiet that evening, and mist lay over the meadows. The old miller sat on his doorstep counting "
    "the sacks that he would take to town in the morning. \"Thirty-two,\" he said at last, and closed the book.\n"
    "def mill(sacks):\n    return [grind(s) for s in sacks if s.weight > 0]\n"
    "1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144 … 2024-11-24, 19:45; 3.14159 + 2.71828 = 5.85987\n";

/* Ids over the whole vocabulary, the same ones every time. */
static int spread_ids(struct verify *v, struct lm_err *e)
{
    size_t n = v->o.tokens ? v->o.tokens : N_SPREAD;

    v->ids.ids = calloc(n, sizeof *v->ids.ids);
    if (!v->ids.ids)
        return lm_err_set(e, LM_NOMEM, "no memory for %zu ids", n);
    for (size_t i = 0; i < n; i++)
        v->ids.ids[i] = (int32_t)((uint32_t)(i + 1) * 2654435761u % v->vocab);
    v->ids.n = n;
    return 0;
}

static int same_ids(struct verify *v, struct lm_span text, struct lm_err *e)
{
    struct lm_ids other;
    int r = 0;

    if (cli_encode(&v->b, text, 0, &other, e) != 0)
        return -1;
    for (size_t i = 0; r == 0 && (i < v->ids.n || i < other.n); i++) {
        int32_t a = i < v->ids.n ? v->ids.ids[i] : -1, b = i < other.n ? other.ids[i] : -1;
        if (a != b)
            r = lm_err_set(e, LM_MISMATCH,
                           "the tokenizers differ: token %zu of the text is %d (%s) in %s and %d (%s) in %s; logits "
                           "of different tokens cannot be compared", i, a, cli_piece(&v->a, a), v->path_a, b,
                           cli_piece(&v->b, b), v->path_b);
    }
    lm_ids_free(&other);
    return r;
}

static int text_ids(struct verify *v, struct lm_err *e)
{
    char *text = NULL;
    size_t n = sizeof built_in_text - 1;

    if (v->o.text && cli_read_text(&text, &n, NULL, v->o.text, e) != 0)
        return -1;
    struct lm_span span = lm_span_of(text ? text : built_in_text, n);
    int r = cli_encode(v->a.tok ? &v->a : &v->b, span, 0, &v->ids, e);
    if (r == 0 && v->a.tok && v->b.tok)
        r = same_ids(v, span, e);
    free(text);
    if (r == 0 && v->ids.n == 0)
        r = lm_err_set(e, LM_USAGE, "the text has no tokens");
    if (v->o.tokens && v->ids.n > v->o.tokens)
        v->ids.n = v->o.tokens;
    return r;
}

static int check_ids(const struct verify *v, struct lm_err *e)
{
    for (size_t i = 0; i < v->ids.n; i++)
        if (v->ids.ids[i] < 0 || (uint32_t)v->ids.ids[i] >= v->vocab)
            return lm_err_set(e, LM_MISMATCH, "token %zu has id %d, but the vocabulary ends at %u", i, v->ids.ids[i],
                              v->vocab);
    return 0;
}

int verify_find_ids(struct verify *v, struct lm_err *e)
{
    int r;

    if (v->a.tok || v->b.tok)
        r = text_ids(v, e);
    else if (v->o.text)
        r = lm_err_set(e, LM_MISSING, "neither %s nor %s has a tokenizer for --text; without it, ids spread over the "
                       "vocabulary are compared", v->path_a, v->path_b);
    else
        r = spread_ids(v, e);
    return r == 0 ? check_ids(v, e) : -1;
}

/* ---- a reference */

/* Leading dimensions of one (a batch) do not count. */
static bool has_shape(const struct lm_tensor *t, unsigned n_dims, const uint64_t *want)
{
    unsigned skip = t->n_dims - n_dims;

    if (t->n_dims < n_dims)
        return false;
    for (unsigned i = 0; i < t->n_dims; i++)
        if (t->shape[i] != (i < skip ? 1 : want[i - skip]))
            return false;
    return true;
}

static int read_ids(struct verify *v, const struct lm_tensor *t, struct lm_err *e)
{
    size_t width = t->dtype == LM_I64 ? 8 : 4;

    if (t->dtype != LM_I32 && t->dtype != LM_I64)
        return lm_err_set(e, LM_UNSUPPORTED, "input_ids is %s; I32 or I64 is expected", lm_dtype_name(t->dtype));
    if (t->n_elems == 0 || !has_shape(t, 1, &t->n_elems))
        return lm_err_set(e, LM_MISMATCH, "input_ids is not one sequence");
    v->ids.ids = calloc(t->n_elems, sizeof *v->ids.ids);
    if (!v->ids.ids)
        return lm_err_set(e, LM_NOMEM, "no memory for %llu ids", (unsigned long long)t->n_elems);
    for (size_t i = 0; i < t->n_elems; i++) {
        uint8_t raw[8];
        lm_tensor_read(t, i * width, width, raw);
        int64_t id = width == 8 ? (int64_t)lm_load_u64le(raw) : (int32_t)lm_load_u32le(raw);
        v->ids.ids[i] = id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
    }
    v->ids.n = v->o.tokens && v->o.tokens < t->n_elems ? v->o.tokens : t->n_elems;
    return check_ids(v, e);
}

int verify_reference_open(struct verify *v, struct lm_err *e)
{
    if (lm_model_open(&v->reference, v->o.reference, e) != 0)
        return -1;
    const struct lm_tensor *ids = lm_model_find(v->reference, "input_ids");
    const struct lm_tensor *logits = lm_model_find(v->reference, "logits");
    if (!ids || !logits)
        return lm_err_set(e, LM_MISSING, "%s has no tensor called %s; a reference holds input_ids and logits",
                          v->o.reference, ids ? "logits" : "input_ids");
    uint64_t want[2] = {ids->n_elems, v->vocab};
    char shape[200];
    if (!has_shape(logits, 2, want))
        return lm_err_set(e, LM_MISMATCH, "%s: logits is %s, [%llu, %u] is expected: one row a token, as wide as the "
                          "model's vocabulary", v->o.reference, lm_tensor_shape_str(logits, shape, sizeof shape),
                          (unsigned long long)want[0], v->vocab);
    v->ref_logits = logits;
    return read_ids(v, ids, e) == 0 ? 0 : lm_err_prefix(e, "%s", v->o.reference);
}
