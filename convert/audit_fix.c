/* A copy of the model with what can be undone mended: metadata, small files,
 * places of tensors. Tensor data are copied as they are, and everything goes
 * through the same durable writer as a conversion. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "convert/audit_parts.h"
#include "convert/stream.h"

enum { CHUNK = 4 << 20, N_SIDES = 5 };

struct side { const char *name; json_t *json; bool changed; };

struct fix {
    const struct lm_audit *a;
    struct lm_meta *meta;   /* GGUF: the new keys */
    struct side sides[N_SIDES]; /* JSON files that mends may change */
    bool add_format;        /* safetensors: "format": "pt" */
    bool pad;               /* safetensors: the header to a multiple of 8 bytes */
    char *dir, *base;
    struct lm_commit *commit;
    uint8_t *buf;
    size_t n_fixed;
};

/* ---- mends of GGUF keys */

static int by_writing(struct fix *x, const struct lm_finding *f)
{
    (void)x;
    (void)f;
    return 1; /* a new file has neither gaps nor old versions */
}

static int mend_double_bos(struct fix *x, const struct lm_finding *f)
{
    (void)f;
    return lm_meta_set_bool(x->meta, "tokenizer.ggml.add_bos_token", false) ? -1 : 1;
}

static int mend_bos_flag(struct fix *x, const struct lm_finding *f)
{
    (void)f;
    if (lm_meta_get(x->meta, "tokenizer.ggml.add_bos_token")) /* double-bos was there first */
        return 1;
    return lm_meta_set_bool(x->meta, "tokenizer.ggml.add_bos_token", x->a->vocab && x->a->vocab->add_bos) ? -1 : 1;
}

static bool looks_control(struct lm_span s)
{
    return s.size >= 3 && s.data[0] == '<' && s.data[s.size - 1] == '>' && !memchr(s.data, ' ', s.size);
}

static int mend_control(struct fix *x, const struct lm_finding *f)
{
    const struct lm_vocab *v = x->a->vocab;
    int32_t *kinds = calloc(v->n_pieces + 1, sizeof *kinds);
    int rc = kinds ? 0 : -1;

    (void)f;
    for (size_t i = 0; kinds && i < v->n_pieces; i++) {
        const struct lm_piece *p = &v->pieces[i];
        bool plain = p->kind == LM_PIECE_NORMAL && !p->special && !p->added;
        kinds[i] = plain && looks_control(p->text) && (p->text.data[1] == '|' || p->text.size < 20) ? LM_PIECE_CONTROL : (int)p->kind;
    }
    if (rc == 0)
        rc = lm_meta_set_array(x->meta, "tokenizer.ggml.token_type", LM_META_I32, kinds, v->n_pieces);
    free(kinds);
    return rc ? -1 : 1;
}

static int mend_name(struct fix *x, const struct lm_finding *f)
{
    const char *path = lm_model_file(x->a->m, 0)->path, *base = lmc_base_name(path), *dot = strrchr(base, '.');
    struct lm_span name = lm_span_of(base, dot ? (size_t)(dot - base) : strlen(base));

    (void)f;
    if (lmc_audit_is_junk(name) && base - path > 1) { /* the folder's, then */
        const char *end = base - 1, *from = end;
        while (from > path && from[-1] != '/')
            from--;
        name = lm_span_of(from, (size_t)(end - from));
    }
    if (lmc_audit_is_junk(name))
        return 0;
    return lm_meta_set_str(x->meta, "general.name", name) ? -1 : 1;
}

static int mend_file_type(struct fix *x, const struct lm_finding *f)
{
    (void)f;
    return lm_meta_set_u32(x->meta, "general.file_type", (uint32_t)lmc_audit_file_type(x->a)) ? -1 : 1;
}

static int mend_version(struct fix *x, const struct lm_finding *f)
{
    (void)f;
    return lm_meta_set_u32(x->meta, "general.quantization_version", 2) ? -1 : 1;
}

/* ---- mends of JSON files */

static struct side *side_of(struct fix *x, const char *name)
{
    for (size_t i = 0; i < N_SIDES; i++)
        if (strcmp(x->sides[i].name, name) == 0 && x->sides[i].json)
            return &x->sides[i];
    return NULL;
}

static int set_json(struct fix *x, const char *file, const char *key, json_t *v)
{
    struct side *s = side_of(x, file);

    if (!s) {
        json_decref(v);
        return 0;
    }
    s->changed = true;
    return json_object_set_new(s->json, key, v) ? -1 : 1;
}

static int mend_theta(struct fix *x, const struct lm_finding *f)
{
    char key[200];

    (void)f;
    if (!x->meta)
        return set_json(x, "config.json", "rope_theta", json_real(x->a->config.rope_theta));
    snprintf(key, sizeof key, "%s.rope.freq_base", x->a->config.arch->name);
    return lm_meta_set_f32(x->meta, key, (float)x->a->config.rope_theta) ? -1 : 1;
}

