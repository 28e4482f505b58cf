#include "convert/audit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <openssl/evp.h>

#include "convert/audit_parts.h"

/* ---- rules */

static const struct lm_rule rules[] = {
#define NOTE LM_NOTE
#define WARNING LM_WARNING
#define ERROR LM_ERROR
#define RULE(s, id, severity, fixable, title, why, thread, mend) {id, severity, fixable, title, why, thread, mend},
#include "convert/audit_rules.def"
#undef RULE
#undef NOTE
#undef WARNING
#undef ERROR
};

const struct lm_rule *lm_rule_at(size_t i)
{
    return i < LM_N_RULES ? &rules[i] : NULL;
}

const struct lm_rule *lm_rule_find(const char *id)
{
    for (size_t i = 0; i < LM_N_RULES; i++)
        if (strcmp(rules[i].id, id) == 0)
            return &rules[i];
    return NULL;
}

const char *lm_severity_name(enum lm_severity s)
{
    static const char *const names[] = {"note", "warning", "error"};

    return (unsigned)s < 3 ? names[s] : "?";
}

void lmc_found(struct lm_audit *a, enum lm_rule_id r, const char *where, const char *format, ...)
{
    enum { MOST = 20000 };
    struct lm_finding *bigger;
    char *text = NULL;
    va_list ap;

    if (a->n_findings >= MOST) /* enough is known of such a file */
        return;
    bigger = reallocarray(a->findings, a->n_findings + 1, sizeof *bigger);
    if (!bigger) {
        a->failed = true;
        return;
    }
    a->findings = bigger;
    va_start(ap, format);
    if (vasprintf(&text, format, ap) < 0)
        text = NULL;
    va_end(ap);
    struct lm_finding f = {r, lm_arena_str(&a->arena, lm_span_str(where)), text ? lm_arena_str(&a->arena, lm_span_str(text)) : NULL};
    free(text);
    if (f.where && f.found)
        a->findings[a->n_findings++] = f;
    else
        a->failed = true;
}

/* Insertion order breaks ties: findings of a rule stay in model order. */
static int by_weight(const void *pa, const void *pb)
{
    const struct lm_finding *a = pa, *b = pb;
    int sa = (int)rules[a->rule].severity, sb = (int)rules[b->rule].severity;

    if (sa != sb)
        return sb - sa;
    if (a->rule != b->rule)
        return a->rule < b->rule ? -1 : 1;
    return 0;
}

/* qsort need not be stable: few findings, so a merge by hand is not worth it. */
static void sort_findings(struct lm_audit *a)
{
    for (size_t i = 1; i < a->n_findings; i++) {
        struct lm_finding f = a->findings[i];
        size_t k = i;
        for (; k > 0 && by_weight(&a->findings[k - 1], &f) > 0; k--)
            a->findings[k] = a->findings[k - 1];
        a->findings[k] = f;
    }
    for (size_t i = 0; i < a->n_findings; i++)
        a->n_of[rules[a->findings[i].rule].severity]++;
}

/* ---- helpers of the rules */

bool lmc_audit_is_gguf(const struct lm_audit *a)
{
    return lmc_is_gguf(a->m);
}

json_t *lmc_audit_json(const struct lm_audit *a, const char *name)
{
    struct lm_span text;
    struct lm_err ignored;
    json_t *root;

    if (lm_model_sidecar(a->m, name, &text, &ignored) != 1)
        return NULL;
    root = json_loadb((const char *)text.data, text.size, JSON_ALLOW_NUL, NULL);
    if (json_is_object(root))
        return root;
    json_decref(root);
    return NULL;
}

const struct lm_audit_tensor *lmc_audit_role(const struct lm_audit *a, enum lm_role r, int layer)
{
    for (size_t i = 0; i < a->n_tensors; i++)
        if (a->tensors[i].known && a->tensors[i].role == r && a->tensors[i].layer == layer)
            return &a->tensors[i];
    return NULL;
}

const struct lm_meta_value *lmc_audit_key(const struct lm_audit *a, const char *suffix)
{
    char key[200];

    snprintf(key, sizeof key, "%s.%s", a->arch ? a->arch : "", suffix);
    return lm_meta_get(lm_model_meta(a->m), key);
}

