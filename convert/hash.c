#include "convert/hash.h"

#include <stdio.h>
#include <stdlib.h>

#include <openssl/evp.h>

#include "convert/hash_canon.h"
#include "convert/hash_pass.h"
#include "convert/plan.h"
#include "convert/stream.h"

struct job {
    struct lmc_canons *c;
    struct lm_digest **leaves; /* [tensor][leaf] */
};

struct scratch {
    EVP_MD_CTX *md;
    struct lmc_room raw, encoded;
};

/* ---- SHA-256 */

static int begin(EVP_MD_CTX *md, const char *domain, struct lm_err *e)
{
    if (EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1 || EVP_DigestUpdate(md, domain, strlen(domain) + 1) != 1)
        return lm_err_set(e, LM_UNSUPPORTED, "libcrypto cannot compute SHA-256 here");
    return 0;
}

static void add(EVP_MD_CTX *md, const void *data, size_t n)
{
    EVP_DigestUpdate(md, data, n);
}

static void add_u64(EVP_MD_CTX *md, uint64_t v)
{
    uint8_t b[8];

    lm_store_u64le(b, v);
    add(md, b, sizeof b);
}

static int end(EVP_MD_CTX *md, struct lm_digest *d, struct lm_err *e)
{
    unsigned n = 0;

    if (EVP_DigestFinal_ex(md, d->byte, &n) != 1 || n != sizeof d->byte)
        return lm_err_set(e, LM_UNSUPPORTED, "libcrypto cannot compute SHA-256 here");
    return 0;
}

/* ---- leaves */

static uint64_t n_leaves(const struct lmc_canon *x)
{
    return (lmc_canon_elems(x) + LM_HASH_LEAF - 1) / LM_HASH_LEAF;
}

/* Leaves of one piece: permuted data come in whole heads, whose rest would be
 * read again for the next leaf. */
static uint64_t leaves_a_piece(const struct lmc_canon *x)
{
    uint64_t unit = x->it.transform == LM_T_NONE ? 1 : lmc_unit(&x->it);

    return 1 + 2 * unit / LM_HASH_LEAF;
}

static uint64_t n_pieces(void *user, size_t i)
{
    const struct lmc_canon *x = &((struct job *)user)->c->whole[i];
    uint64_t k = leaves_a_piece(x);

    return (n_leaves(x) + k - 1) / k;
}

static void scratch_free(void *p)
{
    struct scratch *s = p;

    if (!s)
        return;
    EVP_MD_CTX_free(s->md);
    free(s->raw.data);
    free(s->encoded.data);
    free(s);
}

static void *scratch_new(void *user)
{
    struct scratch *s = calloc(1, sizeof *s);

    (void)user;
    if (s && !(s->md = EVP_MD_CTX_new())) {
        scratch_free(s);
        return NULL;
    }
    return s;
}

static int hash_leaf(struct scratch *s, enum lm_dtype d, const uint8_t *raw, size_t n, struct lm_digest *out,
                     struct lm_err *e)
{
    const uint8_t *bytes;
    enum lm_dtype encoding;
    size_t size = lmc_canon_encode(d, raw, n, s->encoded.data, &bytes, &encoding);
    const char *name = lm_dtype_name(encoding);

    if (begin(s->md, "lm-hash 1 leaf", e))
        return -1;
    add(s->md, name, strlen(name) + 1);
    add(s->md, bytes, size);
    return end(s->md, out, e);
}

static int piece(void *user, void *scratch, size_t i, uint64_t p, uint64_t *bytes, struct lm_err *e)
{
    struct job *j = user;
    struct scratch *s = scratch;
    const struct lmc_canon *x = &j->c->whole[i];
    enum lm_dtype d = x->it.dtype;
    uint64_t leaf = p * leaves_a_piece(x), first = leaf * LM_HASH_LEAF, left = lmc_canon_elems(x) - first;
    uint64_t n = leaves_a_piece(x) * LM_HASH_LEAF < left ? leaves_a_piece(x) * LM_HASH_LEAF : left;
    const uint8_t *raw;

    *bytes = lm_dtype_bytes(d, n);
    if (lmc_room_fit(&s->encoded, LMC_ENCODE_ROOM(LM_HASH_LEAF), e) || lmc_canon_read(j->c->m, x, first, n, &s->raw, &raw, e))
        return -1;
    for (; n > 0; leaf++) {
        uint64_t k = n < LM_HASH_LEAF ? n : LM_HASH_LEAF;
        if (hash_leaf(s, d, raw, (size_t)k, &j->leaves[i][leaf], e))
            return -1;
        raw += lm_dtype_bytes(d, k);
        n -= k;
    }
    return 0;
}

/* ---- tensors and the model */

static int hash_tensor(EVP_MD_CTX *md, const struct lmc_canon *x, const struct lm_digest *leaves, struct lm_digest *out,
                       struct lm_err *e)
{
    uint64_t n_dims = 0;

    if (begin(md, "lm-hash 1 tensor", e))
        return -1;
    for (unsigned i = 0; i < x->it.n_dims; i++)
        n_dims += x->it.shape[i] != 1;
    add_u64(md, n_dims);
    for (unsigned i = 0; i < x->it.n_dims; i++)
        if (x->it.shape[i] != 1)
            add_u64(md, x->it.shape[i]);
    for (uint64_t i = 0; i < n_leaves(x); i++)
        add(md, leaves[i].byte, sizeof leaves[i].byte);
    return end(md, out, e);
}