static int mend_tie(struct fix *x, const struct lm_finding *f)
{
    return set_json(x, "config.json", "tie_word_embeddings", json_boolean(f->rule == LM_RULE_head_absent));
}

static int mend_dtype(struct fix *x, const struct lm_finding *f)
{
    struct side *s = side_of(x, "config.json");
    const char *stored = strstr(f->found, "most weights are ");

    if (!s || !stored)
        return 0;
    return set_json(x, "config.json", json_object_get(s->json, "dtype") ? "dtype" : "torch_dtype",
                    json_string(stored + strlen("most weights are ")));
}

static int mend_eos(struct fix *x, const struct lm_finding *f)
{
    return set_json(x, f->where, "eos_token_id", json_integer(x->a->vocab->eos_id));
}

static int mend_index(struct fix *x, const struct lm_finding *f)
{
    struct side *s = side_of(x, "model.safetensors.index.json");
    json_t *meta = s ? json_object_get(s->json, "metadata") : NULL;

    (void)f;
    if (!meta)
        return 0;
    s->changed = true;
    return json_object_set_new(meta, "total_size", json_integer((json_int_t)x->a->n_bytes)) ? -1 : 1;
}

/* The text that transformers takes, into every JSON file that has one. */
static int mend_template(struct fix *x, const struct lm_finding *f)
{
    static const char *const files[] = {"tokenizer_config.json", "chat_template.json"};
    json_t *keep;
    struct lm_span t = lmc_audit_template_of(x->a, "chat_template.jinja", &keep);
    int rc = 0;

    (void)f;
    if (t.size == 0)
        t = lmc_audit_template_of(x->a, files[0], &keep);
    for (size_t i = 0; rc >= 0 && i < 2; i++) {
        struct side *s = side_of(x, files[i]);
        if (s && json_object_get(s->json, "chat_template"))
            rc = set_json(x, files[i], "chat_template", json_stringn((const char *)t.data, t.size));
    }
    json_decref(keep);
    return rc < 0 ? -1 : 1;
}

/* The id joins those that stop already. */
static int mend_stop(struct fix *x, const struct lm_finding *f)
{
    const char *file = side_of(x, "generation_config.json") ? "generation_config.json" : "config.json";
    const char *at = strstr(f->found, " is id ");
    struct side *s = side_of(x, file);
    int64_t ids[15];

    if (!s || !at)
        return 0;
    size_t n = lmc_audit_ids(s->json, "eos_token_id", ids, 15);
    json_t *list = json_array();
    if (n == 0 && x->a->vocab->eos_id >= 0)
        ids[n++] = x->a->vocab->eos_id;
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    json_array_append_new(list, json_integer(strtoll(at + strlen(" is id "), NULL, 10)));
    return set_json(x, file, "eos_token_id", list);
}

static int mend_alignment(struct fix *x, const struct lm_finding *f)
{
    (void)f;
    x->pad = true;
    return 1;
}

static int mend_format(struct fix *x, const struct lm_finding *f)
{
    (void)f;
    x->add_format = true;
    return 1;
}

/* 1 mended, 0 not in this model, -1 out of memory. */
static const struct { enum lm_rule_id rule; int (*mend)(struct fix *x, const struct lm_finding *f); } mends[] = {
    {LM_RULE_gguf_gap, by_writing},          {LM_RULE_gguf_trailing, by_writing},
    {LM_RULE_gguf_old, by_writing},          {LM_RULE_gguf_big_endian, by_writing},
    {LM_RULE_double_bos, mend_double_bos},   {LM_RULE_bos_flag_missing, mend_bos_flag},
    {LM_RULE_control_as_text, mend_control}, {LM_RULE_name_junk, mend_name},
    {LM_RULE_file_type_wrong, mend_file_type}, {LM_RULE_quantization_version, mend_version},
    {LM_RULE_rope_theta_missing, mend_theta}, {LM_RULE_tie_ignored, mend_tie},
    {LM_RULE_head_absent, mend_tie},         {LM_RULE_dtype_disagrees, mend_dtype},
    {LM_RULE_eos_disagrees, mend_eos},       {LM_RULE_index_size, mend_index},
    {LM_RULE_format_key, mend_format},       {LM_RULE_template_differs, mend_template},
    {LM_RULE_template_eos, mend_stop},       {LM_RULE_safetensors_unaligned, mend_alignment},
};

static bool only_gguf(enum lm_rule_id r)
{
    return r == LM_RULE_double_bos || r == LM_RULE_bos_flag_missing || r == LM_RULE_control_as_text;
}

