/* The ggml files of 2023. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* What a mutation made another container has its own target, and HDF5 is slow: it is read in a child. */
    bool is_ggml = size >= 4 && (memcmp(data, "lmgg", 4) == 0 || memcmp(data, "fmgg", 4) == 0 || memcmp(data, "tjgg", 4) == 0);
    struct lm_model *m = is_ggml ? open_bytes(data, size) : NULL;

    if (m)
        touch(m);
    lm_model_close(m);
    return 0;
}
