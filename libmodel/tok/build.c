#include "libmodel/tok/build.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/tok/pipeline.h"
#include "libmodel/tok/unicode.h"

int lmi_nomem_vocab(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory while reading a vocabulary");
}

struct lmi_vocab *lmi_vocab_new(void)
{
    struct lmi_vocab *b = calloc(1, sizeof *b);

    if (!b)
        return NULL;
    b->v.bos_id = b->v.eos_id = b->v.unk_id = b->v.pad_id = -1;
    b->v.pre = "";
    b->v.source = "";
    b->v.note = "";
    return b;
}

void lm_vocab_free(struct lm_vocab *v)
{
    struct lmi_vocab *b = (struct lmi_vocab *)v;

    if (!b)
        return;
    lmi_texts_free(&b->texts);
    free(b->indexed);
    lm_arena_free(&b->arena);
    free(b->pieces);
    free(b->merges);
    free(b->scores);
    lmi_pipeline_free(b->pipeline);
    free(b);
}

int64_t lm_vocab_find(const struct lm_vocab *v, struct lm_span text)
{
    const struct lmi_vocab *b = lmi_vocab_of(v);
    uint32_t id = text.size > UINT32_MAX ? LMI_NONE : lmi_texts_get(&b->texts, text);

    return id == LMI_NONE ? -1 : (int64_t)id;
}

struct lm_span lmi_vocab_copy(struct lmi_vocab *b, struct lm_span s)
{
    return lm_span_of(lm_arena_str(&b->arena, s), s.size);
}

struct lm_piece *lmi_vocab_piece(struct lmi_vocab *b, size_t id)
{
    if (id >= b->capacity) {
        size_t capacity = b->capacity * 2 > id ? b->capacity * 2 : id + 1024;
        struct lm_piece *p = realloc(b->pieces, capacity * sizeof *p);
        if (!p)
            return NULL;
        b->pieces = p;
        b->capacity = capacity;
        b->v.pieces = p;
    }
    while (b->v.n_pieces <= id)
        b->pieces[b->v.n_pieces++] = (struct lm_piece){.kind = LM_PIECE_UNUSED};
    return &b->pieces[id];
}

/* An id that the source skipped. */
static bool fill_gap(struct lmi_vocab *b, size_t id)
{
    char text[40];
    int n = snprintf(text, sizeof text, "[PAD%zu]", id);

    b->pieces[id] = (struct lm_piece){.text = lmi_vocab_copy(b, lm_span_of(text, (size_t)n)), .kind = LM_PIECE_UNUSED};
    return b->pieces[id].text.data != NULL;
}

/* Is everything in the index as it was, with room for what is new? */
static bool can_extend(const struct lmi_vocab *b)
{
    if (!b->indexed || b->n_indexed > b->v.n_pieces || b->v.n_pieces > b->room_indexed)
        return false;
    for (size_t i = 0; i < b->n_indexed; i++)
        if (b->indexed[i].data != b->pieces[i].text.data || b->indexed[i].size != b->pieces[i].text.size)
            return false;
    return true;
}

/* Room for the pieces and as many added tokens as models have. */
static bool start_index(struct lmi_vocab *b)
{
    lmi_texts_free(&b->texts);
    free(b->indexed);
    b->n_repeated = b->n_indexed = 0;
    b->room_indexed = b->v.n_pieces + b->v.n_pieces / 16 + 1024;
    b->indexed = malloc(b->room_indexed * sizeof *b->indexed);
    return b->indexed && lmi_texts_init(&b->texts, b->room_indexed);
}

static int check_text(struct lmi_vocab *b, size_t i, struct lm_err *e)
{
    if (!b->pieces[i].text.data && !fill_gap(b, i))
        return lmi_nomem_vocab(e);
    return b->pieces[i].text.size > INT32_MAX ? lm_err_set(e, LM_LIMIT, "piece %zu is longer than 2 GB", i) : 0;
}

enum { AHEAD = 16 }; /* slots are fetched this many pieces before they are filled */

