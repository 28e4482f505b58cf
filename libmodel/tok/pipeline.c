/* A text through all stages of a tokenizer.json: normalizer, added tokens in what
 * it made, pre-tokenizer, and the model word by word. */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/pipeline.h"

/* Buffers of one part of a text. */
struct work {
    struct lmi_text whole, part, spare;
    struct lmi_cuts cuts, spare_cuts;
};

static void free_work(struct work *w)
{
    lmi_text_free(&w->whole);
    lmi_text_free(&w->part);
    lmi_text_free(&w->spare);
    free(w->cuts.list);
    free(w->spare_cuts.list);
}

static int encode_words(struct lmi_call *c, struct work *w)
{
    bool failed;
    struct lm_span text = lmi_text_span(&w->part);
    uint8_t *mask = lmi_mask_ill_formed(text, &failed);
    int rc = failed ? lmi_call_nomem(c) : 0;

    c->bytes = text.data;
    c->part = lm_span_of(mask ? mask : text.data, text.size);
    c->from = c->offsets ? w->part.from : NULL;
    for (size_t i = 0; i < w->cuts.n && rc == 0; i++)
        rc = lmi_call_word(c, w->cuts.list[i].begin, w->cuts.list[i].end);
    if (rc == 0)
        rc = lmi_call_flush(c);
    c->from = NULL;
    free(mask);
    return rc;
}

/* whole[begin, end) has no added token in it. */
static int encode_rest(struct lmi_call *c, struct work *w, size_t begin, size_t end, bool first)
{
    if (begin >= end) /* a match may begin in spaces that the one before took in */
        return 0;
    w->part.mapped = w->spare.mapped = w->whole.mapped;
    lmi_text_clear(&w->part);
    lmi_text_copy(&w->part, &w->whole, begin, end);
    if (w->part.failed)
        return lmi_call_nomem(c);
    if (lmi_pipeline_split(lmi_vocab_of(c->t->v)->pipeline, &w->part, &w->spare, &w->cuts, &w->spare_cuts, first, c->e) < 0)
        return -1;
    return encode_words(c, w);
}

static int emit_added(struct lmi_call *c, const struct work *w, uint32_t id, size_t begin, size_t end)
{
    if (lmi_call_reserve(c, 1) < 0)
        return -1;
    c->from = c->offsets ? w->whole.from : NULL;
    lmi_call_emit(c, id, begin, end);
    c->from = NULL;
    return 0;
}

static int encode_normalized(struct lmi_call *c, struct work *w, bool first)
{
    const struct lmi_added_item *item;
    struct lmi_match m = {0};
    size_t pos = 0;

    while ((item = lmi_added_find(&c->t->norm, lmi_text_span(&w->whole), c->special, &m)) != NULL) {
        if (encode_rest(c, w, pos, m.begin, first && pos == 0) < 0 || emit_added(c, w, item->id, m.begin, m.end) < 0)
            return -1;
        pos = m.end;
    }
    return encode_rest(c, w, pos, w->whole.n, first && pos == 0);
}

int lmi_pipeline_encode(struct lmi_call *c, struct lm_span text, size_t base, bool first)
{
    const struct lmi_pipeline *p = lmi_vocab_of(c->t->v)->pipeline;
    struct work w = {0};

    c->map = NULL;
    w.whole.mapped = w.spare.mapped = c->offsets || p->needs_origin;
    lmi_text_start(&w.whole, text, base);
    int rc = w.whole.failed ? lmi_call_nomem(c) : lmi_pipeline_normalize(p, &w.whole, &w.spare, c->e);
    if (rc == 0)
        rc = encode_normalized(c, &w, first);
    free_work(&w);
    return rc;
}

/* What the normalizer makes of an added token's text, in the arena. */
int lmi_pipeline_normal_text(const struct lmi_pipeline *p, struct lm_arena *a, struct lm_span text, struct lm_span *out,
                             struct lm_err *e)
{
    struct lmi_text t = {0}, spare = {0};

    lmi_text_start(&t, text, 0);
    int rc = t.failed ? lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer")
                      : lmi_pipeline_normalize(p, &t, &spare, e);
    if (rc == 0) {
        *out = lm_span_of(lm_arena_str(a, lmi_text_span(&t)), t.n);
        rc = out->data ? 0 : lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
    }
    lmi_text_free(&t);
    lmi_text_free(&spare);
    return rc;
}