static int mend_all(struct fix *x, struct lm_err *e)
{
    for (size_t i = 0; i < x->a->n_findings; i++)
        for (size_t k = 0; k < sizeof mends / sizeof mends[0]; k++) {
            const struct lm_finding *f = &x->a->findings[i];
            if (f->rule != mends[k].rule || (only_gguf(f->rule) && !x->meta))
                continue;
            int rc = mends[k].mend(x, f);
            if (rc < 0)
                return lmc_nomem(e);
            x->n_fixed += (size_t)rc;
        }
    return 0;
}

/* ---- writing */

static int copy_bytes(struct fix *x, const struct lm_model_file *from, uint64_t at, int to, uint64_t dst, uint64_t n,
                      struct lm_err *e)
{
    while (n > 0) {
        size_t k = n < CHUNK ? (size_t)n : CHUNK;
        if (lmc_pread_all(from->fd, x->buf, k, at, e) || lm_pwrite_all(to, x->buf, k, dst, e))
            return -1;
        at += k;
        dst += k;
        n -= k;
    }
    return 0;
}

static int refuse_source(const struct fix *x, const char *name, struct lm_err *e)
{
    char *path = NULL;
    struct stat s;
    bool same = false;

    if (asprintf(&path, "%s/%s", x->dir, name) < 0)
        return lmc_nomem(e);
    bool there = stat(path, &s) == 0;
    free(path);
    for (size_t i = 0; there && i < lm_model_n_files(x->a->m); i++)
        same |= lm_model_file(x->a->m, i)->dev == (uint64_t)s.st_dev && lm_model_file(x->a->m, i)->ino == (uint64_t)s.st_ino;
    return same ? lm_err_set(e, LM_USAGE, "%s/%s is the source itself: choose another destination", x->dir, name) : 0;
}

static int add_file(struct fix *x, const char *name, uint64_t n, const void *head, size_t n_head, int *fd, struct lm_err *e)
{
    if (refuse_source(x, name, e) || lm_commit_add(x->commit, name, n, fd, e))
        return -1;
    return lm_pwrite_all(*fd, head, n_head, 0, e);
}

/* A big-endian tensor is turned in whole blocks. */
static int copy_tensor(struct fix *x, const struct lm_tensor *t, int fd, uint64_t dst, struct lm_err *e)
{
    size_t block = lm_dtype_info(t->dtype)->block_bytes, step = CHUNK / block * block;

    if (!t->big_endian)
        return copy_bytes(x, lm_model_file(x->a->m, t->file), t->offset, fd, dst, t->n_bytes, e);
    for (uint64_t at = 0; at < t->n_bytes; at += step) {
        size_t k = t->n_bytes - at < step ? (size_t)(t->n_bytes - at) : step;
        lm_tensor_read(t, at, k, x->buf);
        if (lm_pwrite_all(fd, x->buf, k, dst + at, e))
            return -1;
    }
    return 0;
}