int lmi_vocab_index(struct lmi_vocab *b, struct lm_err *e)
{
    uint64_t hashes[AHEAD];

    if (!can_extend(b) && !start_index(b))
        return lmi_nomem_vocab(e);
    for (size_t i = b->n_indexed, put = i; put < b->v.n_pieces; i++) {
        if (i < b->v.n_pieces) {
            if (check_text(b, i, e) < 0)
                return -1;
            hashes[i % AHEAD] = lmi_texts_hash(&b->texts, b->pieces[i].text);
            __builtin_prefetch(&b->texts.slots[hashes[i % AHEAD] & b->texts.mask], 1);
        }
        if (i + 1 < put + AHEAD && i + 1 < b->v.n_pieces)
            continue;
        b->n_repeated += !lmi_texts_put_hashed(&b->texts, b->pieces[put].text, (uint32_t)put, hashes[put % AHEAD]);
        b->indexed[put] = b->pieces[put].text;
        b->n_indexed = ++put;
    }
    return 0;
}

static int check_id(const struct lmi_vocab *b, const char *name, int64_t id, struct lm_err *e)
{
    if (id < -1 || (id >= 0 && (uint64_t)id >= b->v.n_pieces))
        return lm_err_set(e, LM_MALFORMED, "%s is %lld, but the vocabulary has %zu pieces (ids from 0)", name,
                          (long long)id, b->v.n_pieces);
    return 0;
}

static int check_pieces(const struct lmi_vocab *b, struct lm_err *e)
{
    for (size_t i = 0; i < b->v.n_pieces; i++) {
        const struct lm_piece *p = &b->pieces[i];
        if (p->kind == LM_PIECE_BYTE && lmi_byte_piece(p->text) < 0)
            return lm_err_set(e, LM_MALFORMED, "byte piece %zu is '%.*s', expected <0x00> to <0xFF>", i,
                              (int)(p->text.size < 80 ? p->text.size : 80), (const char *)p->text.data);
        if (isnan(p->score))
            return lm_err_set(e, LM_MALFORMED, "the score of piece %zu is not a number", i);
    }
    return 0;
}

int lmi_vocab_finish(struct lmi_vocab *b, struct lm_err *e)
{
    b->v.pieces = b->pieces;
    b->v.merges = b->merges;
    if (b->v.n_pieces == 0)
        return lm_err_set(e, LM_MALFORMED, "the vocabulary is empty");
    if (b->v.n_pieces > INT32_MAX / 2)
        return lm_err_set(e, LM_LIMIT, "%zu pieces, at most %d are handled", b->v.n_pieces, INT32_MAX / 2);
    if (check_id(b, "the id of the BOS token", b->v.bos_id, e) < 0 ||
        check_id(b, "the id of the EOS token", b->v.eos_id, e) < 0 ||
        check_id(b, "the id of the unknown token", b->v.unk_id, e) < 0 ||
        check_id(b, "the id of the padding token", b->v.pad_id, e) < 0 || check_pieces(b, e) < 0)
        return -1;
    int rc = lmi_vocab_index(b, e);
    free(b->indexed);
    b->indexed = NULL;
    b->n_indexed = b->room_indexed = 0;
    return rc;
}

/* ---- bytes as text */

