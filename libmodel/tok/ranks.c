#include "libmodel/tok/ranks.h"

#include <stdlib.h>

#include "libmodel/tok/pretok.h"
#include "libmodel/tok/unicode.h"

/* All splits of a string are looked up: without a limit a hostile file costs the
 * square of its size. The longest known has 128 bytes. */
enum { LONGEST = 1024 };

void lmi_ranks_free(struct lmi_ranks *r)
{
    free(r->list);
}

int lmi_ranks_put(struct lmi_ranks *r, struct lm_span bytes, uint64_t rank, struct lm_err *e)
{
    if (bytes.size == 0)
        return lm_err_set(e, LM_MALFORMED, "the token of rank %llu is empty", (unsigned long long)rank);
    if (bytes.size > LONGEST)
        return lm_err_set(e, LM_LIMIT, "the token of rank %llu has %zu bytes, at most %d are handled",
                          (unsigned long long)rank, bytes.size, LONGEST);
    if (r->n == r->capacity) {
        size_t capacity = 2 * r->capacity + 1024;
        struct lmi_rank *p = realloc(r->list, capacity * sizeof *p);
        if (!p)
            return lmi_nomem_vocab(e);
        r->list = p;
        r->capacity = capacity;
    }
    r->list[r->n++] = (struct lmi_rank){bytes, rank};
    return 0;
}

/* ---- pieces */

static struct lm_span letters_of(struct lmi_vocab *b, struct lm_span bytes)
{
    uint8_t *text = lm_arena_alloc(&b->arena, 2 * bytes.size + 1);
    size_t n = 0;

    for (size_t i = 0; text && i < bytes.size; i++)
        n += lmi_utf8_put(lmi_byte_letter(bytes.data[i]), text + n);
    return lm_span_of(text, n);
}

static int put_pieces(struct lmi_vocab *b, const struct lmi_ranks *r, size_t first, struct lm_err *e)
{
    uint64_t limit = 2 * (uint64_t)r->n + 4096;

    for (size_t i = 0; i < r->n; i++) {
        const struct lmi_rank *x = &r->list[i];
        if (x->rank >= limit)
            return lm_err_set(e, LM_MALFORMED, "rank %llu in a list of %zu tokens", (unsigned long long)x->rank, r->n);
        struct lm_piece *p = lmi_vocab_piece(b, first + (size_t)x->rank);
        struct lm_span text = p ? letters_of(b, x->bytes) : (struct lm_span){NULL, 0};
        if (!text.data)
            return lmi_nomem_vocab(e);
        if (p->text.data)
            return lm_err_set(e, LM_MALFORMED, "two tokens have the rank %llu", (unsigned long long)x->rank);
        *p = (struct lm_piece){.text = text, .kind = LM_PIECE_NORMAL, .in_model = true};
    }
    if (lmi_vocab_index(b, e) < 0)
        return -1;
    return b->n_repeated ? lm_err_set(e, LM_MALFORMED, "%zu tokens occur twice", b->n_repeated) : 0;
}

/* ---- merges */

struct splits {
    struct lm_merge *list;
    size_t n, capacity;
};

static int put_split(struct splits *s, struct lm_merge m, struct lm_err *e)
{
    if (s->n == s->capacity) {
        size_t capacity = 2 * s->capacity + 1024;
        struct lm_merge *p = realloc(s->list, capacity * sizeof *p);
        if (!p)
            return lmi_nomem_vocab(e);
        s->list = p;
        s->capacity = capacity;
    }
    s->list[s->n++] = m;
    return 0;
}

static int split_token(struct splits *s, const struct lmi_texts *ids, struct lm_span t, uint32_t id, struct lm_err *e)
{
    for (size_t i = 1; i < t.size; i++) {
        uint32_t left = lmi_texts_get(ids, lm_span_of(t.data, i));
        uint32_t right = left == LMI_NONE ? LMI_NONE : lmi_texts_get(ids, lm_span_of(t.data + i, t.size - i));
        if (right != LMI_NONE && put_split(s, (struct lm_merge){left, right, id}, e) < 0)
            return -1;
    }
    return 0;
}

