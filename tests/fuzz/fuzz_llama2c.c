/* llama2.c: checkpoints of the three versions. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool is_other = size >= 4 && memcmp(data, "\x89HDF", 4) == 0; /* read in a child: slow, and has its own target */
    struct lm_model *m = is_other ? NULL : open_bytes(data, size);

    if (m)
        touch(m);
    lm_model_close(m);
    return 0;
}