size_t lmc_audit_ids(const json_t *root, const char *key, int64_t *ids, size_t n)
{
    const json_t *v = json_object_get(root, key), *one;
    size_t i, found = 0;

    if (json_is_integer(v) && n > 0)
        ids[found++] = json_integer_value(v);
    json_array_foreach(v, i, one)
        if (json_is_integer(one) && found < n)
            ids[found++] = json_integer_value(one);
    return found;
}

/* ---- gathering */

struct place { size_t file; uint64_t offset, n_bytes; };

static int count_params(struct lm_audit *a, struct lm_err *e)
{
    struct lm_map *seen = lm_map_new(a->n_tensors);
    struct place *keys = lm_arena_array(&a->arena, a->n_tensors + 1, sizeof *keys);

    if (!seen || !keys) {
        lm_map_free(seen);
        return lmc_nomem(e);
    }
    for (size_t i = 0; i < a->n_tensors; i++) {
        struct lm_audit_tensor *t = &a->tensors[i];
        keys[i].file = t->t->file;
        keys[i].offset = t->t->offset;
        keys[i].n_bytes = t->t->n_bytes;
        t->shared = t->t->n_bytes > 0 && lm_map_put(seen, lm_span_of(&keys[i], sizeof keys[i]), i) == 0;
        a->n_params += t->shared ? 0 : t->t->n_elems;
        a->n_bytes += t->shared ? 0 : lm_tensor_stored_bytes(t->t);
    }
    lm_map_free(seen);
    return 0;
}

static uint64_t first_number(const json_t *config, const char *const *names)
{
    for (; *names; names++)
        if (json_is_integer(json_object_get(config, *names)))
            return (uint64_t)json_integer_value(json_object_get(config, *names));
    return 0;
}

static uint64_t key_number(const struct lm_audit *a, const char *suffix)
{
    const struct lm_meta_value *v = lmc_audit_key(a, suffix);

    return v && v->type != LM_META_STR && v->type != LM_META_ARRAY ? v->u : 0;
}

static bool is_of_experts(const struct lm_audit_tensor *t)
{
    const char *role = lm_role_name(t->role);

    if (t->known)
        return strstr(role, "_exps") != NULL;
    return strstr(t->t->name, ".experts.") || strstr(t->t->name, "_exps.");
}

/* A mixture of experts uses some of its experts for a token. */
static void count_active(struct lm_audit *a, const json_t *config)
{
    static const char *const all_names[] = {"num_local_experts", "n_routed_experts", "num_experts", NULL};
    static const char *const used_names[] = {"num_experts_per_tok", NULL};
    uint64_t all = first_number(config, all_names), used = first_number(config, used_names), experts = 0;

    if (!all)
        all = key_number(a, "expert_count");
    if (!used)
        used = key_number(a, "expert_used_count");
    if (a->has_config && a->config.n_experts) {
        all = a->config.n_experts;
        used = a->config.n_experts_used;
    }
    a->n_active = a->n_params;
    if (!all || !used || used >= all)
        all = used = 1;
    for (size_t i = 0; i < a->n_tensors; i++)
        if (!a->tensors[i].shared && is_of_experts(&a->tensors[i]))
            experts += a->tensors[i].t->n_elems;
    a->n_active -= experts / all * (all - used);
    a->n_multiplied = a->n_active;
    const struct lm_audit_tensor *table = lmc_audit_role(a, LM_ROLE_TOKEN_EMBD, -1);
    if (table && lmc_audit_role(a, LM_ROLE_OUTPUT, -1))
        a->n_multiplied -= table->t->n_elems;
}

static const char *arch_name(struct lm_audit *a, const json_t *config)
{
    const struct lm_meta_value *v = lm_meta_get(lm_model_meta(a->m), "general.architecture");
    const char *type = json_string_value(json_object_get(config, "model_type"));

    if (a->has_config)
        return a->config.arch->name;
    if (v && v->type == LM_META_STR)
        return lm_arena_str(&a->arena, v->str);
    return type ? lm_arena_str(&a->arena, lm_span_str(type)) : NULL;
}

static int gather(struct lm_audit *a, struct lm_err *e)
{
    if (lmc_canon_make(&a->canons, a->m, e))
        return -1;
    a->has_config = a->canons->has_config;
    a->config = a->canons->config;
    a->n_tensors = a->canons->n;
    a->tensors = calloc(a->n_tensors + 1, sizeof *a->tensors);
    if (!a->tensors)
        return lmc_nomem(e);
    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct lmc_canon *c = &a->canons->of[i];
        a->tensors[i] = (struct lm_audit_tensor){.t = c->it.src, .name = c->name, .role = c->it.role,
                                                 .layer = c->it.layer, .known = c->known};
    }
    json_t *config = lmc_audit_json(a, "config.json");
    int rc = count_params(a, e);
    a->arch = arch_name(a, config);
    count_active(a, config);
    json_decref(config);
    return rc;
}

