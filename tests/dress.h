/* For tests: one model in every container that can hold it. */
#ifndef TESTS_DRESS_H
#define TESTS_DRESS_H

#include "tests/mutate.h"
#include "tests/zips.h"

#include "convert/convert.h"

/* In memory where that is possible: hundreds of models are written, each synced. */
static inline void tmp_fast(char folder[64])
{
    strcpy(folder, "/dev/shm/libmodel-test-XXXXXX");
    if (!mkdtemp(folder))
        tmp_make(folder);
}

/* A Hugging Face folder with pytorch_model.bin. */
static inline void make_torch(const char *from, const char *folder)
{
    static const struct { enum lm_dtype d; const char *storage; } storages[] = {
        {LM_F32, "FloatStorage"}, {LM_F16, "HalfStorage"}, {LM_BF16, "BFloat16Storage"}};
    struct mut *x = mut_load(from);
    struct torch_tensor *t = calloc(x->n, sizeof *t);
    struct member *m = calloc(x->n + 1, sizeof *m);
    char (*names)[48] = calloc(x->n + 1, sizeof *names);
    struct bytes zip = {0};

    for (size_t i = 0; i < x->n; i++) {
        t[i] = (struct torch_tensor){.name = x->t[i].name, .n_dims = x->t[i].n_dims, .n_elems = x->t[i].n_elems};
        memcpy(t[i].shape, x->t[i].shape, sizeof t[i].shape);
        for (size_t k = 0; k < 3; k++)
            if (storages[k].d == x->t[i].dtype)
                t[i].storage = storages[k].storage;
        assert_non_null(t[i].storage);
        snprintf(names[i + 1], sizeof names[0], "archive/data/%zu", i);
        m[i + 1].name = names[i + 1];
        put(&m[i + 1].data, x->t[i].data, x->t[i].n_bytes);
    }
    m[0].name = "archive/data.pkl";
    pickle_tensors(&m[0].data, t, x->n);
    put_zip(&zip, m, x->n + 1, NULL);
    mkdir(folder, 0777);
    for (size_t i = 0; i < x->n_sides; i++)
        write_file(path_in(folder, x->side[i].name), x->side[i].data, x->side[i].n);
    write_file(path_in(folder, "pytorch_model.bin"), zip.data, zip.n);
    members_free(m, x->n + 1);
    bytes_free(&zip);
    free(names);
    free(m);
    free(t);
    mut_free(x);
}

/* Healthy models as Hugging Face has them: one a family or feature. */
static const char *const dress_models[] __attribute__((unused)) = {
#define M(name) "tests/fixtures/models/tiny-" name
    M("deepseek2"), M("deepseek2-groups"), M("deepseek3"), M("falcon"), M("falcon-new"), M("falcon-rw"), M("gemma"),
    M("gemma2"), M("gemma2-scalar"), M("gemma3"), M("gpt-oss"), M("gpt2"), M("gpt2-hub"), M("gptneox"),
    M("gptneox-serial"), M("granite"), M("granitemoe"), M("granitemoe-shared"), M("llama"), M("llama-bias"),
    M("llama-linear"), M("llama-llama3"), M("llama-sharded"), M("llama-tied"), M("llama-yarn"), M("mistral"),
    M("mistral-window"), M("mixtral"), M("mixtral-fused"), M("olmo2"), M("olmo3"), M("phi3"), M("phi3-mini"), M("qwen2"),
    M("qwen2moe"), M("qwen2moe-fused"), M("qwen3"), M("qwen3moe"), M("starcoder2"), M("starcoder2-window"),
#undef M
    "samples/polish-5m"};
enum { N_DRESS_MODELS = sizeof dress_models / sizeof dress_models[0] };

/* to NULL: PyTorch, which is read only. max: of a file, 0 any. */
static const struct dress { const char *what, *to, *name; int dtype; uint64_t max; } dresses[] __attribute__((unused)) = {
    {"safetensors", "safetensors", "st/", -1, 0},
    {"safetensors, sharded", "safetensors", "shards/", -1, 24 << 10},
    {"safetensors, F32", "safetensors", "wide/", LM_F32, 0},
    {"GGUF", "gguf", "m.gguf", -1, 0},
    {"GGUF, split", "gguf", "split/", -1, 24 << 10},
    {"GGUF, F32", "gguf", "w.gguf", LM_F32, 0},
    {"npz", "npz", "m.npz", -1, 0},
    {"HDF5", "h5", "m.h5", -1, 0},
    {"Keras", "keras", "m.weights.h5", -1, 0},
    {"PyTorch", NULL, "torch/", -1, 0},
};
enum { N_DRESSES = sizeof dresses / sizeof dresses[0] };

static inline bool dress_fits_torch(const char *src)
{
    struct lm_model *m = open_ok(src);
    bool fits = true;

    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        fits = fits && t->n_elems > 0 && (t->dtype == LM_F32 || t->dtype == LM_F16 || t->dtype == LM_BF16);
    }
    lm_model_close(m);
    return fits;
}

/* The model in folder `to`, good until the next call; NULL: it cannot be had in this container, e says why. */
static inline const char *dress_try(const char *src, const struct dress *d, const char *to, struct lm_err *e)
{
    static char path[256];
    struct lm_run_options o = {.n_threads = 1};
    struct lm_plan *p = NULL;

    snprintf(path, sizeof path, "%s/%s", to, d->name);
    if (!d->to) {
        if (!dress_fits_torch(src))
            return NULL;
        make_torch(src, path);
        return path;
    }
    struct lm_request r = {.to = lm_format_find(d->to), .dtype = d->dtype, .max_file_bytes = d->max};
    struct lm_model *m;
    if (lm_model_open(&m, src, e) < 0)
        return NULL;
    int rc = lm_plan_make(&p, m, &r, e) < 0 || lm_plan_run(p, path, &o, e) < 0 ? -1 : 0;
    lm_plan_free(p);
    lm_model_close(m);
    return rc < 0 ? NULL : path;
}

/* Only Keras may have no place for a healthy model. */
static inline const char *dress_make(const char *src, const struct dress *d, const char *to)
{
    struct lm_err e = {0};
    const char *path = dress_try(src, d, to, &e);

    if (!path && (!d->to || strcmp(d->to, "keras") != 0))
        fail_msg("%s as %s: %s", src, d->what, e.text);
    return path;
}

#endif
