/* Compares; what differs is gathered, explained, repaired in a copy of B, and
 * the search goes on: so that one cause does not hide the next. */
#include <stdlib.h>

#include "convert/tokens_parts.h"

enum { POOL = 24, MOST_DIFFERENCES = 32, MOST_UNEXPLAINED = 4, LONG_TEXT = 1 << 16 };

struct search {
    struct lm_tokens_report *r;
    const struct lm_tokens_options *o;
    struct lmc_doctor doctor;
    struct lmc_pair now, first; /* A with B as repaired, A with B as it was */
    struct lmc_case pool[POOL];
    size_t n_pool, n_unexplained;
    bool repaired;
    uint64_t expected;
    struct lm_err *e;
};

/* ---- comparing one text */

static bool encode(const struct lm_tokenizer *t, const struct lmc_case *c, struct lm_ids *out, bool *nomem)
{
    struct lm_err e;

    out->n = 0;
    if (lm_tokenizer_encode(t, c->text, c->flags, out, &e) == 0)
        return true;
    *nomem |= e.code == LM_NOMEM;
    out->n = 0;
    return false;
}

static bool same_ids(const struct lm_ids *a, const struct lm_ids *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->ids, b->ids, a->n * sizeof *a->ids) == 0);
}

static bool decode_differs(struct lmc_pair *p)
{
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    struct lm_err e;
    int ok_a = lm_tokenizer_decode(p->a, p->ids_a.ids, p->ids_a.n, true, &x, &n, &e);
    int ok_b = lm_tokenizer_decode(p->b, p->ids_b.ids, p->ids_b.n, true, &y, &m, &e);
    bool differ = ok_a != ok_b || (ok_a == 0 && !lm_span_eq(lm_span_of(x, n), lm_span_of(y, m)));

    free(x);
    free(y);
    return differ;
}

bool lmc_differ(struct lmc_pair *p, const struct lmc_case *c)
{
    p->failed_a = !encode(p->a, c, &p->ids_a, &p->nomem);
    p->failed_b = !encode(p->b, c, &p->ids_b, &p->nomem);
    p->decoded = false;
    if (p->failed_a != p->failed_b || !same_ids(&p->ids_a, &p->ids_b))
        return true;
    return p->decoded = c->decode && !p->failed_a && decode_differs(p);
}

void lmc_pair_free(struct lmc_pair *p)
{
    lm_ids_free(&p->ids_a);
    lm_ids_free(&p->ids_b);
}

/* ---- recording */

static int copy_ids(struct lm_arena *arena, struct lm_ids *to, const struct lm_ids *from, struct lm_err *e)
{
    *to = (struct lm_ids){.ids = lm_arena_array(arena, from->n + 1, sizeof *to->ids), .n = from->n};
    if (!to->ids)
        return lm_err_set(e, LM_NOMEM, "out of memory for a comparison");
    if (from->n > 0)
        memcpy(to->ids, from->ids, from->n * sizeof *to->ids);
    return 0;
}

/* What is shown is what B does as it is. A case that an earlier repair brought
 * up may not differ there; it is then shown as it is now. */
static int record(struct search *s, const struct lmc_case *c, uint64_t parts, size_t n_similar)
{
    struct lm_tokens_report *r = s->r;
    struct lmc_pair *p = lmc_differ(&s->first, c) ? &s->first : &s->now;

    if (p == &s->now)
        lmc_differ(p, c);
    struct lm_tokens_difference *d = &r->differences[r->n_differences++];
    *d = (struct lm_tokens_difference){.text = c->text, .flags = c->flags, .found_in = c->found_in,
                                       .failed_a = p->failed_a, .failed_b = p->failed_b, .decoded = p->decoded,
                                       .parts = parts, .n_similar = n_similar};
    return copy_ids(&r->arena, &d->a, &p->ids_a, s->e) < 0 || copy_ids(&r->arena, &d->b, &p->ids_b, s->e) < 0 ? -1 : 0;
}

/* ---- settling what was gathered */

static void shortest_first(struct search *s)
{
    for (size_t i = 1; i < s->n_pool; i++)
        for (size_t k = i; k > 0 && s->pool[k].text.size < s->pool[k - 1].text.size; k--) {
            struct lmc_case c = s->pool[k];
            s->pool[k] = s->pool[k - 1];
            s->pool[k - 1] = c;
        }
}

/* Cases that still differ stay; returns how many went. */
static size_t drop_settled(struct search *s)
{
    size_t kept = 0, before = s->n_pool;

    s->now.a = s->doctor.ta;
    s->now.b = s->doctor.tb;
    for (size_t i = 0; i < s->n_pool; i++)
        if (lmc_differ(&s->now, &s->pool[i]))
            s->pool[kept++] = s->pool[i];
    s->n_pool = kept;
    return before - kept;
}

