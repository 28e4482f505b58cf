/* Two readers of JSON: what jansson accepts the pull reader must accept. (The
 * pull reader alone takes duplicate keys, which its users look for, and numbers
 * beyond jansson's range.) */
#include "tests/fuzz/fuzz.h"

#include "libmodel/parse/json.h"
#include "libmodel/parse/pull.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lm_err e = {0};
    struct lm_arena arena = {0};
    struct lmi_pull p;
    struct lm_span text = lm_span_of(data, size);

    json_t *v = lm_json_parse(text, "input", &e);
    require(v || (e.code != LM_OK && lm_utf8_valid(lm_span_str(e.text))), "a refusal has a reason");
    bool pulled = lmi_pull_begin(&p, text, &arena, &e) == 0 && lmi_pull_skip(&p) == 0 && lmi_pull_end(&p) == 0;
    require(!v || pulled, "both accept what jansson accepts");
    json_decref(v);
    lm_arena_free(&arena);
    return 0;
}
