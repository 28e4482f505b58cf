/* llama2.c: checkpoints of the three versions. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lm_model *m = open_bytes(data, size);

    if (m)
        touch(m);
    lm_model_close(m);
    return 0;
}
