/* Importance files: which matrix they belong to, and what the output says of
 * them. */
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "convert/plan.h"
#include "convert/policy.h"

enum { SHOWN = 8 }; /* names in a message */

/* ---- files */

static int digest_fd(int fd, char hex[65], struct lm_err *e)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    unsigned char digest[EVP_MAX_MD_SIZE];
    static const char digits[] = "0123456789abcdef";
    uint8_t buf[1 << 16];
    ssize_t n = -1;

    if (!md || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(md);
        return lmc_nomem(e);
    }
    while ((n = read(fd, buf, sizeof buf)) > 0)
        EVP_DigestUpdate(md, buf, (size_t)n);
    EVP_DigestFinal_ex(md, digest, NULL);
    EVP_MD_CTX_free(md);
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[64] = 0;
    return n < 0 ? lm_err_errno(e, "cannot read") : 0;
}

static int digest_file(const char *path, char hex[65], struct lm_err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return lm_err_errno(e, "%s: cannot open", path);
    int rc = digest_fd(fd, hex, e);
    close(fd);
    return rc ? lm_err_prefix(e, "%s", path) : 0;
}

static int add_file(struct lm_importance *i, const char *path, struct lm_err *e)
{
    struct lm_importance_file *f = &i->files[i->n_files];
    struct lm_imatrix *m;

    if (lm_imatrix_read(&m, path, e) || digest_file(path, f->sha256, e))
        return -1;
    f->path = strdup(path);
    if (!f->path) {
        lm_imatrix_free(m);
        return lmc_nomem(e);
    }
    i->n_files++;
    if (!i->matrix) {
        i->matrix = m;
        return 0;
    }
    int rc = lm_imatrix_merge(i->matrix, m, e) ? lm_err_prefix(e, "%s", path) : 0;
    lm_imatrix_free(m);
    return rc;
}

int lm_importance_read(struct lm_importance **out, const char *const *paths, size_t n, struct lm_err *e)
{
    struct lm_importance *i = calloc(1, sizeof *i);

    *out = NULL;
    if (!i || !(i->files = calloc(n + 1, sizeof *i->files))) {
        free(i);
        return lmc_nomem(e);
    }
    for (size_t k = 0; k < n; k++)
        if (add_file(i, paths[k], e)) {
            lm_importance_free(i);
            return -1;
        }
    *out = i;
    return 0;
}

void lm_importance_free(struct lm_importance *i)
{
    if (!i)
        return;
    for (size_t k = 0; k < i->n_files; k++)
        free(i->files[k].path);
    free(i->files);
    lm_imatrix_free(i->matrix);
    free(i);
}

/* ---- names in a message: the first few, then how many more */

struct names { char text[600]; size_t n, used; };

static void add_name(struct names *l, const char *name, const char *type)
{
    if (l->n++ < SHOWN && l->used < sizeof l->text)
        l->used += (size_t)snprintf(l->text + l->used, sizeof l->text - l->used, "%s%s%s%s", l->n > 1 ? ", " : "", name,
                                    type ? " " : "", type ? type : "");
}

static const char *more_names(const struct names *l, char buf[32])
{
    buf[0] = 0;
    if (l->n > SHOWN)
        snprintf(buf, 32, " and %zu more", l->n - SHOWN);
    return buf;
}

/* ---- items */

static uint64_t n_matrices_of(const struct lm_plan_item *it)
{
    uint64_t n = 1;

    for (unsigned i = 0; i + 2 < it->n_dims; i++)
        n *= it->shape[i];
    return n;
}

static bool is_embedding(const char *name)
{
    return strcmp(name, "token_embd.weight") == 0 || strcmp(name, "per_layer_token_embd.weight") == 0;
}

/* Embedding rows are looked up, not multiplied: what a tied output matrix may
 * have left under that name is used only if it fits. */
static int attach(struct lm_plan *p, struct lm_plan_item *it, struct names *missing, struct lm_err *e)
{
    const struct lm_imatrix_entry *x = lm_imatrix_find(p->req.mix->importance->matrix, it->name);
    uint64_t n = n_matrices_of(it), row = it->shape[it->n_dims - 1];

    if (!x) {
        if (!is_embedding(it->name) && strcmp(it->name, "output.weight") != 0)
            add_name(missing, it->name, NULL);
        return 0;
    }
    if (x->n_values != row * n || x->n_values / x->n_counts % row != 0) {
        if (is_embedding(it->name))
            return 0;
        return lm_err_set(e, LM_MISMATCH, "importance of '%s' has %zu values, the tensor %llu x %llu columns: it belongs "
                          "to another model", it->name, x->n_values, (unsigned long long)n, (unsigned long long)row);
    }
    it->importance = x;
    return 0;
}

