/* make-model: a random model of any size and architecture, as Hugging Face
 * would store it.  The same arguments give the same bytes, whatever the number
 * of threads; with --sparse only the header takes disk space. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/cli.h"
#include "convert/convert.h"

enum { PIECE = 1 << 18 };

struct options {
    const char *arch;
    uint64_t layers, d_model, d_ff, heads, kv_heads, vocab, ctx, seed;
    bool tied, sparse, force;
};

struct preset { const char *name; uint64_t layers, d_model, d_ff, heads, kv_heads, vocab, ctx; uint32_t window; };

static const struct preset presets[] = {
    {"tiny", 2, 64, 160, 4, 2, 256, 256, 0},
    {"bielik-7b", 32, 4096, 14336, 32, 8, 32000, 32768, 4096},
    {"llama-1b", 16, 2048, 8192, 32, 8, 32000, 4096, 0},
};

static const char *const preset_names[] = {"tiny", "bielik-7b", "llama-1b", NULL};
static const char *const arch_names[] = {"llama", "gpt2", NULL};
static const char *const dtype_names[] = {"F32", "F16", "BF16", NULL};

struct raw_options {
    int preset, arch, dtype;
    struct options o;
};

static const struct cli_opt opts[] = {
    {"preset", 0, CLI_CHOICE, "NAME", offsetof(struct raw_options, preset),
     "Shape to start from; other options change it (default tiny).", preset_names},
    {"arch", 0, CLI_CHOICE, "NAME", offsetof(struct raw_options, arch), "Architecture (default llama).", arch_names},
    {"layers", 0, CLI_UINT64, "N", offsetof(struct raw_options, o.layers), "Layers.", NULL},
    {"d-model", 0, CLI_UINT64, "N", offsetof(struct raw_options, o.d_model), "Width.", NULL},
    {"d-ff", 0, CLI_UINT64, "N", offsetof(struct raw_options, o.d_ff), "Width of the feed-forward part.", NULL},
    {"heads", 0, CLI_UINT64, "N", offsetof(struct raw_options, o.heads), "Query heads.", NULL},
    {"kv-heads", 0, CLI_UINT64, "N", offsetof(struct raw_options, o.kv_heads), "Key and value heads.", NULL},
    {"vocab", 0, CLI_UINT64, "N", offsetof(struct raw_options, o.vocab), "Rows of the embedding.", NULL},
    {"ctx", 0, CLI_UINT64, "N", offsetof(struct raw_options, o.ctx), "Longest context.", NULL},
    {"dtype", 0, CLI_CHOICE, "TYPE", offsetof(struct raw_options, dtype), "Type of the weights (default BF16).",
     dtype_names},
    {"seed", 0, CLI_UINT64, "N", offsetof(struct raw_options, o.seed), "Seed of the weights (default 0).", NULL},
    {"tied", 0, CLI_FLAG, NULL, offsetof(struct raw_options, o.tied), "No output matrix of its own.", NULL},
    {"sparse", 0, CLI_FLAG, NULL, offsetof(struct raw_options, o.sparse),
     "The right header and size, zeros without disk blocks.", NULL},
    {"force", 'f', CLI_FLAG, NULL, offsetof(struct raw_options, o.force), "Replace an existing model.", NULL},
    {NULL, 0, CLI_FLAG, NULL, 0, NULL, NULL},
};

static const struct cli_cmd cmd = {
    "make-model", "make a random model of a given shape", "OUT",
    "Writes OUT, a folder with model.safetensors and config.json, or one file when OUT ends in .safetensors.\n"
    "Weights are bell-shaped with deviation 0.02, norms are near 1, biases small.",
    opts,
    "  $ make-model --preset bielik-7b --sparse /tmp/bielik\n"
    "  $ make-model --arch gpt2 --layers 4 --d-model 128 --heads 4 /tmp/tiny-gpt2\n",
    1, 1,
};

/* ---- values */

/* splitmix64 of a counter: any element without the ones before it. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Four uniform 16-bit parts add up to nearly a normal deviate. */
static void fill(float *out, size_t n, uint64_t key, uint64_t first, float mean, float deviation)
{
    const float scale = deviation / 37837.0f, shift = mean - 131070.0f * scale;

    for (size_t i = 0; i < n; i++) {
        uint64_t r = mix(key + (first + i) * 0x9e3779b97f4a7c15u);
        int32_t sum = (int32_t)((r & 0xffff) + (r >> 16 & 0xffff) + (r >> 32 & 0xffff) + (r >> 48));
        out[i] = (float)sum * scale + shift;
    }
}

/* ---- tensors */

struct tensors { struct lm_write_tensor *t; float *mean; size_t n; };