static int hex(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int lmi_byte_piece(struct lm_span t)
{
    if (t.size != 6 || memcmp(t.data, "<0x", 3) != 0 || t.data[5] != '>' || hex(t.data[3]) < 0 || hex(t.data[4]) < 0)
        return -1;
    return hex(t.data[3]) * 16 + hex(t.data[4]);
}

static bool printable_latin1(uint32_t b)
{
    return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
}

/* GPT-2 writes bytes that have no printable Latin-1 letter as U+0100, U+0101, …
 * in their order: 0-32, 127-160, 173. */
uint32_t lmi_byte_letter(uint8_t byte)
{
    if (printable_latin1(byte))
        return byte;
    return byte <= 32 ? 0x100u + byte : byte == 173 ? 0x143u : 0x100u + 33 + (byte - 127u);
}

int lmi_letter_byte(uint32_t cp)
{
    if (cp < 0x100)
        return printable_latin1(cp) ? (int)cp : -1;
    if (cp <= 0x120)
        return (int)(cp - 0x100);
    return cp <= 0x142 ? (int)(cp - 0x121 + 127) : cp == 0x143 ? 173 : -1;
}

size_t lmi_letters_to_bytes(struct lm_span s, uint8_t *out, size_t size)
{
    size_t n = 0;

    for (size_t i = 0; i < s.size && n < size; n++) {
        uint8_t b = s.data[i];
        bool two = b >= 0xc2 && b <= 0xc5 && i + 1 < s.size && (s.data[i + 1] & 0xc0) == 0x80;
        int byte = b < 0x80 || two ? lmi_letter_byte(two ? (b & 0x1fu) << 6 | (s.data[i + 1] & 0x3fu) : b) : -1;
        if (byte < 0)
            return SIZE_MAX;
        out[n] = (uint8_t)byte;
        i += two ? 2 : 1;
    }
    return n;
}

/* ---- merges */

/* Is the piece `id` these two texts? A trainer numbers pieces as it makes them,
 * so the one behind the last result often is. */
static bool is_both(const struct lmi_vocab *b, size_t id, struct lm_span left, struct lm_span right)
{
    struct lm_span t = id < b->v.n_pieces ? b->pieces[id].text : (struct lm_span){NULL, 0};

    return t.data && b->pieces[id].in_model && t.size == left.size + right.size &&
           memcmp(t.data, left.data, left.size) == 0 && memcmp(t.data + left.size, right.data, right.size) == 0;
}

static uint32_t concatenation(const struct lmi_vocab *b, struct lm_span left, struct lm_span right)
{
    uint8_t small[256], *text = small;
    size_t n = left.size + right.size;

    if (n > sizeof small && !(text = malloc(n)))
        return LMI_NONE;
    memcpy(text, left.data, left.size);
    memcpy(text + left.size, right.data, right.size);
    uint32_t id = lmi_texts_get(&b->texts, lm_span_of(text, n));
    if (text != small)
        free(text);
    return id;
}

static int no_such_piece(size_t rank, struct lm_span left, struct lm_span right, const char *what, struct lm_err *e)
{
    return lm_err_set(e, LM_MALFORMED, "merge %zu ('%.*s' + '%.*s'): %s is not in the vocabulary", rank,
                      (int)(left.size < 80 ? left.size : 80), (const char *)left.data,
                      (int)(right.size < 80 ? right.size : 80), (const char *)right.data, what);
}

int lmi_vocab_merge(struct lmi_vocab *b, size_t rank, struct lm_span left, struct lm_span right, struct lm_err *e)
{
    return lmi_vocab_merge_hashed(b, rank, left, right, lmi_texts_hash(&b->texts, left), lmi_texts_hash(&b->texts, right), e);
}

int lmi_vocab_merge_hashed(struct lmi_vocab *b, size_t rank, struct lm_span left, struct lm_span right, uint64_t left_hash,
                           uint64_t right_hash, struct lm_err *e)
{
    if (left.size == 0 || right.size == 0)
        return lm_err_set(e, LM_MALFORMED, "merge %zu has an empty half", rank);
    uint32_t l = lmi_texts_get_hashed(&b->texts, left, left_hash), r = lmi_texts_get_hashed(&b->texts, right, right_hash);
    if (l == LMI_NONE || r == LMI_NONE)
        return no_such_piece(rank, left, right, l == LMI_NONE ? "the left half" : "the right half", e);
    size_t drop = b->v.continuing_subword_prefix.size;
    if (drop > right.size)
        return lm_err_set(e, LM_MALFORMED, "merge %zu: its right half is shorter than continuing_subword_prefix", rank);
    struct lm_span rest = lm_span_of(right.data + drop, right.size - drop);
    size_t next = rank > 0 ? (size_t)b->merges[rank - 1].result + 1 : SIZE_MAX;
    uint32_t result = is_both(b, next, left, rest) ? (uint32_t)next : concatenation(b, left, rest);
    if (result == LMI_NONE)
        return no_such_piece(rank, left, right, "the result", e);
    b->merges[rank] = (struct lm_merge){l, r, result};
    return 0;
}

/* Pieces that no merge makes are never looked up by score: they come last. */
void lmi_vocab_scores_from_merges(struct lmi_vocab *b)
{
    for (size_t i = 0; i < b->v.n_pieces; i++)
        b->pieces[i].score = b->pieces[i].kind == LM_PIECE_NORMAL ? -1e9f : 0;
    for (size_t i = b->v.n_merges; i-- > 0;)
        b->pieces[b->merges[i].result].score = -(float)i;
}
