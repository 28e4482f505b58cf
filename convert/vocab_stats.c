#include "convert/vocab_stats.h"

#include <stdlib.h>

#include "convert/vocab_scripts.h"

struct counting {
    struct lm_vocab_stats *s;
    const struct lm_vocab *v;
    const struct lm_tokenizer *t;
    struct lmc_scripts *scripts;
    size_t n_of_script[LMC_MOST_SCRIPTS];
    uint8_t *buf;
    size_t size;
    struct lm_ids ids;
    uint64_t sum_bytes, sum_chars;
    size_t longest[LM_STATS_LONGEST]; /* bytes of s->longest */
};

static int nomem(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory for the statistics");
}

/* Is it there for a text, and not a signal or a byte of last resort? */
static bool is_text(const struct lm_piece *p)
{
    return !p->special && (p->kind == LM_PIECE_NORMAL || p->kind == LM_PIECE_USER_DEFINED);
}

static size_t count_chars(struct lm_span s)
{
    size_t n = 0;

    for (size_t i = 0; i < s.size; i++)
        n += (s.data[i] & 0xc0) != 0x80;
    return n;
}

/* ---- reached by its own text? */

/* 1 yes, 0 no, -1 out of memory. What stands in front keeps the piece from being
 * the first of a text, or of a word. */
static int reached(struct counting *c, uint32_t id, size_t n, struct lm_err *e)
{
    static const char *const before[] = {"", "\n", "a", " ", "z", ".", "1", "\xe4\xb8\xad", "\xc5\xbc"};

    for (size_t i = 0; i < sizeof before / sizeof *before; i++) {
        size_t k = strlen(before[i]);
        memcpy(c->buf + 4 - k, before[i], k);
        c->ids.n = 0;
        if (lm_tokenizer_encode(c->t, lm_span_of(c->buf + 4 - k, k + n), 0, &c->ids, e) < 0) {
            if (e->code == LM_NOMEM)
                return -1;
            continue;
        }
        for (size_t j = 0; j < c->ids.n; j++)
            if (c->ids.ids[j] == (int32_t)id)
                return 1;
    }
    return 0;
}

static int judge(struct counting *c, uint32_t id, struct lm_span text, struct lm_err *e)
{
    if (!c->v->pieces[id].in_model || text.size == 0)
        return 0;
    int rc = reached(c, id, text.size, e);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    if (lm_utf8_valid(text))
        c->s->unreachable[c->s->n_unreachable++] = id;
    else
        c->s->n_partial++;
    return 0;
}

/* ---- one piece */

static void keep_longest(struct counting *c, uint32_t id, size_t n)
{
    struct lm_vocab_stats *s = c->s;
    size_t at = s->n_longest < LM_STATS_LONGEST ? s->n_longest++ : LM_STATS_LONGEST;

    for (; at > 0 && c->longest[at - 1] < n; at--)
        if (at < LM_STATS_LONGEST) {
            s->longest[at] = s->longest[at - 1];
            c->longest[at] = c->longest[at - 1];
        }
    if (at < LM_STATS_LONGEST) {
        s->longest[at] = id;
        c->longest[at] = n;
    }
}

static int count_text(struct counting *c, uint32_t id, struct lm_err *e)
{
    struct lm_vocab_stats *s = c->s;
    size_t n = lm_tokenizer_piece_bytes(c->t, (int32_t)id, false, true, c->buf + 4, c->size - 4);
    struct lm_span text = lm_span_of(c->buf + 4, n);

    s->n_texts++;
    s->n_of_length[n < LM_STATS_LENGTHS ? n : LM_STATS_LENGTHS - 1]++;
    c->sum_bytes += n;
    c->sum_chars += count_chars(text);
    c->n_of_script[lmc_script_of_text(c->scripts, text)]++;
    if (n == 1)
        s->byte[text.data[0]] = true;
    keep_longest(c, id, n);
    return judge(c, id, text, e);
}

static int count_piece(struct counting *c, uint32_t id, struct lm_err *e)
{
    const struct lm_piece *p = &c->v->pieces[id];
    struct lm_vocab_stats *s = c->s;
    int64_t first = lm_vocab_find(c->v, p->text);

    s->n_of_kind[p->kind]++;
    s->n_special += p->special || p->kind == LM_PIECE_CONTROL;
    s->n_added += p->added;
    if (first >= 0 && first != (int64_t)id && p->kind != LM_PIECE_UNUSED)
        s->duplicates[s->n_duplicates++] = id;
    if (p->kind == LM_PIECE_BYTE && lm_tokenizer_piece_bytes(c->t, (int32_t)id, false, true, c->buf, c->size) == 1)
        s->byte[c->buf[0]] = true;
    return is_text(p) ? count_text(c, id, e) : 0;
}

/* ---- all */

static int most_first(const void *a, const void *b)
{
    const struct lm_script_count *x = a, *y = b;

    return x->n != y->n ? (x->n < y->n) - (x->n > y->n) : strcmp(x->name, y->name);
}

static int finish(struct counting *c, struct lm_err *e)
{
    struct lm_vocab_stats *s = c->s;

    s->scripts = calloc(LMC_MOST_SCRIPTS, sizeof *s->scripts);
    if (!s->scripts)
        return nomem(e);
    for (unsigned i = 0; i < LMC_MOST_SCRIPTS; i++)
        if (c->n_of_script[i])
            s->scripts[s->n_scripts++] = (struct lm_script_count){lmc_script_name(i), c->n_of_script[i]};
    qsort(s->scripts, s->n_scripts, sizeof *s->scripts, most_first);
    for (size_t i = 0; i < 256; i++)
        s->n_bytes += s->byte[i];
    s->mean_bytes = s->n_texts ? (double)c->sum_bytes / (double)s->n_texts : 0;
    s->mean_chars = s->n_texts ? (double)c->sum_chars / (double)s->n_texts : 0;
    return 0;
}

static int count(struct counting *c, struct lm_err *e)
{
    struct lm_vocab_stats *s = c->s;
    size_t n = c->v->n_pieces;

    c->size = 4 * lm_tokenizer_max_bytes(c->t) + 64;
    c->buf = malloc(c->size);
    s->duplicates = malloc(n * sizeof *s->duplicates + 1);
    s->unreachable = malloc(n * sizeof *s->unreachable + 1);
    if (!c->buf || !s->duplicates || !s->unreachable)
        return nomem(e);
    if (lmc_scripts_new(&c->scripts, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (count_piece(c, (uint32_t)i, e) < 0)
            return -1;
    return finish(c, e);
}

int lm_vocab_stats_make(struct lm_vocab_stats **out, const struct lm_vocab *v, const struct lm_tokenizer *t,
                        struct lm_err *e)
{
    struct counting c = {.s = calloc(1, sizeof *c.s), .v = v, .t = t};
    int rc = c.s ? count(&c, e) : nomem(e);

    free(c.buf);
    lm_ids_free(&c.ids);
    lmc_scripts_free(c.scripts);
    *out = rc == 0 ? c.s : NULL;
    if (rc < 0)
        lm_vocab_stats_free(c.s);
    return rc;
}

void lm_vocab_stats_free(struct lm_vocab_stats *s)
{
    if (!s)
        return;
    free(s->scripts);
    free(s->duplicates);
    free(s->unreachable);
    free(s);
}