static int write_gguf(struct fix *x, struct lm_err *e)
{
    size_t n = x->a->n_tensors;
    struct lm_write_tensor *w = calloc(n + 1, sizeof *w);
    struct lm_write_spec spec = {.tensors = w, .n_tensors = n, .meta = x->meta};
    struct lm_layout l = {0};
    int fd, rc = w ? 0 : lmc_nomem(e);

    for (size_t i = 0; rc == 0 && i < n; i++) {
        const struct lm_tensor *t = x->a->tensors[i].t;
        w[i] = (struct lm_write_tensor){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims};
        memcpy(w[i].shape, t->shape, sizeof w[i].shape);
    }
    if (rc == 0)
        rc = lm_format_find("gguf")->layout(&l, &spec, x->base, e);
    if (rc == 0)
        rc = add_file(x, l.files[0].name, l.files[0].n_bytes, l.files[0].head, l.files[0].n_head, &fd, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = copy_tensor(x, x->a->tensors[i].t, fd, l.places[i].offset, e);
    lm_layout_free(&l);
    free(w);
    return rc;
}

/* The header padded, with the key where that is missing; malloc'd. */
static char *new_header(struct lm_span old, bool add_format, size_t *n)
{
    json_t *root = json_loadb((const char *)old.data, old.size, 0, NULL), *meta;
    char *text = NULL, *out = NULL;

    if (json_is_object(root)) {
        if (add_format && !json_is_object(json_object_get(root, "__metadata__")))
            json_object_set_new(root, "__metadata__", json_object());
        meta = json_object_get(root, "__metadata__");
        if (add_format)
            json_object_set_new(meta, "format", json_string("pt"));
        text = json_dumps(root, JSON_COMPACT);
    }
    json_decref(root);
    *n = text ? (strlen(text) + 7) / 8 * 8 : 0;
    if (text && asprintf(&out, "%-*s", (int)*n, text) < 0)
        out = NULL;
    free(text);
    return out;
}

static int write_tensors(struct fix *x, const struct lm_model_file *f, struct lm_err *e)
{
    const char *name = lmc_base_name(f->path);
    uint64_t n_old = lm_load_u64le(f->map.data), data = 8 + n_old;
    uint8_t length[8];
    size_t n_new = 0;
    int fd;

    if (!x->add_format && !x->pad)
        return add_file(x, name, f->map.size, "", 0, &fd, e) || copy_bytes(x, f, 0, fd, 0, f->map.size, e) ? -1 : 0;
    char *text = new_header(lm_span_of(f->map.data + 8, (size_t)n_old), x->add_format, &n_new);
    int rc = text ? 0 : lmc_nomem(e);
    lm_store_u64le(length, n_new);
    if (rc == 0 && (add_file(x, name, 8 + n_new + f->map.size - data, length, 8, &fd, e) ||
                    lm_pwrite_all(fd, text, n_new, 8, e) ||
                    copy_bytes(x, f, data, fd, 8 + n_new, f->map.size - data, e)))
        rc = -1;
    free(text);
    return rc;
}

static int write_side(struct fix *x, const char *name, struct lm_err *e)
{
    const struct side *s = side_of(x, name);
    struct lm_span text;
    char *changed = s && s->changed ? json_dumps(s->json, JSON_INDENT(2) | JSON_ENSURE_ASCII) : NULL;
    int fd, rc = lm_model_sidecar(x->a->m, name, &text, e);

    if (rc == 1) {
        if (changed)
            text = lm_span_str(changed);
        rc = add_file(x, name, text.size, text.data, text.size, &fd, e);
    }
    free(changed);
    return rc;
}

static int write_folder(struct fix *x, struct lm_err *e)
{
    for (size_t i = 0; i < lm_model_n_files(x->a->m); i++)
        if (write_tensors(x, lm_model_file(x->a->m, i), e))
            return -1;
    for (size_t i = 0; lm_sidecar_names[i]; i++)
        if (write_side(x, lm_sidecar_names[i], e))
            return -1;
    return write_side(x, "model.safetensors.index.json", e);
}

/* ---- all */

static int begin(struct fix *x, const char *dst, struct lm_err *e)
{
    static const char *const names[N_SIDES] = {"config.json", "generation_config.json", "tokenizer_config.json",
                                        "model.safetensors.index.json", "chat_template.json"};
    const struct lm_meta *old = lm_model_meta(x->a->m);
    const char *base = lmc_base_name(dst), *key;

    x->buf = malloc(CHUNK);
    if (lmc_audit_is_gguf(x->a)) {
        x->meta = lm_meta_new();
        for (size_t i = 0; x->meta && i < lm_meta_count(old); i++) {
            const struct lm_meta_value *v = lm_meta_at(old, i, &key);
            if (lm_meta_set_value(x->meta, key, v))
                return lmc_nomem(e);
        }
        x->dir = base == dst ? strdup(".") : strndup(dst, (size_t)(base - dst));
        x->base = strdup(*base ? base : "model.gguf");
    } else {
        x->dir = strdup(dst);
        x->base = strdup("model.safetensors");
    }
    for (size_t i = 0; i < N_SIDES; i++)
        x->sides[i] = (struct side){names[i], x->meta ? NULL : lmc_audit_json(x->a, names[i]), false};
    return x->buf && x->dir && x->base && (x->meta || !lmc_audit_is_gguf(x->a)) ? 0 : lmc_nomem(e);
}

static int run(struct fix *x, const char *dst, bool force, struct lm_err *e)
{
    struct lm_commit *c;

    if (begin(x, dst, e) || mend_all(x, e))
        return -1;
    if (lm_commit_begin(&x->commit, x->dir, force, e) || (x->meta ? write_gguf(x, e) : write_folder(x, e)) ||
        lm_model_check_unchanged(x->a->m, e))
        return -1;
    c = x->commit;
    x->commit = NULL;
    return lm_commit_finish(c, e);
}

int lm_audit_fix(const struct lm_audit *a, const char *dst, bool force, size_t *fixed, struct lm_err *e)
{
    struct fix x = {.a = a};
    int rc;

    *fixed = 0;
    if (!a->m)
        return lm_err_set(e, LM_UNSUPPORTED, "%s: cannot be read, so nothing can be mended", a->path);
    rc = run(&x, dst, force, e);
    if (rc == 0)
        *fixed = x.n_fixed;
    lm_commit_abort(x.commit);
    lm_meta_free(x.meta);
    for (size_t i = 0; i < N_SIDES; i++)
        json_decref(x.sides[i].json);
    free(x.dir);
    free(x.base);
    free(x.buf);
    return rc;
}
