/* The result of byte-level merging without the merging. A list of pieces is what
 * merging gives of its bytes exactly when every piece is what merging gives of
 * its own bytes and every two neighbours are what it gives of theirs: the first
 * merge across a border would also be made in the two alone. So a word is covered
 * from its start with the longest piece that goes with the one before, and where
 * none does, the one before was wrong. What merging gives of the start of a word
 * is unique, so no place is tried twice.
 *
 * The search needs to know how a piece is put together: its last merge. That is
 * found when the piece is first met. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/engine.h"
#include "libmodel/tok/longest.h"

enum verdict { YES = 1, NO, UNTOLD }; /* 0: nothing is known */
enum { KNOWN_BITS = 16, ID_MASK = (1 << LMI_ID_BITS) - 1 };

/* `when` a piece is made: order of its last merge + FIRST; pieces of one byte come before all. */
enum { UNMET, BYTE, FIRST };
/* Merging its bytes does not give the piece; or gives it by merges that are not in their order. */
#define NEVER UINT32_MAX
#define UNORDERED (UINT32_MAX - 1)

struct made {
    _Atomic uint32_t when, left, right; /* threads may find them out at the same time, all the same */
};

struct lmi_backtrack {
    struct lm_tokenizer *t;
    pthread_mutex_t making;
    atomic_bool ready; /* the rest is there: made for the first text that is worth it */
    atomic_bool cuts;  /* lmi_note_neighbours is done */
    struct lm_arena arena;
    struct made *made; /* by id */
    struct lmi_longest longest;
    _Atomic uint64_t known[1 << KNOWN_BITS]; /* left << 23 | right << 2 | enum verdict, a hash of the two says where */
};

/* ---- making */

struct lmi_backtrack *lmi_backtrack_new(struct lm_tokenizer *t)
{
    struct lmi_backtrack *b = calloc(1, sizeof *b);

    if (b && pthread_mutex_init(&b->making, NULL) != 0) {
        free(b);
        return NULL;
    }
    if (b)
        b->t = t;
    return b;
}

static void clear(struct lmi_backtrack *b)
{
    lmi_longest_free(&b->longest);
    lm_arena_free(&b->arena);
    free(b->made);
    b->made = NULL;
}

void lmi_backtrack_free(struct lmi_backtrack *b)
{
    if (!b)
        return;
    clear(b);
    pthread_mutex_destroy(&b->making);
    free(b);
}

static bool put_piece(struct lmi_backtrack *b, size_t id)
{
    uint8_t bytes[LMI_LONGEST + 1];
    struct lm_span s = {bytes, lmi_letters_to_bytes(b->t->v->pieces[id].text, bytes, sizeof bytes)};

    if (s.size == SIZE_MAX) /* no text gives it */
        return true;
    if (s.size > 8 && s.size <= LMI_LONGEST)
        s.data = (uint8_t *)lm_arena_str(&b->arena, s);
    if (s.data && s.size > 0)
        lmi_longest_put(&b->longest, s, (uint32_t)id);
    return s.data != NULL;
}

static bool make(struct lmi_backtrack *b)
{
    const struct lm_vocab *v = b->t->v;

    b->made = calloc(v->n_pieces + 1, sizeof *b->made);
    bool ok = b->made && lmi_longest_init(&b->longest, v->n_pieces);
    for (size_t i = 0; ok && i < v->n_pieces; i++)
        ok = !v->pieces[i].in_model || put_piece(b, i);
    if (ok)
        lmi_longest_finish(&b->longest);
    for (size_t i = 0; ok && i < 256; i++)
        atomic_init(&b->made[b->longest.single[i]].when, BYTE);
    return ok;
}

static bool make_tables(struct lmi_backtrack *b)
{
    bool ok = make(b);

    if (!ok)
        clear(b);
    return ok;
}

static bool make_cuts(struct lmi_backtrack *b)
{
    lmi_pairs_free(&b->t->adjacent); /* of a try before, out of memory */
    return lmi_note_neighbours(b->t);
}

static bool once(struct lmi_backtrack *b, atomic_bool *done, bool (*make_it)(struct lmi_backtrack *b))
{
    if (atomic_load_explicit(done, memory_order_acquire))
        return true;
    pthread_mutex_lock(&b->making);
    bool ok = atomic_load_explicit(done, memory_order_relaxed) || make_it(b);
    atomic_store_explicit(done, ok, memory_order_release);
    pthread_mutex_unlock(&b->making);
    return ok;
}

bool lmi_backtrack_ready(struct lmi_backtrack *b)
{
    return once(b, &b->ready, make_tables);
}

bool lmi_backtrack_cuts(struct lmi_backtrack *b)
{
    return once(b, &b->cuts, make_cuts);
}

/* ---- how pieces are made */

struct symbol {
    uint32_t id, when;
};

/* The next merge of s[0..n): the pair with the smallest order, the leftmost of
 * equals, at *at; NULL when there is none. */
static const struct lmi_pair *next_merge(const struct lmi_pairs *p, const struct symbol *s, size_t n, size_t *at)
{
    const struct lmi_pair *best = NULL;

    for (size_t i = 0; i + 1 < n; i++) {
        const struct lmi_pair *pair = lmi_pairs_get(p, s[i].id, s[i + 1].id);
        if (pair && (!best || pair->order < best->order)) {
            best = pair;
            *at = i;
        }
    }
    return best;
}

