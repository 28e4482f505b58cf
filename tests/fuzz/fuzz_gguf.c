/* A GGUF file: the header from memory of exactly its size, where a sanitizer
 * sees every step too far, then the whole as a model, written and read back. */
#include "tests/fuzz/fuzz.h"

#include "libmodel/fmt/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lmi_gguf_header h = {0};
    struct lm_arena arena = {0};
    struct lm_meta *meta = lm_meta_new();

    require(meta != NULL, "memory");
    lmi_gguf_header_read(&h, lm_span_of(data, size), meta, &arena, NULL);
    require(h.n_tensors <= size / 20 && lm_meta_count(meta) <= size / 9, "no more than the bytes could hold");
    require(arena.used <= 16 + 5 * size, "memory in proportion to the bytes");
    lmi_gguf_header_free(&h);
    lm_meta_free(meta);
    lm_arena_free(&arena);

    struct lm_model *m = size >= 4 && memcmp(data, "GGUF", 4) == 0 ? open_bytes(data, size) : NULL;
    if (m) {
        touch(m);
        round_trip(m);
    }
    lm_model_close(m);
    return 0;
}
