/* A checkpoint, its tokenizer, an engine and a session, opened together. */
#include "cmd/cli_engine.h"

#include <stdlib.h>

const char *const cli_precisions[] = {"f32", "f64", NULL};
const char *const cli_maths[] = {"auto", "exact", "fast", "tf32", "bf16", "f64", NULL};

int cli_load(struct cli_loaded *l, const char *path, bool needs_tokenizer, struct lm_err *e)
{
    *l = (struct cli_loaded){0};
    if (lm_model_open(&l->model, path, e) != 0)
        return -1;
    int found = lm_vocab_of_model(&l->vocab, l->model, e);
    if (found < 0 && needs_tokenizer)
        return -1;
    if (found < 0)
        cli_note("%s: note: %s; going on without a tokenizer", cli_name(), e->text);
    if (found != 1)
        l->vocab = NULL;
    if (found == 0 && needs_tokenizer)
        return lm_err_set(e, LM_MISSING, "%s has no tokenizer", path);
    return l->vocab ? lm_tokenizer_new(&l->tok, l->vocab, e) : 0;
}

/* Rounding activations is lost in the noise of block-quantized weights, but
 * would be the largest error beside weights of 16 bits. */
static enum lm_math auto_math(const struct lm_model *m)
{
    uint64_t all = 0, quantized = 0;

    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        all += t->n_elems;
        if (lm_dtype_info(t->dtype)->kind == LM_KIND_QUANT)
            quantized += t->n_elems;
    }
    return quantized > all / 2 ? LM_MATH_FAST : LM_MATH_EXACT;
}

int cli_start(struct cli_loaded *l, const struct cli_engine_opts *o, uint64_t n_positions, struct lm_err *e)
{
    static const enum lm_math maths[] = {LM_MATH_EXACT, LM_MATH_EXACT, LM_MATH_FAST, LM_MATH_TF32, LM_MATH_BF16,
                                        LM_MATH_F64};
    uint64_t ctx = o->ctx ? o->ctx : n_positions;
    struct lm_engine_options eo = {.device = o->device ? o->device : "auto",
                                   .math = o->precision == CLI_PRECISION_F64 ? LM_MATH_F64
                                           : o->math == CLI_MATH_AUTO ? auto_math(l->model) : maths[o->math],
                                   .n_threads = o->threads,
                                   .ctx_len = (uint32_t)ctx};

    if (ctx > UINT32_MAX / 2)
        return lm_err_set(e, LM_USAGE, "a context of %llu positions is more than can be provided",
                          (unsigned long long)ctx);
    if (lm_engine_open(&l->engine, l->model, &eo, e) != 0)
        return -1;
    return lm_session_open(&l->session, l->engine, e);
}

void cli_unload(struct cli_loaded *l)
{
    lm_session_close(l->session);
    lm_engine_close(l->engine);
    lm_tokenizer_free(l->tok);
    lm_vocab_free(l->vocab);
    lm_model_close(l->model);
    *l = (struct cli_loaded){0};
}

static int put_in_front(struct lm_ids *l, int32_t id, struct lm_err *e)
{
    int32_t *ids = realloc(l->ids, (l->n + 1) * sizeof *ids);

    if (!ids)
        return lm_err_set(e, LM_NOMEM, "no memory for %zu ids", l->n + 1);
    memmove(ids + 1, ids, l->n * sizeof *ids);
    ids[0] = id;
    l->ids = ids;
    l->n++;
    l->capacity = l->n;
    return 0;
}

int cli_encode(const struct cli_loaded *l, struct lm_span text, unsigned flags, struct lm_ids *ids, struct lm_err *e)
{
    const struct lm_vocab *v = l->vocab;

    *ids = (struct lm_ids){0};
    if (lm_tokenizer_encode(l->tok, text, flags, ids, e) != 0)
        return -1;
    bool has_bos = ids->n > 0 && ids->ids[0] == v->bos_id;
    if (v->add_bos && v->bos_id >= 0 && !has_bos)
        return put_in_front(ids, (int32_t)v->bos_id, e);
    return 0;
}

/* The same text with every space as U+2581, malloc'd; *n becomes its size. */
static char *mark_spaces(const uint8_t *text, size_t *n)
{
    char *out = malloc(*n * 3 + 1), *p = out;

    for (size_t i = 0; out && i < *n; i++) {
        if (text[i] == ' ') {
            memcpy(p, "▁", 3);
            p += 3;
        } else {
            *p++ = (char)text[i];
        }
    }
    *n = (size_t)(p - out);
    return out;
}

const char *cli_piece(const struct cli_loaded *l, int32_t id)
{
    enum { MOST = 48 };
    uint8_t bytes[MOST + 4];

    if (!l->tok || id < 0 || (size_t)id >= l->vocab->n_pieces)
        return "?";
    size_t n = lm_tokenizer_piece_bytes(l->tok, id, false, true, bytes, sizeof bytes);
    if (n > MOST) { /* cut between characters */
        for (n = MOST; n > 0 && (bytes[n] & 0xc0) == 0x80; n--)
            ;
        memcpy(bytes + n, "…", 3);
        n += 3;
    }
    char *marked = mark_spaces(bytes, &n);
    const char *shown = marked ? cli_safe(lm_span_of(marked, n)) : "?";
    free(marked);
    return shown;
}
