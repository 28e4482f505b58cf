/* A safetensors file: the header from memory of exactly its size, where a
 * sanitizer sees every step too far, then the whole as a model, written and
 * read back. */
#include "tests/fuzz/fuzz.h"

#include "libmodel/fmt/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 8)
        return 0;
    uint64_t n = lm_load_u64le(data);
    if (n > size - 8)
        n = size - 8;
    struct lmi_st_header h = {0};
    struct lm_meta *meta = lm_meta_new();
    uint8_t *text = malloc(n + !n);
    require(meta && text, "memory");
    memcpy(text, data + 8, n);
    lmi_st_header_read(&h, lm_span_of(text, n), size - 8 - n, meta, NULL);
    require(h.n <= n / 4, "no more tensors than the text could hold");
    lmi_st_header_free(&h);
    lm_meta_free(meta);
    free(text);

    struct lm_model *m = open_bytes(data, size);
    if (m) {
        touch(m);
        if (strcmp(lm_model_format(m)->name, "safetensors") == 0)
            round_trip(m);
    }
    lm_model_close(m);
    return 0;
}
