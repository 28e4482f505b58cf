/* The two large parts of tokenizer.json (and vocab.json, merges.txt): {"text": id}
 * and the list of merges. They are read as they stand in the file, without a
 * tree of values. */
#include "libmodel/tok/hf_vocab.h"

#include <stdlib.h>

struct entry {
    struct lm_span text;
    uint64_t id;
};

struct entries {
    struct entry *list;
    size_t n, capacity;
};

static int shorten(struct lm_span s)
{
    return (int)(s.size < 80 ? s.size : 80);
}

static int bad_id(struct lm_span text, uint64_t limit, struct lm_err *e)
{
    return lm_err_set(e, LM_MALFORMED, "the id of '%.*s' is no number from 0 to %llu", shorten(text),
                      (const char *)text.data, (unsigned long long)limit - 1);
}

static int put_entry(struct entries *x, struct entry entry, struct lm_err *e)
{
    if (x->n == x->capacity) {
        size_t capacity = 2 * x->capacity + 1024;
        struct entry *p = realloc(x->list, capacity * sizeof *p);
        if (!p)
            return lmi_nomem_vocab(e);
        x->list = p;
        x->capacity = capacity;
    }
    x->list[x->n++] = entry;
    return 0;
}

/* Ids may have holes (padding to a round number), not arbitrary values: the
 * list of pieces grows with the bytes of the file, not with a number in it. */
static uint64_t id_limit(size_t n)
{
    return 2 * (uint64_t)n + 4096;
}

static int put_piece(struct lmi_vocab *b, struct entry entry, struct lm_err *e)
{
    struct lm_piece *p = lmi_vocab_piece(b, (size_t)entry.id);

    if (!p)
        return lmi_nomem_vocab(e);
    if (p->text.data)
        return lm_err_set(e, LM_MALFORMED, "two pieces have the id %llu", (unsigned long long)entry.id);
    *p = (struct lm_piece){.text = entry.text, .kind = LM_PIECE_NORMAL, .in_model = true};
    return 0;
}

/* One block for all texts: pieces that come one after another lie side by side. */
static int copy_texts(struct lmi_vocab *b, struct entries *x, struct lm_err *e)
{
    size_t total = 0;

    for (size_t i = 0; i < x->n; i++)
        total += x->list[i].text.size + 1;
    uint8_t *to = lm_arena_alloc(&b->arena, total + 1);
    if (!to)
        return lmi_nomem_vocab(e);
    for (size_t i = 0; i < x->n; i++) {
        struct lm_span *s = &x->list[i].text;
        memcpy(to, s->data, s->size);
        s->data = to;
        to += s->size + 1;
    }
    return 0;
}

static int put_pieces(struct lmi_vocab *b, struct entries *x, struct lm_err *e)
{
    if (copy_texts(b, x, e) < 0)
        return -1;
    for (size_t i = 0; i < x->n; i++) {
        if (x->list[i].id >= id_limit(x->n))
            return bad_id(x->list[i].text, id_limit(x->n), e);
        if (put_piece(b, x->list[i], e) < 0)
            return -1;
    }
    if (lmi_vocab_index(b, e) < 0)
        return -1;
    return b->n_repeated ? lm_err_set(e, LM_MALFORMED, "%zu pieces have the text of another one", b->n_repeated) : 0;
}

int lmi_vocab_stream(struct lmi_vocab *b, struct lmi_pull *p)
{
    struct entries x = {0};
    struct lm_span key;
    size_t n = 0;
    int rc;

    while ((rc = lmi_pull_member(p, &n, &key)) > 0) {
        uint64_t id = 0;
        struct lm_err why;
        struct lm_err *e = p->e;
        p->e = &why;
        rc = lmi_pull_u64(p, &id);
        p->e = e;
        if (rc < 0)
            rc = bad_id(key, id_limit(x.n), e);
        if (rc < 0 || put_entry(&x, (struct entry){key, id}, e) < 0)
            break;
    }
    if (rc == 0)
        rc = put_pieces(b, &x, p->e);
    free(x.list);
    return rc < 0 ? -1 : 0;
}

int lmi_vocab_object(struct lmi_vocab *b, json_t *vocab, struct lm_err *e)
{
    uint64_t limit = id_limit(json_object_size(vocab));
    struct entries x = {0};
    int rc = 0;

    for (void *it = json_object_iter(vocab); it && rc == 0; it = json_object_iter_next(vocab, it)) {
        const json_t *value = json_object_iter_value(it);
        struct lm_span key = lm_span_of(json_object_iter_key(it), json_object_iter_key_len(it));
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        rc = id < 0 ? bad_id(key, limit, e) : put_entry(&x, (struct entry){key, (uint64_t)id}, e);
    }
    if (rc == 0)
        rc = put_pieces(b, &x, e);
    free(x.list);
    return rc;
}

/* ---- merges */