static int by_name(const void *a, const void *b)
{
    const struct lm_hash_tensor *x = a, *y = b;
    int d = strcmp(x->name, y->name);

    /* One name twice is possible where files are odd; the order may not depend on the file even then. */
    return d ? d : memcmp(x->digest.byte, y->digest.byte, sizeof x->digest.byte);
}

static const struct lm_hash_tensor *embedding_of(const struct lm_hash *h)
{
    for (size_t i = 0; i < h->n_tensors; i++)
        if (strcmp(h->tensors[i].name, "token_embd.weight") == 0)
            return &h->tensors[i];
    return NULL;
}

static int hash_model(EVP_MD_CTX *md, struct lm_hash *h, struct lm_err *e)
{
    const struct lm_hash_tensor *embd = h->arch ? embedding_of(h) : NULL;

    if (begin(md, "lm-hash 1 model", e))
        return -1;
    for (size_t i = 0; i < h->n_tensors; i++) {
        struct lm_hash_tensor *t = &h->tensors[i];
        if (embd && strcmp(t->name, "output.weight") == 0 && lm_digest_eq(&t->digest, &embd->digest))
            t->why = "equal to token_embd.weight: a tie written out";
        if (t->why)
            continue;
        h->n_counted++;
        add_u64(md, strlen(t->name));
        add(md, t->name, strlen(t->name));
        add(md, t->digest.byte, sizeof t->digest.byte);
    }
    return end(md, &h->model, e);
}

/* Pieces of one tensor follow each other in the order of their places, mostly. */
static size_t sources_of(const struct lmc_canon *x)
{
    size_t n = 1;

    for (size_t i = 1; i < x->it.n_pieces; i++)
        n += x->it.pieces[i].src != x->it.pieces[i - 1].src;
    return n;
}

static int finish(struct lm_hash *h, const struct job *j, struct lm_err *e)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int rc = md ? 0 : lmc_nomem(e);

    for (size_t i = 0; rc == 0 && i < j->c->n_whole; i++) {
        const struct lmc_canon *x = &j->c->whole[i];
        struct lm_hash_tensor *t = &h->tensors[i];
        *t = (struct lm_hash_tensor){.src = x->it.src, .why = x->derived, .n_src = sources_of(x),
                                     .name = lm_arena_str(&h->arena, lm_span_str(x->name))};
        t->n_dims = x->it.n_dims;
        memcpy(t->shape, x->it.shape, sizeof t->shape);
        rc = t->name ? hash_tensor(md, x, j->leaves[i], &t->digest, e) : lmc_nomem(e);
        h->n_tensors += rc == 0;
    }
    if (rc == 0 && h->n_tensors)
        qsort(h->tensors, h->n_tensors, sizeof *h->tensors, by_name);
    if (rc == 0)
        rc = hash_model(md, h, e);
    EVP_MD_CTX_free(md);
    return rc;
}

static int run(struct lm_hash *h, struct job *j, const struct lm_run_options *o, struct lm_err *e)
{
    struct lmc_pass pass = {j, j->c->n_whole, 0, n_pieces, piece, scratch_new, scratch_free};

    h->tensors = calloc(j->c->n_whole + 1, sizeof *h->tensors);
    j->leaves = lm_arena_array(&j->c->arena, j->c->n_whole + 1, sizeof *j->leaves);
    if (!h->tensors || !j->leaves)
        return lmc_nomem(e);
    for (size_t i = 0; i < j->c->n_whole; i++) {
        j->leaves[i] = lm_arena_array(&j->c->arena, n_leaves(&j->c->whole[i]) + 1, sizeof **j->leaves);
        if (!j->leaves[i])
            return lmc_nomem(e);
        pass.total += j->c->whole[i].it.src->n_bytes;
    }
    h->arch = j->c->has_config ? j->c->config.arch->name : NULL;
    h->why = j->c->why ? lm_arena_str(&h->arena, lm_span_str(j->c->why)) : NULL;
    if (lmc_pass(&pass, o, e) || finish(h, j, e))
        return -1;
    return lm_model_check_unchanged(j->c->m, e);
}

int lm_hash_model(struct lm_hash **out, struct lm_model *m, const struct lm_run_options *o, struct lm_err *e)
{
    struct lm_hash *h = calloc(1, sizeof *h);
    struct job j = {0};
    int rc = h ? lmc_canon_make(&j.c, m, e) : lmc_nomem(e);

    *out = NULL;
    if (rc == 0)
        rc = lmc_canon_join(j.c, true, e);
    if (rc == 0)
        rc = run(h, &j, o, e);
    lmc_canon_free(j.c);
    if (rc) {
        lm_hash_free(h);
        return -1;
    }
    *out = h;
    return 0;
}

void lm_hash_free(struct lm_hash *h)
{
    if (!h)
        return;
    free(h->tensors);
    lm_arena_free(&h->arena);
    free(h);
}

/* ---- text */

char *lm_digest_hex(const struct lm_digest *d, char buf[65])
{
    for (int i = 0; i < 32; i++)
        snprintf(buf + 2 * i, 3, "%02x", d->byte[i]);
    return buf;
}

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool lm_digest_parse(struct lm_digest *d, const char *hex)
{
    for (int i = 0; i < 32; i++) {
        int hi = nibble(hex[2 * i]), lo = hi < 0 ? -1 : nibble(hex[2 * i + 1]);
        if (lo < 0)
            return false;
        d->byte[i] = (uint8_t)(hi << 4 | lo);
    }
    return nibble(hex[64]) < 0;
}

bool lm_digest_eq(const struct lm_digest *a, const struct lm_digest *b)
{
    return memcmp(a->byte, b->byte, sizeof a->byte) == 0;
}
