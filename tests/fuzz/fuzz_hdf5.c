/* HDF5.  The first byte chooses: what runs in the contained process, run here
 * (libhdf5 with our walk and decoding around it), or its report as our own
 * process checks it.  Findings inside libhdf5 itself are its own; what it hands
 * to us may do no harm. */
#include "tests/fuzz/fuzz.h"

#include "libmodel/fmt/h5.h"

static void check_report(const uint8_t *data, size_t size)
{
    struct lmi_h5 h = {0};
    struct lm_err e = {0};
    struct lm_span *strings;
    size_t n;

    lmi_put(&h.report, data, size);
    int rc = lmi_h5_parse(&h, &e);
    require(rc == 0 || e.text[0], "a refusal has a reason");
    for (size_t i = 0; rc == 0 && i < h.n_datasets; i++)
        require(lmi_h5_find(&h, h.datasets[i].path) == &h.datasets[i], "a dataset is found by its path");
    if (rc == 0)
        require(lmi_h5_strings(&h, lm_span_str(""), "layer_names", &strings, &n, &e) >= 0, "strings are found or not");
    lmi_h5_free(&h);
}

static void decode_all(struct lm_span file, const struct lmi_h5 *h)
{
    for (size_t i = 0; i < h->n_datasets; i++) {
        const struct lmi_h5_dataset *d = &h->datasets[i];
        struct lmi_h5_job job = {.path = d->path, .dtype = d->dtype};
        struct lmi_h5_out o = {.fd = -1, .max = 1 << 16};
        uint64_t n_elems;
        if (!d->decode || lmi_tensor_measure(d->path, d->dtype, d->shape, d->n_dims, &n_elems, &job.n_bytes, NULL) < 0 ||
            job.n_bytes == 0 || job.n_bytes > 1 << 20)
            continue;
        job.dst = malloc(job.n_bytes);
        require(job.dst != NULL, "memory");
        lmi_h5_decode(&o, file, &job, 1);
        free(job.dst);
        free(o.b.data);
    }
}

static void walk(const uint8_t *data, size_t size)
{
    struct lm_span file = lm_span_of(data, size);
    struct lmi_h5_out o = {.fd = -1, .max = 1 << 24};
    struct lmi_h5 h = {0};

    lmi_h5_walk(&o, file);
    lmi_h5_begin(&o, LMI_H5_END);
    lmi_h5_send(&o);
    h.report = o.b;
    if (lmi_h5_parse(&h, NULL) == 0)
        decode_all(file, &h);
    lmi_h5_free(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] == 0x89)
        walk(data, size);
    else
        check_report(data, size);
    return 0;
}