static bool can_use(const struct lm_plan_item *it)
{
    return it->src && it->src->dtype != it->dtype && it->n_dims >= 2 && lm_dtype_info(it->dtype)->from_f32_weighted;
}

static int attach_all(struct lm_plan *p, struct lm_err *e)
{
    struct names missing = {0};
    char more[32];

    for (size_t i = 0; i < p->n_items; i++)
        if (can_use(&p->items[i]) && attach(p, &p->items[i], &missing, e))
            return -1;
    if (missing.n == 0)
        return 0;
    return lmc_note(p, e, "no importance is known for %zu tensors, which are made without: %s%s", missing.n, missing.text,
                    more_names(&missing, more));
}

/* Experts that the text never reached count all their columns alike. */
static int note_unreached(struct lm_plan *p, struct lm_err *e)
{
    size_t n_tensors = 0;
    uint64_t n = 0, all = 0;

    for (size_t i = 0; i < p->n_items; i++) {
        const struct lm_imatrix_entry *x = p->items[i].importance;
        uint64_t zero = 0;
        for (size_t k = 0; x && k < x->n_counts; k++)
            zero += x->counts[k] == 0;
        n_tensors += zero > 0;
        n += zero;
        all += zero > 0 ? x->n_counts : 0;
    }
    if (n == 0)
        return 0;
    return lmc_note(p, e, "the text of the importance reached no token of %llu of %llu matrices in %zu tensors: their "
                    "columns count alike; more text would help", (unsigned long long)n, (unsigned long long)all, n_tensors);
}

static int check_needs(const struct lm_plan *p, struct lm_err *e)
{
    struct names l = {0};
    char more[32];

    for (size_t i = 0; i < p->n_items; i++) {
        const struct lm_plan_item *it = &p->items[i];
        if (it->src && it->src->dtype != it->dtype && !it->importance &&
            lmc_mix_needs_importance(p->req.ftype, it->name, it->dtype))
            add_name(&l, it->name, lm_dtype_name(it->dtype));
    }
    if (l.n == 0)
        return 0;
    return lm_err_set(e, LM_MISSING, "%zu tensors would be useless without importance: %s%s; %s", l.n, l.text,
                      more_names(&l, more), p->req.mix && p->req.mix->importance
                      ? "the importance file lacks them: choose their types with --tensor-type, or collect it again"
                      : "give --imatrix FILE, or choose another type");
}

int lmc_plan_importance(struct lm_plan *p, struct lm_err *e)
{
    if (!p->req.quantize)
        return 0;
    if (p->req.mix && p->req.mix->importance && (attach_all(p, e) || note_unreached(p, e)))
        return -1;
    return check_needs(p, e);
}

/* ---- metadata: llama.cpp's keys, and the digests */

/* Several files by their names, with commas. */
static const char *file_names(struct lm_plan *p, const struct lm_importance *i)
{
    const char *names = lmc_base_name(i->files[0].path);

    for (size_t k = 1; names && k < i->n_files; k++)
        names = lmc_print(&p->arena, "%s, %s", names, lmc_base_name(i->files[k].path));
    return names;
}

static int set_digests(struct lm_plan *p, const struct lm_importance *i, struct lm_err *e)
{
    struct lm_span *s = lm_arena_array(&p->arena, i->n_files + 1, sizeof *s);

    for (size_t k = 0; s && k < i->n_files; k++)
        s[k] = lm_span_str(i->files[k].sha256);
    return !s || lm_meta_set_strs(p->meta, "libmodel.imatrix.sha256", s, i->n_files) ? lmc_nomem(e) : 0;
}

int lmc_importance_meta(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_importance *i = p->req.quantize && p->req.mix ? p->req.mix->importance : NULL;

    if (!i)
        return 0;
    const char *file = file_names(p, i), *dataset = lm_imatrix_dataset(i->matrix, 0);
    uint32_t chunks = lm_imatrix_chunks(i->matrix);
    if (!file || lm_meta_set_str(p->meta, "quantize.imatrix.file", lm_span_str(file)) ||
        (dataset && lm_meta_set_str(p->meta, "quantize.imatrix.dataset", lm_span_str(dataset))) ||
        lm_meta_set_u32(p->meta, "quantize.imatrix.entries_count", (uint32_t)lm_imatrix_count(i->matrix)) ||
        (chunks && lm_meta_set_u32(p->meta, "quantize.imatrix.chunks_count", chunks)))
        return lmc_nomem(e);
    return set_digests(p, i, e);
}