void lmi_merge_texts_free(struct lmi_merge_texts *m)
{
    free(m->list);
}

static int put_merge(struct lmi_merge_texts *m, struct lm_span left, struct lm_span right, struct lm_err *e)
{
    if (m->n == m->capacity) {
        size_t capacity = 2 * m->capacity + 1024;
        struct lmi_merge_text *p = realloc(m->list, capacity * sizeof *p);
        if (!p)
            return lmi_nomem_vocab(e);
        m->list = p;
        m->capacity = capacity;
    }
    m->list[m->n++] = (struct lmi_merge_text){left, right};
    return 0;
}

int lmi_merge_line(struct lmi_merge_texts *m, struct lm_span s, struct lm_err *e)
{
    const uint8_t *space = s.size ? memchr(s.data, ' ', s.size) : NULL;
    size_t n = space ? (size_t)(space - s.data) : 0;

    if (!space || memchr(space + 1, ' ', s.size - n - 1))
        return lm_err_set(e, LM_MALFORMED, "merge %zu is not two halves with a space between", m->n);
    return put_merge(m, lm_span_of(s.data, n), lm_span_of(space + 1, s.size - n - 1), e);
}

static int neither(const struct lmi_merge_texts *m, struct lm_err *e)
{
    return lm_err_set(e, LM_MALFORMED, "merge %zu is neither a string nor a pair of strings", m->n);
}

/* ["left", "right"]: halves may then hold spaces. */
static int read_pair(struct lmi_merge_texts *m, struct lmi_pull *p)
{
    struct lm_span half[2] = {{NULL, 0}, {NULL, 0}};
    size_t n = 0;
    int rc;

    while ((rc = lmi_pull_element(p, &n)) > 0)
        if (n > 2 || lmi_pull_peek(p) != '"' || lmi_pull_string(p, &half[n - 1]) < 0)
            return neither(m, p->e);
    if (rc < 0)
        return -1;
    return n != 2 ? neither(m, p->e) : put_merge(m, half[0], half[1], p->e);
}

int lmi_merges_stream(struct lmi_merge_texts *m, struct lmi_pull *p)
{
    size_t n = 0;
    int rc;

    if (lmi_pull_peek(p) != '[')
        return lm_err_set(p->e, LM_MALFORMED, "model.merges is no array");
    while ((rc = lmi_pull_element(p, &n)) > 0) {
        struct lm_span s;
        int c = lmi_pull_peek(p);
        if (c == '[')
            rc = read_pair(m, p);
        else if (c == '"')
            rc = lmi_pull_string(p, &s) < 0 ? -1 : lmi_merge_line(m, s, p->e);
        else
            rc = neither(m, p->e);
        if (rc < 0)
            return -1;
    }
    return rc;
}

/* A merge looks up two texts, far apart in memory: what the next ones need is
 * fetched meanwhile, first the slots, then the texts that stand in them. */
enum { SLOTS_AHEAD = 16, TEXTS_AHEAD = 8, RING = 32 };

struct ahead {
    uint64_t left, right; /* hashes */
};

static void fetch(const struct lmi_texts *t, const struct lmi_merge_texts *m, struct ahead *ring, size_t i)
{
    if (i + SLOTS_AHEAD < m->n) {
        const struct lmi_merge_text *x = &m->list[i + SLOTS_AHEAD];
        struct ahead *a = &ring[(i + SLOTS_AHEAD) % RING];
        *a = (struct ahead){lmi_texts_hash(t, x->left), lmi_texts_hash(t, x->right)};
        __builtin_prefetch(&t->slots[a->left & t->mask]);
        __builtin_prefetch(&t->slots[a->right & t->mask]);
    }
    if (i + TEXTS_AHEAD < m->n) {
        const struct ahead *a = &ring[(i + TEXTS_AHEAD) % RING];
        __builtin_prefetch(t->slots[a->left & t->mask].data);
        __builtin_prefetch(t->slots[a->right & t->mask].data);
    }
}

int lmi_merges_resolve(struct lmi_vocab *b, const struct lmi_merge_texts *m, struct lm_err *e)
{
    struct ahead ring[RING];
    size_t first = m->n < SLOTS_AHEAD ? m->n : SLOTS_AHEAD;

    b->merges = calloc(m->n + 1, sizeof *b->merges);
    if (!b->merges)
        return lmi_nomem_vocab(e);
    for (size_t i = 0; i < first; i++)
        ring[i] = (struct ahead){lmi_texts_hash(&b->texts, m->list[i].left), lmi_texts_hash(&b->texts, m->list[i].right)};
    for (size_t i = 0; i < m->n; i++) {
        struct ahead now = ring[i % RING];
        fetch(&b->texts, m, ring, i);
        if (lmi_vocab_merge_hashed(b, i, m->list[i].left, m->list[i].right, now.left, now.right, e) < 0)
            return -1;
        b->v.n_merges = i + 1;
    }
    return 0;
}