static int settle_one(struct search *s)
{
    struct lmc_case c = s->pool[0];
    uint64_t parts;

    if (lmc_explain(&s->doctor, s->pool, s->n_pool, &parts, s->e) < 0)
        return -1;
    if (!parts) {
        memmove(s->pool, s->pool + 1, --s->n_pool * sizeof *s->pool);
        if (s->n_unexplained++ < MOST_UNEXPLAINED && s->r->n_differences < MOST_DIFFERENCES)
            return record(s, &c, 0, 0);
        return 0;
    }
    size_t at = s->r->n_differences;
    if (at < MOST_DIFFERENCES && record(s, &c, parts, 0) < 0)
        return -1;
    if (lmc_repair(&s->doctor, parts, s->e) < 0)
        return -1;
    s->repaired = true;
    size_t gone = drop_settled(s);
    if (at < MOST_DIFFERENCES)
        s->r->differences[at].n_similar = gone ? gone - 1 : 0;
    return 0;
}

static int settle(struct search *s)
{
    shortest_first(s);
    while (s->n_pool > 0)
        if (settle_one(s) < 0)
            return -1;
    return 0;
}

/* ---- the search */

static bool give_up(const struct search *s)
{
    return s->r->n_differences == MOST_DIFFERENCES || s->n_unexplained > 4 * POOL;
}

static int visit(void *user, const struct lmc_case *c)
{
    struct search *s = user;
    struct lm_tokens_report *r = s->r;

    r->n_texts++;
    r->n_bytes += c->text.size;
    if (s->o->stop && *s->o->stop)
        return lm_err_set(s->e, LM_INTERRUPTED, "interrupted");
    if (s->o->progress && r->n_texts % 256 == 0)
        s->o->progress(s->o->user, r->n_texts, s->expected > r->n_texts ? s->expected : r->n_texts);
    bool differs = lmc_differ(&s->now, c);
    r->n_differ += s->repaired ? lmc_differ(&s->first, c) : differs;
    if (s->now.nomem || s->first.nomem)
        return lm_err_set(s->e, LM_NOMEM, "out of memory for a comparison");
    if (!differs || give_up(s))
        return 0;
    struct lmc_case *kept = &s->pool[s->n_pool];
    *kept = *c;
    if (lmc_shrink(&s->now, kept, &r->arena, s->e) < 0)
        return -1;
    s->n_pool++;
    return s->n_pool == POOL || c->text.size > LONG_TEXT ? settle(s) : 0;
}

static int search(struct search *s, const struct lm_vocab *a, const struct lm_vocab *b)
{
    struct lmc_source src = {.a = a, .b = b, .ta = s->doctor.ta, .tb = s->first.b, .o = s->o, .visit = visit, .user = s};
    int (*const sources[])(struct lmc_source *) = {lmc_hard_texts,      lmc_given_texts,    lmc_setting_texts, lmc_piece_texts,
                                                   lmc_every_character, lmc_kind_sequences, lmc_made_up_texts};

    s->expected = lmc_n_texts(&src);
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        if (sources[i](&src) != 0 || settle(s) < 0)
            return s->e->code == LM_OK ? lm_err_set(s->e, LM_NOMEM, "out of memory for a comparison") : -1;
    return 0;
}

static int begin(struct search *s, const struct lm_vocab *a, const struct lm_vocab *b, struct lm_tokenizer **ta,
                 struct lm_tokenizer **tb)
{
    s->r = calloc(1, sizeof *s->r);
    if (s->r)
        s->r->differences = calloc(MOST_DIFFERENCES, sizeof *s->r->differences);
    if (!s->r || !s->r->differences)
        return lm_err_set(s->e, LM_NOMEM, "out of memory for a comparison");
    if (lm_tokenizer_new(ta, a, s->e) < 0)
        return lm_err_prefix(s->e, "A");
    if (lm_tokenizer_new(tb, b, s->e) < 0)
        return lm_err_prefix(s->e, "B");
    s->doctor = (struct lmc_doctor){.a = a, .b = b, .ta = *ta, .tb = *tb};
    s->now = s->first = (struct lmc_pair){.a = *ta, .b = *tb};
    return 0;
}

/* The unexplained go last. */
static void order(struct lm_tokens_report *r)
{
    for (size_t i = 1; i < r->n_differences; i++)
        for (size_t k = i; k > 0 && r->differences[k].parts && !r->differences[k - 1].parts; k--) {
            struct lm_tokens_difference d = r->differences[k];
            r->differences[k] = r->differences[k - 1];
            r->differences[k - 1] = d;
        }
}

int lm_tokens_compare(struct lm_tokens_report **out, const struct lm_vocab *a, const struct lm_vocab *b,
                      const struct lm_tokens_options *o, struct lm_err *e)
{
    struct search s = {.o = o, .e = e};
    struct lm_tokenizer *ta = NULL, *tb = NULL;

    *out = NULL;
    e->code = LM_OK;
    int rc = begin(&s, a, b, &ta, &tb);
    if (rc == 0)
        rc = search(&s, a, b);
    lmc_doctor_free(&s.doctor);
    lmc_pair_free(&s.now);
    lmc_pair_free(&s.first);
    lm_tokenizer_free(ta);
    lm_tokenizer_free(tb);
    if (rc < 0) {
        lm_tokens_report_free(s.r);
        return -1;
    }
    order(s.r);
    *out = s.r;
    return 0;
}

void lm_tokens_report_free(struct lm_tokens_report *r)
{
    if (!r)
        return;
    lm_arena_free(&r->arena);
    free(r->differences);
    free(r);
}
