#include "libmodel/format.h"

#include <stdlib.h>

#include "libmodel/fmt/fmt.h"

#define FORMAT(s) extern const struct lm_format lm_format_##s;
#include "libmodel/formats.def"
#undef FORMAT

static const struct lm_format *const formats[] = {
#define FORMAT(s) &lm_format_##s,
#include "libmodel/formats.def"
#undef FORMAT
};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

/* A claim below this rests on the file's name only. */
enum { SURE = 50 };

const struct lm_format *lm_format_at(size_t i)
{
    return i < N_FORMATS ? formats[i] : NULL;
}

const struct lm_format *lm_format_find(const char *name)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    return NULL;
}

const struct lm_format *lm_format_probe(struct lm_span file, const char *path, struct lm_err *e)
{
    const struct lm_format *best = NULL;
    int claim = 0;

    for (size_t i = 0; i < N_FORMATS; i++) {
        int c = formats[i]->probe(file, path);
        if (c > claim) {
            claim = c;
            best = formats[i];
        }
    }
    if (claim >= SURE)
        return best;
    if (lmi_refuse_foreign(file, e))
        return NULL;
    if (!best)
        lm_err_set(e, LM_UNSUPPORTED, "not a model in a known format (safetensors, GGUF, PyTorch, NumPy, llama2.c, "
                   "an index of shards or a folder with one of them)");
    return best;
}

void lm_layout_free(struct lm_layout *l)
{
    for (size_t i = 0; i < l->n_files; i++) {
        free(l->files[i].name);
        free(l->files[i].head);
        for (size_t k = 0; k < l->files[i].n_chunks; k++)
            free(l->files[i].chunks[k].data);
        free(l->files[i].chunks);
    }
    free(l->files);
    free(l->places);
    *l = (struct lm_layout){0};
}