static int add_tensor(struct tensors *all, const struct lm_config *c, const struct lm_arch_row *r, int layer,
                      enum lm_dtype d, struct lm_err *e)
{
    char name[256];
    unsigned n = 0;
    struct lm_write_tensor *t = reallocarray(all->t, all->n + 1, sizeof *t);
    float *mean = t ? reallocarray(all->mean, all->n + 1, sizeof *mean) : NULL;

    if (t)
        all->t = t;
    if (!mean)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    all->mean = mean;
    lm_arch_row_name(r, LM_NAMES_HF, layer, name, sizeof name);
    while (n < 4 && r->shape[n])
        n++;
    t = &all->t[all->n];
    *t = (struct lm_write_tensor){.name = strdup(name), .dtype = d, .n_dims = n};
    for (unsigned i = 0; i < n; i++)
        t->shape[i] = lm_config_dim(c, r->shape[r->transform == LM_T_TRANSPOSE ? n - 1 - i : i]);
    mean[all->n] = n == 1 && strstr(r->gguf, "norm.weight") ? 1 : 0;
    all->n++;
    return t->name ? 0 : lm_err_set(e, LM_NOMEM, "out of memory");
}

static bool wanted(const struct lm_config *c, const struct lm_arch_row *r, int layer)
{
    if (!r->hf || !r->gguf || (r->flags & LM_ROW_ALIAS) || !lm_row_applies(r, c, layer))
        return false;
    return r->role == LM_ROLE_OUTPUT ? !c->tied : !(r->flags & LM_ROW_OPTIONAL);
}

static int list_tensors(struct tensors *all, const struct lm_config *c, enum lm_dtype d, struct lm_err *e)
{
    for (size_t i = 0; i < c->arch->n_rows; i++) {
        const struct lm_arch_row *r = &c->arch->rows[i];
        bool layered = r->hf && strchr(r->hf, '#');
        for (int l = layered ? 0 : -1; l < (layered ? (int)c->n_layers : 0); l++)
            if (wanted(c, r, l) && add_tensor(all, c, r, l, d, e))
                return -1;
    }
    return 0;
}

