/* Why B departs: its configuration against A's, its tensors against A's, and
 * the proof: B run again with what was found put right. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "gpu/piece.h"

const char *lm_cause_name(enum lm_cause c)
{
    static const char *const names[] = {
#define F(s, name) name,
        LM_CAUSES(F)
#undef F
    };
    return c < LM_N_CAUSES ? names[c] : "unknown";
}

struct doctor {
    const struct lm_side *a, *b;
    const int32_t *ids;
    size_t n;
    const float *hidden;
    const struct lm_layer_error *layers;
    struct lm_diagnosis *out;
    struct lmi_rerun healed;    /* B with A's configuration where they differ; then with A's tensors */
    unsigned fields;            /* bit: group i of fields is put right */
    int last[LM_MOST_FINDINGS]; /* the layer where each finding was made last */
};

static void add(struct doctor *d, const struct lm_finding *f)
{
    for (size_t i = 0; i < d->out->n; i++) {
        struct lm_finding *g = &d->out->found[i];
        if (f->role != LM_N_ROLES && g->cause == f->cause && g->role == f->role) {
            g->n_layers += f->layer != d->last[i];
            d->last[i] = f->layer;
            return;
        }
    }
    if (d->out->n == LM_MOST_FINDINGS) {
        d->out->n_more++;
        return;
    }
    d->last[d->out->n] = f->layer;
    d->out->found[d->out->n++] = *f;
}

/* ---- the configuration */

enum group { GROUP_HEADS, GROUP_ROPE, GROUP_KIND, GROUP_EMBED, GROUP_TIED, GROUP_WINDOW, GROUP_FIELDS };
enum type { U32, REAL, SCALE /* 0 means 1 */, BOOL, ENUM };
static const struct field { const char *name; size_t at; enum type type; enum group group; enum lm_cause cause; } fields[] = {
#define FIELD(f, type, group, cause) {#f, offsetof(struct lm_config, f), type, group, LM_CAUSE_##cause}
    FIELD(n_heads, U32, GROUP_HEADS, HEADS), FIELD(n_kv_heads, U32, GROUP_HEADS, HEADS),
    FIELD(d_head, U32, GROUP_HEADS, HEADS), FIELD(d_rope, U32, GROUP_HEADS, ROPE_KIND),
    FIELD(alibi, BOOL, GROUP_KIND, ROPE_KIND), FIELD(embed_scale, SCALE, GROUP_EMBED, EMBED_SCALE),
    /* from here on a group each */
    FIELD(norm_eps, REAL, GROUP_FIELDS, CONFIG), FIELD(act, ENUM, GROUP_FIELDS, CONFIG),
    FIELD(attn_softcap, REAL, GROUP_FIELDS, CONFIG), FIELD(final_softcap, REAL, GROUP_FIELDS, CONFIG),
    FIELD(residual_scale, SCALE, GROUP_FIELDS, CONFIG), FIELD(logit_divisor, SCALE, GROUP_FIELDS, CONFIG),
    FIELD(parallel, BOOL, GROUP_FIELDS, CONFIG), FIELD(n_experts_used, U32, GROUP_FIELDS, CONFIG),
    FIELD(gating, ENUM, GROUP_FIELDS, CONFIG), FIELD(expert_norm, BOOL, GROUP_FIELDS, CONFIG),
    FIELD(expert_scale, SCALE, GROUP_FIELDS, CONFIG), FIELD(expert_correction, BOOL, GROUP_FIELDS, CONFIG),
    FIELD(n_expert_groups, U32, GROUP_FIELDS, CONFIG), FIELD(n_groups_used, U32, GROUP_FIELDS, CONFIG),
    FIELD(group_top2, BOOL, GROUP_FIELDS, CONFIG), FIELD(act_limit, REAL, GROUP_FIELDS, CONFIG),
    FIELD(act_alpha, REAL, GROUP_FIELDS, CONFIG),
#undef FIELD
};
enum { N_FIELDS = sizeof fields / sizeof fields[0], SCALE_OF_ATTENTION = GROUP_FIELDS + N_FIELDS, N_GROUPS };
_Static_assert(N_GROUPS <= 32, "a bit of doctor.fields each");

static unsigned group_of(size_t field)
{
    return fields[field].group == GROUP_FIELDS ? GROUP_FIELDS + (unsigned)field : fields[field].group;
}

