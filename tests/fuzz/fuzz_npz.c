/* NumPy: an array or an archive of them, written and read back. */
#include "tests/fuzz/fuzz.h"

#include "libmodel/parse/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lmi_npy h;

    if (lmi_npy_read(&h, lm_span_of(data, size), NULL) == 0)
        require(h.n_head <= size && h.n_dims <= LM_MAX_DIMS, "a header inside the file");
    bool is_other = size >= 4 && memcmp(data, "\x89HDF", 4) == 0; /* read in a child: slow, and has its own target */
    struct lm_model *m = is_other ? NULL : open_bytes(data, size);
    if (m) {
        touch(m);
        if (strcmp(lm_model_format(m)->name, "npz") == 0)
            round_trip(m);
    }
    lm_model_close(m);
    return 0;
}
