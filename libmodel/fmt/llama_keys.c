#include "libmodel/fmt/llama_keys.h"

int lmi_put_llama_keys(struct lm_model *m, const struct lmi_llama_keys *k, struct lm_err *e)
{
    const struct { const char *key; uint32_t value; } numbers[] = {
        {"llama.block_count", k->layers}, {"llama.embedding_length", k->dim}, {"llama.feed_forward_length", k->hidden},
        {"llama.attention.head_count", k->heads}, {"llama.attention.head_count_kv", k->kv_heads},
        {"llama.attention.key_length", k->d_head}, {"llama.rope.dimension_count", k->d_head},
        {"llama.context_length", k->ctx}, {"llama.vocab_size", k->vocab},
    };
    int rc = lm_meta_set_str(m->meta, "general.architecture", lm_span_str("llama"));

    if (rc == 0 && k->assumed && *k->assumed)
        rc = lm_meta_set_str(m->meta, LM_META_ASSUMED, lm_span_str(k->assumed));
    if (rc == 0 && k->experts)
        rc = lm_meta_set_u32(m->meta, "llama.expert_count", k->experts) < 0 ||
             lm_meta_set_u32(m->meta, "llama.expert_used_count", k->experts_used) < 0 ? -1 : 0;
    for (size_t i = 0; rc == 0 && i < sizeof numbers / sizeof numbers[0]; i++)
        rc = lm_meta_set_u32(m->meta, numbers[i].key, numbers[i].value);
    if (rc == 0)
        rc = lm_meta_set_f32(m->meta, "llama.attention.layer_norm_rms_epsilon", (float)k->norm_eps);
    if (rc == 0)
        rc = lm_meta_set_f32(m->meta, "llama.rope.freq_base", (float)k->rope_theta);
    return rc < 0 ? lmi_nomem(e) : 0;
}