static double value_of(const struct lm_config *c, const struct field *f)
{
    const char *at = (const char *)c + f->at;
    uint32_t u;
    double x;
    bool b;

    switch (f->type) {
    case BOOL: memcpy(&b, at, sizeof b); return b;
    case U32: memcpy(&u, at, sizeof u); return u;
    case ENUM: memcpy(&u, at, sizeof(int)); return u;
    default: memcpy(&x, at, sizeof x); return f->type == SCALE && x == 0 ? 1 : x;
    }
}

static size_t size_of(enum type t)
{
    return t == BOOL ? sizeof(bool) : t == U32 || t == ENUM ? sizeof(uint32_t) : sizeof(double);
}

static bool differ(double x, double y)
{
    return fabs(x - y) > 1e-6 * fmax(fabs(x), fabs(y)); /* GGUF keeps f32 */
}

static void found_config(struct doctor *d, unsigned group, enum lm_cause cause, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void found_config(struct doctor *d, unsigned group, enum lm_cause cause, const char *format, ...)
{
    struct lm_finding f = {.cause = cause, .role = LM_N_ROLES, .layer = (int)group, .error = NAN};
    va_list ap;

    va_start(ap, format);
    vsnprintf(f.text, sizeof f.text, format, ap);
    va_end(ap);
    d->fields |= 1u << group;
    add(d, &f);
}

static const char *scaling_name(enum lm_rope_scaling s)
{
    static const char *const names[] = {"none", "linear", "llama3", "yarn", "longrope"};
    return s < sizeof names / sizeof *names ? names[s] : "unknown";
}

static bool tables_differ(const double *x, const double *y, uint32_t n)
{
    for (uint32_t j = 0; x && y && j < n; j++)
        if (fabs(x[j] - y[j]) > 2e-6 * fabs(x[j]))
            return true;
    return (x != NULL) != (y != NULL);
}

/* What counts is the rotation: one container says it by keys, another by a tensor of divisors. */
static void compare_rotation(struct doctor *d, const struct lm_net *a, const struct lm_net *b)
{
    const struct lm_config *ca = &a->config, *cb = &b->config;

    if (ca->d_rope != cb->d_rope || ca->alibi != cb->alibi)
        return;
    bool turned = tables_differ(a->rope_freqs, b->rope_freqs, ca->d_rope / 2);
    if (turned && differ(ca->rope_theta, cb->rope_theta))
        found_config(d, GROUP_ROPE, LM_CAUSE_ROPE_BASE, "rope_theta is %.9g, in A it is %.9g", cb->rope_theta,
                     ca->rope_theta);
    else if (turned || differ(a->rope_mscale, b->rope_mscale))
        found_config(d, GROUP_ROPE, LM_CAUSE_ROPE_SCALING, "the scaling of RoPE is %s (factor %g), in A it is %s (factor %g)",
                     scaling_name(cb->scaling), cb->rope_factor, scaling_name(ca->scaling), ca->rope_factor);
    if (tables_differ(a->local_freqs, b->local_freqs, ca->d_rope / 2))
        found_config(d, GROUP_ROPE, LM_CAUSE_ROPE_BASE, "windowed layers rotate by the base %.9g, in A by %.9g",
                     cb->rope_theta_local, ca->rope_theta_local);
}

static void compare_windows(struct doctor *d, const struct lm_config *a, const struct lm_config *b)
{
    for (uint32_t i = 0; i < a->n_layers; i++)
        if (lm_config_window(a, i) != lm_config_window(b, i)) {
            found_config(d, GROUP_WINDOW, LM_CAUSE_CONFIG, "layer %u sees %u positions (0: all), in A %u", i,
                         lm_config_window(b, i), lm_config_window(a, i));
            return;
        }
}

static bool has_head(const struct lm_side *s)
{
    return lm_bound_tensor(lm_engine_binding(s->engine), LM_ROLE_OUTPUT, -1) != NULL;
}

/* A tied head that equals the matrix it stands for is no fault. */
static void compare_heads(struct doctor *d)
{
    struct lmi_pair p = {.ga = d->a->engine, .gb = d->b->engine, .role = LM_ROLE_OUTPUT, .layer = -1};
    struct lm_err ignored;
    bool a = has_head(d->a), b = has_head(d->b);

    if (a == b || !lmi_piece_of(p.ga, p.role, -1, 0, &p.a) || !lmi_piece_of(p.gb, p.role, -1, 0, &p.b) ||
        p.a.rows != p.b.rows || p.a.cols != p.b.cols)
        return;
    if (lmi_pair_load(&p, &ignored) == 0 && !(p.error <= p.bound))
        found_config(d, GROUP_TIED, LM_CAUSE_TIED_HEAD, "%s",
                     a ? "the head is tied to the embedding, A has an output matrix of its own"
                       : "there is an output matrix of its own that is not the embedding, to which A ties the head");
    lmi_pair_free(&p);
}

static void compare_config(struct doctor *d)
{
    const struct lm_config *a = lm_engine_config(d->a->engine), *b = lm_engine_config(d->b->engine);

    compare_rotation(d, &d->a->engine->net, &d->b->engine->net);
    for (size_t i = 0; i < N_FIELDS; i++) {
        double x = value_of(a, &fields[i]), y = value_of(b, &fields[i]);
        if (differ(x, y))
            found_config(d, group_of(i), fields[i].cause, "%s is %.9g, in A it is %.9g", fields[i].name, y, x);
    }
    if (!(d->fields & 1u << GROUP_HEADS) && differ(lm_config_attn_scale(a), lm_config_attn_scale(b)))
        found_config(d, SCALE_OF_ATTENTION, LM_CAUSE_CONFIG, "scores of attention are scaled by %.9g, in A by %.9g",
                     lm_config_attn_scale(b), lm_config_attn_scale(a));
    compare_windows(d, a, b);
    compare_heads(d);
}

/* For lmi_rerun_open: the fields that differ, as A has them. */
static void change(struct lm_config *c, void *user)
{
    const struct doctor *d = user;
    const struct lm_config *a = lm_engine_config(d->a->engine);

    for (size_t i = 0; i < N_FIELDS; i++)
        if (d->fields & 1u << group_of(i))
            memcpy((char *)c + fields[i].at, (const char *)a + fields[i].at, size_of(fields[i].type));
    if (d->fields & 1u << GROUP_HEADS)
        c->d_head_v = a->d_head_v;
    if (d->fields & (1u << GROUP_HEADS | 1u << SCALE_OF_ATTENTION))
        c->attn_scale = lm_config_attn_scale(a);
    if (d->fields & 1u << GROUP_TIED)
        c->tied = a->tied;
    if (d->fields & 1u << GROUP_WINDOW) {
        c->sliding_window = a->sliding_window;
        memcpy(c->full_layers, a->full_layers, sizeof c->full_layers);
        c->rope_theta_local = a->rope_theta_local;
    }
}

/* ---- tensors */

/* Each is told to be right by other means, or with the tensor that it is part of. */
static bool is_passed_over(enum lm_role r)
{
    return r == LM_ROLE_IGNORED || r == LM_ROLE_ROPE_FREQS || r == LM_ROLE_ROPE_LONG || r == LM_ROLE_ROPE_SHORT ||
           r == LM_ROLE_ATTN_QKV || r == LM_ROLE_ATTN_QKV_B || r == LM_ROLE_FFN_GATE_UP;
}

static int put_right(struct doctor *d, const struct lmi_pair *p, struct lm_err *e)
{
    if (d->healed.patch_bytes == SIZE_MAX)
        return 0;
    return lmi_rerun_replace(&d->healed, d->a, p->role, p->layer, p->index, e);
}

/* B has it, A has not, or the reverse. */
static int compare_presence(struct doctor *d, struct lmi_pair *p, bool in_a, struct lm_finding *f, struct lm_err *e)
{
    f->cause = in_a ? LM_CAUSE_MISSING : LM_CAUSE_EXTRA;
    f->error = NAN;
    snprintf(f->text, sizeof f->text, in_a ? "it is missing" : "it is there, but not in A");
    add(d, f);
    return in_a ? put_right(d, p, e) : 0;
}

static int compare_values(struct doctor *d, struct lmi_pair *p, struct lm_finding *f, struct lm_err *e)
{
    int r = lmi_pair_load(p, e);

    if (r == 0 && !(p->error <= p->bound)) {
        f->error = p->error;
        lmi_guess(p, f);
        add(d, f);
        r = put_right(d, p, e);
    }
    lmi_pair_free(p);
    return r;
}

static int compare_role(struct doctor *d, enum lm_role role, int layer, uint32_t index, struct lm_err *e)
{
    struct lmi_pair p = {.ga = d->a->engine, .gb = d->healed.side.engine, .role = role, .layer = layer, .index = index};
    struct lm_finding f = {.role = role, .layer = layer, .n_layers = layer >= 0};
    bool a = lmi_piece_of(p.ga, role, layer, index, &p.a), b = lmi_piece_of(p.gb, role, layer, index, &p.b);

    if (!a && !b)
        return 0;
    if (a != b)
        return compare_presence(d, &p, a, &f, e);
    if (p.a.rows == p.b.rows && p.a.cols == p.b.cols)
        return compare_values(d, &p, &f, e);
    snprintf(f.text, sizeof f.text, "it is [%llu, %llu], in A [%llu, %llu]", (unsigned long long)p.b.rows,
             (unsigned long long)p.b.cols, (unsigned long long)p.a.rows, (unsigned long long)p.a.cols);
    f.cause = LM_CAUSE_UNEXPLAINED;
    f.error = NAN;
    add(d, &f);
    return 0;
}

static int compare_layer(struct doctor *d, int layer, struct lm_err *e)
{
    const struct lm_config *c = lm_engine_config(d->a->engine);

    for (int r = 0; r < LM_N_ROLES; r++) {
        enum lm_role role = (enum lm_role)r;
        bool tied = role == LM_ROLE_OUTPUT && (!has_head(d->a) || !has_head(d->b));
        if (is_passed_over(role) || tied)
            continue;
        for (uint32_t i = 0; i < lmi_piece_count(c, role); i++)
            if (compare_role(d, role, layer, i, e) != 0)
                return -1;
    }
    return 0;
}

static int compare_tensors(struct doctor *d, struct lm_err *e)
{
    uint32_t n = lm_engine_config(d->a->engine)->n_layers;

    if (compare_layer(d, -1, e) != 0)
        return -1;
    for (uint32_t i = 0; i < n; i++)
        if (!(d->layers[i + 1].error <= d->layers[i + 1].bound) && compare_layer(d, (int)i, e) != 0)
            return -1;
    if ((d->fields & 1u << GROUP_TIED) && has_head(d->a))
        return lmi_rerun_replace(&d->healed, d->a, LM_ROLE_OUTPUT, -1, 0, e);
    return 0;
}

static struct lm_finding *find(struct lm_diagnosis *o, enum lm_role role, uint32_t n_layers)
{
    for (size_t i = 0; i < o->n; i++)
        if (o->found[i].role == role && o->found[i].n_layers == n_layers &&
            (o->found[i].cause == LM_CAUSE_NOT_PERMUTED || o->found[i].cause == LM_CAUSE_PERMUTED_TWICE))
            return &o->found[i];
    return NULL;
}

/* Q and K of every layer in the order of the other pairs: the tensors may well
 * be as they should, and the architecture's name is wrong. */
static void name_rope_kind(struct doctor *d)
{
    uint32_t n = lm_engine_config(d->a->engine)->n_layers;
    struct lm_finding *q = find(d->out, LM_ROLE_ATTN_Q, n), *k = find(d->out, LM_ROLE_ATTN_K, n);

    if (!q || !k || q->cause != k->cause)
        return;
    for (struct lm_finding *f = q; f; f = f == q ? k : NULL) {
        bool adjacent = d->b->engine->binding->rope == LM_ROPE_ADJACENT;
        f->cause = LM_CAUSE_ROPE_KIND;
        snprintf(f->text, sizeof f->text, "RoPE is of the wrong kind: %s pairs rotate (architecture %s), its rows are %s",
                 adjacent ? "adjacent" : "half-split", lm_engine_config(d->b->engine)->arch->name,
                 adjacent ? "half-split" : "in the order of adjacent pairs");
    }
}

/* ---- the proof */

static int last_logits(const struct doctor *d, const struct lm_side *s, float *out, struct lm_err *e)
{
    lm_session_rewind(s->session, 0);
    int r = lm_session_eval(s->session, d->ids, d->n, LM_LOGITS_LAST, out, e);
    lm_session_rewind(s->session, 0);
    return r;
}

static int run_healed(struct doctor *d, struct lmi_rerun *h, int *first, double *kld, struct lm_err *e)
{
    const struct lm_config *c = lm_engine_config(d->a->engine);
    size_t rows = (size_t)c->n_layers + 1, vocab = c->vocab_size;
    struct lm_layer_error *l = malloc(rows * sizeof *l);
    float *logits = malloc(2 * vocab * sizeof *logits);
    struct lm_position p = {0};
    int r = l && logits ? 0 : lm_err_set(e, LM_NOMEM, "no memory to run the model again");

    if (r == 0)
        memcpy(l, d->layers, rows * sizeof *l);
    if (r == 0)
        r = lmi_rerun_start(h, d->fields & 1u << GROUP_ROPE ? d->a->engine : NULL, e);
    if (r == 0)
        r = lm_layers_compare(&h->side, d->ids, d->n, d->hidden, l, e);
    if (r == 0)
        r = last_logits(d, d->a, logits, e);
    if (r == 0)
        r = last_logits(d, &h->side, logits + vocab, e);
    if (r == 0) {
        lm_position_compare(&p, logits, logits + vocab, vocab, -1);
        *first = lm_layers_first(l, c->n_layers);
        *kld = p.kld;
    }
    free(l);
    free(logits);
    return r;
}

static bool is_fine(const struct doctor *d, int first, double kld)
{
    double e = lm_explained_error(d->a, d->b, (int)lm_engine_config(d->a->engine)->n_layers);

    return first == LM_NOWHERE && kld <= 10 * lm_kld_bound(e); /* a single position: not the mean */
}

/* Of several fields that differ, those without which all is fine are no cause. */
static int drop_harmless(struct doctor *d, struct lm_err *e)
{
    unsigned all = d->fields;
    size_t n_config = 0;

    while (n_config < d->out->n && d->out->found[n_config].role == LM_N_ROLES)
        n_config++;
    if (n_config < 2 || n_config < d->out->n)
        return 0;
    for (size_t i = 0; i < d->out->n;) {
        struct lmi_rerun h;
        unsigned bit = 1u << d->out->found[i].layer;
        int first = 0, r;
        double kld = 0;
        d->fields = all & ~bit;
        r = lmi_rerun_open(&h, d->b, change, d, e);
        if (r == 0 && (d->fields & 1u << GROUP_TIED) && has_head(d->a))
            r = lmi_rerun_replace(&h, d->a, LM_ROLE_OUTPUT, -1, 0, e);
        if (r == 0)
            r = run_healed(d, &h, &first, &kld, e);
        lmi_rerun_close(&h);
        if (r != 0)
            return -1;
        bool harmless = is_fine(d, first, kld) && d->out->n > 1;
        all = harmless ? d->fields : all;
        if (harmless)
            memmove(&d->out->found[i], &d->out->found[i + 1], (--d->out->n - i) * sizeof d->out->found[0]);
        else
            i++;
    }
    d->fields = all;
    return 0;
}

static int examine(struct doctor *d, struct lm_err *e)
{
    compare_config(d);
    if (lmi_rerun_open(&d->healed, d->b, change, d, e) != 0 || compare_tensors(d, e) != 0)
        return -1;
    name_rope_kind(d);
    if (d->out->n == 0 || d->healed.patch_bytes == SIZE_MAX)
        return 0;
    if (run_healed(d, &d->healed, &d->out->first_after, &d->out->kld_after, e) != 0)
        return -1;
    d->out->cured = is_fine(d, d->out->first_after, d->out->kld_after);
    return d->out->cured ? drop_harmless(d, e) : 0;
}

int lm_diagnose(const struct lm_side *a, const struct lm_side *b, const int32_t *ids, size_t n, const float *hidden,
                const struct lm_layer_error *layers, struct lm_diagnosis *out, struct lm_err *e)
{
    struct doctor d = {.a = a, .b = b, .ids = ids, .n = n, .hidden = hidden, .layers = layers, .out = out};

    *out = (struct lm_diagnosis){.first_after = LM_NOWHERE, .kld_after = NAN};
    int r = examine(&d, e);
    lmi_rerun_close(&d.healed);
    for (size_t i = 0; i < out->n; i++)
        if (out->found[i].role == LM_N_ROLES)
            out->found[i].layer = -1;
    return r;
}