static uint32_t find_out(struct lmi_backtrack *b, uint32_t id)
{
    struct symbol s[LMI_LONGEST];
    uint8_t bytes[LMI_LONGEST];
    size_t n = lmi_letters_to_bytes(b->t->v->pieces[id].text, bytes, sizeof bytes), at = 0;
    const struct lmi_pair *pair;
    bool ordered = true;
    struct made *m = &b->made[id];

    for (size_t i = 0; i < n; i++)
        s[i] = (struct symbol){b->longest.single[bytes[i]], BYTE};
    while ((pair = next_merge(&b->t->pairs, s, n, &at)) != NULL) {
        struct symbol whole = {pair->result, pair->order + FIRST};
        ordered &= whole.when > s[at].when && whole.when > s[at + 1].when;
        atomic_store_explicit(&m->left, s[at].id, memory_order_relaxed);
        atomic_store_explicit(&m->right, s[at + 1].id, memory_order_relaxed);
        s[at] = whole;
        n--;
        memmove(&s[at + 1], &s[at + 2], (n - at - 1) * sizeof *s);
    }
    uint32_t when = n != 1 || s[0].id != id ? NEVER : ordered ? s[0].when : UNORDERED;
    atomic_store_explicit(&m->when, when, memory_order_release);
    return when;
}

static inline uint32_t when_made(struct lmi_backtrack *b, uint32_t id)
{
    uint32_t when = atomic_load_explicit(&b->made[id].when, memory_order_acquire);

    return when == UNMET ? find_out(b, id) : when;
}

/* Would merging the bytes of both leave the border between the two? They are
 * taken apart at it, the last merge first, to see whether a merge across came
 * before. Of equals the left one is earlier. */
static enum verdict take_apart(struct lmi_backtrack *b, uint32_t left, uint32_t right)
{
    uint32_t left_when = when_made(b, left), right_when = when_made(b, right), limit = NEVER;

    if (right_when >= UNORDERED)
        return right_when == NEVER ? NO : UNTOLD;
    for (;;) {
        const struct lmi_pair *pair = lmi_pairs_get(&b->t->pairs, left, right);
        if (pair && pair->order + FIRST < limit)
            return NO;
        if (left_when > right_when) {
            limit = left_when;
            left = atomic_load_explicit(&b->made[left].right, memory_order_relaxed);
            left_when = when_made(b, left);
        } else if (right_when > BYTE) {
            limit = right_when + 1;
            right = atomic_load_explicit(&b->made[right].left, memory_order_relaxed);
            right_when = when_made(b, right);
        } else {
            return YES;
        }
    }
}

/* Can the piece follow this one, which can stand where it does (ID_MASK: begin a word)? */
static inline enum verdict follows(struct lmi_backtrack *b, uint32_t before, uint32_t id)
{
    uint64_t key = (uint64_t)before << LMI_ID_BITS | id;
    _Atomic uint64_t *known = &b->known[key * 0x9e3779b97f4a7c15u >> (64 - KNOWN_BITS)];
    uint64_t last = atomic_load_explicit(known, memory_order_relaxed);

    if (last >> 2 == key && last & 3)
        return (enum verdict)(last & 3);
    uint32_t when = before == ID_MASK ? when_made(b, id) : 0;
    enum verdict v = before != ID_MASK ? take_apart(b, before, id) : when == NEVER ? NO : when == UNORDERED ? UNTOLD : YES;
    atomic_store_explicit(known, key << 2 | v, memory_order_relaxed);
    return v;
}

/* ---- words */

struct search {
    size_t n, pos, max; /* max: bytes that the next piece may have */
    size_t room;
    bool whole;
    uint64_t wrong[LMI_BACKTRACK_BYTES / 64 + 1]; /* places where no piece ends */
};

static inline bool is_wrong(const struct search *s, size_t pos)
{
    return s->wrong[pos / 64] >> pos % 64 & 1;
}

/* The longest piece at s->pos that can follow the one before, *size 0 if there
 * is none. false: it cannot be told. */
static inline bool next_piece(struct lmi_backtrack *b, const struct search *s, const uint8_t *w, uint32_t before, uint32_t *id,
                              size_t *size)
{
    size_t left = s->n - s->pos, max = s->max < left ? s->max : left;

    if (max > LMI_LONGEST && lmi_longest_more(&b->longest, w + s->pos))
        return false;
    for (; max > 0; max = *size - 1) {
        *size = lmi_longest_at(&b->longest, w + s->pos, s->room - s->pos, max, id);
        if (s->whole && *size == s->n)
            return true;
        enum verdict v = is_wrong(s, s->pos + *size) ? NO : follows(b, before, *id);
        if (v != NO)
            return v == YES;
    }
    *size = 0;
    return true;
}

size_t lmi_backtrack_word(struct lmi_backtrack *b, const uint8_t *w, size_t n, size_t room, bool whole, uint32_t *ids)
{
    struct search s = {.n = n, .max = n, .room = room, .whole = whole};
    size_t k = 0, size;

    while (s.pos < n) {
        if (!next_piece(b, &s, w, k ? ids[k - 1] : ID_MASK, &ids[k], &size) || (size == 0 && k == 0))
            return 0;
        if (size > 0) {
            s.pos += size;
            s.max = n;
            k++;
            continue;
        }
        s.wrong[s.pos / 64] |= (uint64_t)1 << s.pos % 64;
        size = b->t->length[ids[--k]];
        s.pos -= size;
        s.max = size - 1;
    }
    return k;
}
