#include <errno.h>
#include <stdlib.h>

#include "cmd/calibrate.h"

/* ---- ids instead of text */

static int add_id(struct lm_ids *ids, long id, struct lm_err *e)
{
    if (ids->n == ids->capacity) {
        size_t capacity = 2 * ids->capacity + 1024;
        int32_t *bigger = reallocarray(ids->ids, capacity, sizeof *bigger);
        if (!bigger)
            return lm_err_set(e, LM_NOMEM, "no memory for %zu ids", capacity);
        ids->ids = bigger;
        ids->capacity = capacity;
    }
    ids->ids[ids->n++] = (int32_t)id;
    return 0;
}

/* Decimal numbers with anything blank, commas or brackets between them. */
static int read_ids(struct lm_ids *ids, const char *text, size_t n, struct lm_err *e)
{
    const char *end = text + n;

    while (text < end) {
        char *stop;
        if (*text && strchr(" \t\r\n,[]", *text)) {
            text++;
            continue;
        }
        errno = 0;
        long id = strtol(text, &stop, 10);
        if (stop == text || errno || id < 0 || id > INT32_MAX)
            return lm_err_set(e, LM_MALFORMED, "\"%s\" is not a token id",
                              cli_safe(lm_span_of(text, end - text < 12 ? (size_t)(end - text) : 12)));
        if (add_id(ids, id, e))
            return -1;
        text = stop;
    }
    return 0;
}

static int check_ids(const struct lm_ids *ids, const struct cli_loaded *l, struct lm_err *e)
{
    const char *why = NULL;
    struct lm_config c;

    if (lm_config_read(&c, l->model, &why, e) < 0)
        return -1;
    for (size_t i = 0; i < ids->n; i++)
        if ((uint32_t)ids->ids[i] >= c.vocab_size)
            return lm_err_set(e, LM_MISMATCH, "token %zu has id %d, but the vocabulary ends at %u", i, ids->ids[i],
                              c.vocab_size);
    return 0;
}

/* ---- texts */

static int read_text(struct calibrate_text *t, const struct cli_loaded *l, const struct calibrate_opts *o, struct lm_err *e)
{
    char *text = NULL;
    size_t n = 0;

    if (cli_read_text(&text, &n, NULL, t->name, e))
        return -1;
    int rc = o->ids ? read_ids(&t->ids, text, n, e)
                    : cli_encode(l, lm_span_of(text, n), o->special ? LM_ENCODE_SPECIAL : 0, &t->ids, e);
    free(text);
    return rc || check_ids(&t->ids, l, e) ? lm_err_prefix(e, "%s", t->name) : 0;
}

/* Chunks first .. first + n - 1 of all are taken from the texts in their order. */
static void take(struct calibrate_texts *t, uint64_t skip, uint64_t most)
{
    for (size_t i = 0; i < t->n; i++) {
        uint64_t here = t->of[i].ids.n / t->ctx, skipped = skip < here ? skip : here, left = here - skipped;
        t->n_there += here;
        t->of[i].first = skipped;
        t->of[i].n = most && left > most - t->n_chunks ? most - t->n_chunks : left;
        t->n_chunks += t->of[i].n;
        skip -= skipped;
    }
}

int calibrate_texts_read(struct calibrate_texts *t, const struct cli_loaded *l, const struct calibrate_opts *o,
                         uint32_t ctx, struct lm_err *e)
{
    uint64_t tokens = 0;

    *t = (struct calibrate_texts){.of = calloc(o->texts.n, sizeof *t->of), .ctx = ctx};
    if (!t->of)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    for (; t->n < o->texts.n; t->n++) {
        t->of[t->n].name = o->texts.items[t->n];
        if (read_text(&t->of[t->n], l, o, e))
            return -1;
        tokens += t->of[t->n].ids.n;
    }
    take(t, o->skip, o->chunks);
    if (t->n_there == 0)
        return lm_err_set(e, LM_USAGE, "the text has %llu tokens, and a chunk is %u: give more text, or a smaller --ctx",
                          (unsigned long long)tokens, ctx);
    if (t->n_chunks == 0)
        return lm_err_set(e, LM_USAGE, "the text has %llu chunks of %u tokens, and --skip leaves out %llu",
                          (unsigned long long)t->n_there, ctx, (unsigned long long)o->skip);
    return 0;
}

void calibrate_texts_free(struct calibrate_texts *t)
{
    for (size_t i = 0; t->of && i < t->n; i++)
        lm_ids_free(&t->of[i].ids);
    free(t->of);
    *t = (struct calibrate_texts){0};
}

void calibrate_chunk(const struct calibrate_texts *t, const struct cli_loaded *l, uint64_t i, int32_t *ids)
{
    const struct calibrate_text *x = t->of;

    for (; i >= x->n; x++)
        i -= x->n;
    memcpy(ids, x->ids.ids + (x->first + i) * t->ctx, t->ctx * sizeof *ids);
    if (l->vocab && l->vocab->add_bos && l->vocab->bos_id >= 0)
        ids[0] = (int32_t)l->vocab->bos_id;
}
