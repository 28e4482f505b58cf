/* What an unfinished output was made of and how. */
#include <openssl/evp.h>
#include <stdlib.h>

#include "convert/journal.h"
#include "libmodel/libmodel.h"

enum { SAMPLES = 64, SAMPLE = 4096 };

static void add(EVP_MD_CTX *md, const void *data, size_t n)
{
    if (n)
        EVP_DigestUpdate(md, data, n);
}

static void add_u64(EVP_MD_CTX *md, uint64_t v)
{
    uint8_t b[8];

    lm_store_u64le(b, v);
    add(md, b, sizeof b);
}

/* With its length, so that neighbours cannot run into each other. */
static void add_text(EVP_MD_CTX *md, const char *s)
{
    size_t n = s ? strlen(s) : 0;

    add_u64(md, n);
    add(md, s, n);
}

/* Size, time and samples: a file that was changed and given its old time back
 * is found where it matters most, at its head, and probably elsewhere. */
static int add_file(EVP_MD_CTX *md, const struct lm_model_file *f, struct lm_err *e)
{
    uint64_t size = f->map.size, step = size / SAMPLES > SAMPLE ? size / SAMPLES : SAMPLE;
    uint8_t buf[SAMPLE];

    add_text(md, lmc_base_name(f->path));
    add_u64(md, size);
    add_u64(md, f->made ? 0 : f->mtime_ns);
    for (uint64_t at = 0; at < size; at += step) {
        size_t n = size - at < SAMPLE ? (size_t)(size - at) : SAMPLE;
        if (lmc_pread_all(f->fd, buf, n, at, e))
            return lm_err_prefix(e, "%s", f->path);
        add(md, buf, n);
    }
    return 0;
}

static int add_source(EVP_MD_CTX *md, const struct lm_model *m, struct lm_err *e)
{
    for (size_t i = 0; i < lm_model_n_files(m); i++)
        if (add_file(md, lm_model_file(m, i), e))
            return -1;
    return 0;
}

static void add_piece(EVP_MD_CTX *md, const struct lm_plan_piece *x)
{
    add_text(md, x->src->name);
    add_u64(md, x->src_at);
    add_u64(md, x->dst_at);
    for (unsigned i = 0; i < x->n_axes; i++) {
        add_u64(md, x->n[i]);
        add_u64(md, x->src_step[i]);
        add_u64(md, x->dst_step[i]);
    }
}

static void add_item(EVP_MD_CTX *md, const struct lm_plan_item *it)
{
    add_text(md, it->name);
    add_text(md, it->src ? it->src->name : "");
    add_u64(md, it->src ? it->src->offset : 0);
    add_u64(md, it->src ? (uint64_t)it->src->dtype : 0);
    add_u64(md, (uint64_t)it->dtype);
    add_u64(md, (uint64_t)it->transform);
    add_u64(md, it->inverse);
    add_u64(md, it->n_heads);
    add_u64(md, lm_plan_elems(it));
    add_u64(md, it->importance != NULL);
    add_u64(md, it->n_pieces);
    for (size_t i = 0; i < it->n_pieces; i++)
        add_piece(md, &it->pieces[i]);
}

static void add_layout(EVP_MD_CTX *md, const struct lm_layout *l)
{
    add_u64(md, l->n_files);
    for (size_t i = 0; i < l->n_files; i++) {
        const struct lm_layout_file *f = &l->files[i];
        add_text(md, f->name);
        add_u64(md, f->n_bytes);
        add_u64(md, f->n_head);
        add(md, f->head, f->n_head);
        for (size_t k = 0; k < f->n_chunks; k++) {
            add_u64(md, f->chunks[k].offset);
            add(md, f->chunks[k].data, f->chunks[k].n);
        }
    }
}

static void add_importance(EVP_MD_CTX *md, const struct lm_plan *p)
{
    const struct lm_importance *x = p->req.mix ? p->req.mix->importance : NULL;

    for (size_t i = 0; x && i < x->n_files; i++)
        add_text(md, x->files[i].sha256);
}

static void add_request(EVP_MD_CTX *md, const struct lm_plan *p, const struct lm_layout *layouts)
{
    add_text(md, LM_VERSION);
    add_u64(md, p->req.allow_nan);
    add_importance(md, p);
    for (size_t i = 0; i < p->n_parts; i++)
        add_layout(md, &layouts[i]);
    for (size_t i = 0; i < p->n_items; i++)
        add_item(md, &p->items[i]);
    for (size_t i = 0; i < p->n_sides; i++) {
        add_text(md, p->sides[i].name);
        add_u64(md, p->sides[i].n);
        add(md, p->sides[i].data, p->sides[i].n);
    }
}

int lmc_identify(struct lmc_identity *id, const struct lm_plan *p, const struct lm_layout *layouts, struct lm_err *e)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int rc = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 ? 0 : lmc_nomem(e);

    if (rc == 0)
        rc = add_source(md, p->src, e);
    if (rc == 0 && (EVP_DigestFinal_ex(md, id->source, NULL) != 1 || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1))
        rc = lmc_nomem(e);
    if (rc == 0)
        add_request(md, p, layouts);
    if (rc == 0 && EVP_DigestFinal_ex(md, id->request, NULL) != 1)
        rc = lmc_nomem(e);
    EVP_MD_CTX_free(md);
    return rc;
}
