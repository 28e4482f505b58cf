/* Keras 3: https://keras.io/api/models/model_saving_apis/
 *
 *   NAME.keras            a zip: metadata.json, config.json, model.weights.h5
 *   NAME.weights.h5       HDF5, read by hdf5.c: groups as the objects of Python
 *                         are nested, "layers/dense_1/vars/0" …
 *   NAME.weights.json     names the shards NAME_00000.weights.h5 …
 *
 * config.json describes Python objects; here it is data, and nothing in it is
 * ever looked up or run. Models of keras-hub get Hugging Face's names
 * (keras_hub.c). Written by keras_view.c
 * (a model in those terms) and h5_write.c (the file). */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libmodel/fmt/hdf5.h"
#include "libmodel/fmt/keras.h"
#include "libmodel/parse/zip.h"

enum { MAX_CONFIG = 16 << 20 };

/* ---- .keras */

static int read_config(struct lmi_h5_set *set, const struct lmi_zip *z, struct lm_err *e)
{
    const struct lmi_zip_entry *x = lmi_zip_find(z, "config.json");

    if (!x)
        return lm_err_set(e, LM_MALFORMED, "config.json is missing in the archive");
    if (x->n_bytes > MAX_CONFIG)
        return lm_err_set(e, LM_LIMIT, "config.json has %llu bytes, at most %d are read", (unsigned long long)x->n_bytes,
                          MAX_CONFIG);
    uint8_t *data = lm_arena_alloc(&set->m->arena, (size_t)x->n_bytes + 1);
    if (!data)
        return lmi_nomem(e);
    set->config = lm_span_of(data, (size_t)x->n_bytes);
    return lmi_zip_read(z, x, data, x->n_bytes, e) < 0 ? lm_err_prefix(e, "config.json") : 0;
}

/* Deflated weights: libhdf5 jumps about in them, so they are inflated first. */
static int inflate_weights(struct lm_model *m, const struct lmi_zip *z, const struct lmi_zip_entry *x, struct lm_err *e)
{
    struct lm_model_file f = {.path = m->files[0].path, .made = true, .fd = lmi_open_unlinked(e)};

    if (f.fd < 0)
        return -1;
    if (posix_fallocate(f.fd, 0, (off_t)x->n_bytes) != 0) {
        close(f.fd);
        return lm_err_set(e, LM_IO, "no room for %llu bytes of inflated weights (set TMPDIR to a larger folder)",
                          (unsigned long long)x->n_bytes);
    }
    void *map = mmap(NULL, (size_t)x->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f.fd, 0);
    if (map == MAP_FAILED) {
        close(f.fd);
        return lm_err_errno(e, "cannot map %llu bytes of inflated weights", (unsigned long long)x->n_bytes);
    }
    f.map = lm_span_of(map, (size_t)x->n_bytes);
    int rc = lmi_zip_read(z, x, map, x->n_bytes, e);
    mprotect(map, (size_t)x->n_bytes, PROT_READ);
    return lmi_model_adopt_file(m, &f, e) < 0 ? -1 : rc;
}

static int read_weights(struct lmi_h5_set *set, const struct lmi_zip *z, size_t file, struct lm_err *e)
{
    const struct lmi_zip_entry *x = lmi_zip_find(z, "model.weights.h5");

    if (!x && lmi_zip_find(z, "model.weights.npz"))
        return lm_err_set(e, LM_UNSUPPORTED, "its weights are a model.weights.npz; unpack the archive and open that");
    if (!x || x->n_bytes == 0)
        return lm_err_set(e, LM_MALFORMED, "model.weights.h5 is missing in the archive, or empty");
    if (!x->deflated)
        return lmi_h5_set_add(set, file, x->data, x->n_bytes, e);
    if (inflate_weights(set->m, z, x, e) < 0)
        return -1;
    return lmi_h5_set_add(set, set->m->n_files - 1, 0, x->n_bytes, e);
}

static int read_archive(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct lmi_h5_set set = {.m = m};
    struct lmi_zip z = {0};
    size_t file;

    if (lm_model_add_file(m, path, &file, e) < 0)
        return -1;
    m->sidecar_dir = NULL; /* what lies beside an archive is not its */
    int rc = lmi_zip_open(&z, m->files[file].map, e);
    if (rc == 0)
        rc = read_config(&set, &z, e);
    if (rc == 0 && (rc = read_weights(&set, &z, file, e)) < 0)
        lm_err_prefix(e, "model.weights.h5");
    if (rc == 0)
        rc = lmi_h5_set_finish(&set, e);
    lmi_h5_set_free(&set);
    lmi_zip_close(&z);
    return rc < 0 ? lm_err_prefix(e, "%s", path) : 0;
}

/* ---- the format */

static bool is_map(struct lm_span f, const char *path)
{
    return lmi_has_suffix(path, ".weights.json") && f.size && f.data[0] == '{' && memmem(f.data, f.size, "\"weight_map\"", 12);
}

static int probe(struct lm_span f, const char *path)
{
    return is_map(f, path) || lmi_zip_kind(f) == LMI_ZIP_KERAS ? 90 : 0;
}

static int read_path(struct lm_model *m, const char *path, struct lm_err *e)
{
    return lmi_has_suffix(path, ".json") ? lmi_h5_read_map(m, path, false, e) : read_archive(m, path, e);
}

/* What Keras' own variables can be. */
static bool can_store(enum lm_dtype d)
{
    return d == LM_F32 || d == LM_F16 || d == LM_BF16 || d == LM_F64;
}

const struct lm_format lm_format_keras = {
    .name = "keras",
    .title = "Keras 3",
    .probe = probe,
    .read = read_path,
    .layout = lmi_keras_layout,
    .finish = lmi_h5_finish,
    .can_store = can_store,
    .compresses = true,
    .recast = lmi_keras_recast,
};