/* By the rank of what they give, then of their halves: the order in which lists
 * of merges are written for others. */
static int by_result(const void *a, const void *b)
{
    const struct lm_merge *x = a, *y = b;

    if (x->result != y->result)
        return x->result < y->result ? -1 : 1;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

static int find_splits(struct splits *s, const struct lmi_ranks *r, size_t first, struct lm_err *e)
{
    struct lmi_texts ids;
    int rc = 0;

    if (!lmi_texts_init(&ids, r->n))
        return lmi_nomem_vocab(e);
    for (size_t i = 0; i < r->n; i++)
        lmi_texts_put(&ids, r->list[i].bytes, (uint32_t)(first + (size_t)r->list[i].rank));
    for (size_t i = 0; i < r->n && rc == 0; i++)
        rc = split_token(s, &ids, r->list[i].bytes, (uint32_t)(first + (size_t)r->list[i].rank), e);
    lmi_texts_free(&ids);
    if (rc == 0 && s->n > 0)
        qsort(s->list, s->n, sizeof *s->list, by_result);
    return rc;
}

int lmi_ranks_merges(struct lmi_vocab *b, const struct lmi_ranks *r, size_t first, struct lm_err *e)
{
    struct splits s = {0};

    b->by_result = true;
    if (find_splits(&s, r, first, e) < 0) {
        free(s.list);
        return -1;
    }
    free(b->merges);
    b->merges = s.list;
    b->v.n_merges = s.n;
    return 0;
}

int lmi_ranks_to_vocab(struct lmi_vocab *b, const struct lmi_ranks *r, size_t first, struct lm_err *e)
{
    b->v.algo = LM_VOCAB_BYTE_BPE;
    b->v.ignore_merges = true; /* a word of the list is taken as it is */
    return put_pieces(b, r, first, e) < 0 ? -1 : lmi_ranks_merges(b, r, first, e);
}

int lmi_piece_bytes(struct lm_arena *a, struct lm_span text, struct lm_span *out, struct lm_err *e)
{
    uint8_t *bytes = lm_arena_alloc(a, text.size + 1);
    size_t n = 0;

    if (!bytes)
        return lmi_nomem_vocab(e);
    for (size_t i = 0; i < text.size;) {
        struct lmi_char c = lmi_char_at(text.data + i, text.size - i);
        int byte = lmi_letter_byte(c.cp);
        if (byte < 0)
            return lm_err_set(e, LM_MALFORMED, "'%.*s' is not written in letters of bytes",
                              (int)(text.size < 80 ? text.size : 80), (const char *)text.data);
        bytes[n++] = (uint8_t)byte;
        i += c.width;
    }
    *out = lm_span_of(bytes, n);
    return 0;
}

int lmi_ranks_special(struct lmi_vocab *b, size_t id, struct lm_span text, struct lm_err *e)
{
    struct lm_piece *p = lmi_vocab_piece(b, id);
    struct lm_span copy = p ? lmi_vocab_copy(b, text) : (struct lm_span){NULL, 0};

    if (!copy.data)
        return lmi_nomem_vocab(e);
    if (p->text.data)
        return lm_err_set(e, LM_MALFORMED, "the id %zu of '%.*s' is that of an ordinary token", id,
                          (int)(text.size < 80 ? text.size : 80), (const char *)text.data);
    *p = (struct lm_piece){.text = copy, .kind = LM_PIECE_CONTROL, .special = true, .added = true};
    return 0;
}

int lmi_ranks_pattern(struct lmi_vocab *b, struct lm_span regex, struct lm_err *e)
{
    b->v.pre_pattern = lmi_vocab_copy(b, regex);
    if (!b->v.pre_pattern.data)
        return lmi_nomem_vocab(e);
    const struct lmi_pre_name *name = lmi_pre_match(regex, b->v.ignore_merges);
    if (!name)
        name = lmi_pre_match(regex, false);
    b->v.pre = name ? name->name : "";
    return 0;
}