static uint64_t n_elems(const struct lm_write_tensor *t)
{
    uint64_t n = 1;

    for (unsigned i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

static int write_piece(int fd, const struct tensors *all, size_t i, uint64_t offset, uint64_t first, uint64_t seed,
                       float *f32, uint8_t *raw, struct lm_err *e)
{
    const struct lm_write_tensor *t = &all->t[i];
    uint64_t left = n_elems(t) - first;
    size_t n = left < PIECE ? (size_t)left : PIECE;
    float mean = all->mean[i];

    fill(f32, n, mix(mix(seed) ^ (i + 1)), first, mean, mean > 0 ? 0.1f : 0.02f);
    lm_dtype_info(t->dtype)->from_f32(raw, f32, n);
    return lm_pwrite_all(fd, raw, lm_dtype_bytes(t->dtype, n), offset + lm_dtype_bytes(t->dtype, first), e);
}

static int write_tensor(int fd, const struct tensors *all, size_t i, uint64_t offset, uint64_t seed, struct lm_err *e)
{
    uint64_t n = n_elems(&all->t[i]);
    int failed = 0;

#pragma omp parallel
    {
        float *f32 = malloc(PIECE * sizeof *f32);
        uint8_t *raw = malloc(PIECE * sizeof *f32);
        struct lm_err mine = {0};
#pragma omp for schedule(dynamic)
        for (uint64_t first = 0; first < n; first += PIECE) {
            int rc = f32 && raw ? write_piece(fd, all, i, offset, first, seed, f32, raw, &mine)
                                : lm_err_set(&mine, LM_NOMEM, "out of memory");
            if (rc) {
#pragma omp critical
                {
                    *e = mine;
                    failed = -1;
                }
            }
        }
        free(f32);
        free(raw);
    }
    return failed;
}

/* ---- files */

static int write_data(int fd, const struct lm_layout *l, const struct tensors *all, const struct options *o,
                      struct lm_err *e)
{
    if (ftruncate(fd, (off_t)l->files[0].n_bytes) < 0)
        return lm_err_errno(e, "cannot set the size");
    if (lm_pwrite_all(fd, l->files[0].head, l->files[0].n_head, 0, e))
        return -1;
    for (size_t i = 0; !o->sparse && i < all->n; i++)
        if (write_tensor(fd, all, i, l->places[i].offset, o->seed, e))
            return -1;
    return 0;
}

static int write_file(const char *path, const struct lm_layout *l, const struct tensors *all, const struct options *o,
                      struct lm_err *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (o->force ? O_TRUNC : O_EXCL), 0666);
    int rc;

    if (fd < 0)
        return lm_err_errno(e, "%s: cannot be made", path);
    rc = write_data(fd, l, all, o, e);
    if (close(fd) < 0 && rc == 0)
        rc = lm_err_errno(e, "cannot write");
    if (rc) {
        lm_err_prefix(e, "%s", path);
        unlink(path);
    }
    return rc;
}

static int write_config(const char *dir, const struct lm_config *c, enum lm_dtype d, struct lm_err *e)
{
    static const char *const torch[] = {[LM_F32] = "float32", [LM_F16] = "float16", [LM_BF16] = "bfloat16"};
    char *path = NULL, *text = NULL;
    FILE *f;
    int rc = -1;

    if (lm_config_to_json(&text, c, torch[d], e) || asprintf(&path, "%s/config.json", dir) < 0)
        goto out;
    f = fopen(path, "w");
    if (!f) {
        lm_err_errno(e, "%s: cannot be made", path);
        goto out;
    }
    fputs(text, f);
    rc = fclose(f) == 0 ? 0 : lm_err_errno(e, "%s: cannot be written", path);
out:
    free(path);
    free(text);
    return rc;
}

static int make(const char *out, const struct lm_config *c, enum lm_dtype d, const struct options *o, struct lm_err *e)
{
    size_t n = strlen(out);
    bool single = n > 12 && strcmp(out + n - 12, ".safetensors") == 0;
    struct tensors all = {0};
    struct lm_layout l = {0};
    struct lm_meta *meta = lm_meta_new();
    char *path = NULL;
    int rc = -1;

    if (!meta || lm_meta_set_str(meta, "format", lm_span_str("pt")) < 0 ||
        asprintf(&path, single ? "%s" : "%s/model.safetensors", out) < 0) {
        lm_err_set(e, LM_NOMEM, "out of memory");
        goto done;
    }
    if (!single && mkdir(out, 0777) < 0 && errno != EEXIST) {
        lm_err_errno(e, "%s: cannot be made", out);
        goto done;
    }
    if (list_tensors(&all, c, d, e))
        goto done;
    struct lm_write_spec spec = {.tensors = all.t, .n_tensors = all.n, .meta = meta};
    if (lm_format_find("safetensors")->layout(&l, &spec, "model.safetensors", e) == 0)
        rc = write_file(path, &l, &all, o, e);
    if (rc == 0 && !single)
        rc = write_config(out, c, d, e);
done:
    for (size_t i = 0; i < all.n; i++)
        free((char *)(uintptr_t)all.t[i].name);
    free(all.t);
    free(all.mean);
    free(path);
    lm_layout_free(&l);
    lm_meta_free(meta);
    return rc;
}

/* ---- shape */

static uint32_t pick(uint64_t given, uint64_t preset)
{
    uint64_t v = given ? given : preset;

    return v < INT32_MAX ? (uint32_t)v : INT32_MAX;
}

static int configure(struct lm_config *c, const struct options *o, const struct preset *p, struct lm_err *e)
{
    const struct lm_arch *a = lm_arch_find(o->arch);

    *c = (struct lm_config){.arch = a, .act = a->act, .norm_eps = 1e-5, .rope_theta = 10000, .bos_id = 1, .eos_id = 2,
                            .pad_id = -1, .tied = o->tied || a->default_tied, .sliding_window = p->window};
    c->n_layers = pick(o->layers, p->layers);
    c->d_model = pick(o->d_model, p->d_model);
    c->n_heads = pick(o->heads, p->heads);
    c->n_kv_heads = a->learned_positions ? c->n_heads : pick(o->kv_heads, p->kv_heads);
    c->d_ff = pick(o->d_ff, a->default_ff_factor ? (uint64_t)a->default_ff_factor * c->d_model : p->d_ff);
    c->vocab_size = pick(o->vocab, p->vocab);
    c->ctx_len = pick(o->ctx, p->ctx);
    if (c->n_heads == 0 || c->d_model % c->n_heads != 0 || c->n_heads % c->n_kv_heads != 0)
        return lm_err_set(e, LM_USAGE, "width %u, %u query and %u key/value heads do not divide", c->d_model, c->n_heads,
                          c->n_kv_heads);
    c->d_head = c->d_model / c->n_heads;
    c->d_rope = c->d_head;
    return 0;
}

int main(int argc, char **argv)
{
    struct raw_options raw = {.dtype = 2};
    struct lm_config c;
    struct lm_err e = {0};
    enum lm_dtype d;

    cli_parse(&cmd, argc, argv, &raw);
    raw.o.arch = arch_names[raw.arch];
    d = (enum lm_dtype)lm_dtype_find(dtype_names[raw.dtype]);
    if (configure(&c, &raw.o, &presets[raw.preset], &e) || make(argv[1], &c, d, &raw.o, &e))
        return cli_finish(cli_fail(&e));
    return cli_finish(CLI_OK);
}
