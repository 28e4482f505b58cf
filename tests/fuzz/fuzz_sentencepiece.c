/* A tokenizer.model, then the tokenizer that it makes, on text made of the
 * file's own last bytes. What is read must be written and read back the same. */
#include "tests/fuzz/fuzz_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lmi_vocab *b = lmi_vocab_new();
    struct lm_err e = {0};

    require(b != NULL, "memory");
    if (lmi_spm_read(b, lm_span_of(data, size), &e) == 0 && lmi_vocab_finish(b, &e) == 0) {
        require(b->arena.used <= 4096 + 40 * size, "memory in proportion to the bytes");
        write_and_read(&b->v, lmi_spm_read);
        use(&b->v, lm_span_of(data, size));
    } else {
        require(e.code != LM_OK && e.text[0], "a refusal has a reason");
    }
    lm_vocab_free(&b->v);
    return 0;
}