/* Tensors in the bytes of another have its numbers. */
static void share_stats(struct lm_audit *a)
{
    for (size_t i = 0; i < a->n_tensors; i++)
        for (size_t k = 0; a->tensors[i].shared && k < i; k++) {
            const struct lm_tensor *x = a->tensors[i].t, *y = a->tensors[k].t;
            if (!a->tensors[k].shared && x->file == y->file && x->offset == y->offset && x->dtype == y->dtype) {
                a->tensors[i].stats = a->tensors[k].stats;
                a->tensors[i].has_stats = a->tensors[k].has_stats;
            }
        }
}

static void read_vocab(struct lm_audit *a)
{
    struct lm_err e = {0};
    int rc = lm_vocab_of_model(&a->vocab, a->m, &e);

    if (rc < 0)
        lmc_found(a, LM_RULE_tokenizer_broken, "tokenizer", "%s", e.text);
    else if (rc == 0)
        lmc_found(a, LM_RULE_tokenizer_missing, a->path, "neither tokenizer files nor tokenizer keys");
    if (rc <= 0 || a->vocab->chat_template.size == 0)
        return;
    uint8_t digest[32];
    char hex[65];
    a->template_bytes = a->vocab->chat_template.size;
    if (EVP_Digest(a->vocab->chat_template.data, a->template_bytes, digest, NULL, EVP_sha256(), NULL) != 1)
        return;
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    a->template_hash = lm_arena_str(&a->arena, lm_span_str(hex));
}

static void other_pickles(struct lm_audit *a)
{
    for (size_t i = 0; i < lm_model_n_files(a->m); i++)
        lmc_audit_pickle(a, lm_model_file(a->m, i)->path, lm_model_file(a->m, i)->map);
}

static int examine(struct lm_audit *a, struct lm_err *e)
{
    if (gather(a, e))
        return -1;
    if (!a->o.headers_only && lmc_audit_stats(a, e))
        return -1;
    share_stats(a);
    read_vocab(a);
    lmc_audit_places(a);
    other_pickles(a);
    lmc_audit_values(a);
    lmc_audit_structure(a);
    lmc_audit_config(a);
    lmc_audit_keys(a);
    lmc_audit_tokens(a);
    lmc_audit_template(a);
    lmc_audit_memory(a);
    return lm_model_check_unchanged(a->m, e);
}

/* No such file, an unreadable one, a folder without a model: no audit. */
static bool nothing_there(const char *path, const struct lm_err *why)
{
    struct stat s;
    size_t n = strlen(path);

    if (why->code == LM_IO || why->code == LM_NOMEM || stat(path, &s) < 0)
        return true;
    return S_ISDIR(s.st_mode) && why->code == LM_MISSING && strncmp(why->text, path, n) == 0 && why->text[n] == ':';
}

static int run(struct lm_audit *a, const char *path, struct lm_err *e)
{
    struct lm_err why = {0};

    a->path = lm_arena_str(&a->arena, lm_span_str(path));
    if (!a->path)
        return lmc_nomem(e);
    if (lm_model_open(&a->m, path, &why) == 0) {
        if (examine(a, e))
            return -1;
    } else if (nothing_there(path, &why)) {
        *e = why;
        return -1;
    } else {
        lmc_audit_file(a, path, &why);
    }
    sort_findings(a);
    lmc_audit_engines(a);
    return a->failed ? lmc_nomem(e) : 0;
}

int lm_audit_path(struct lm_audit **out, const char *path, const struct lm_audit_options *o, struct lm_err *e)
{
    struct lm_audit *a = calloc(1, sizeof *a);

    *out = NULL;
    if (!a)
        return lmc_nomem(e);
    a->o = *o;
    if (run(a, path, e)) {
        lm_audit_free(a);
        return -1;
    }
    *out = a;
    return 0;
}

void lm_audit_free(struct lm_audit *a)
{
    if (!a)
        return;
    lmc_canon_free(a->canons);
    lm_vocab_free(a->vocab);
    lm_model_close(a->m);
    free(a->tensors);
    free(a->findings);
    lm_arena_free(&a->arena);
    free(a);
}
