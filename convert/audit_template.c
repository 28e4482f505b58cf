/* The chat template: data here, never run. */
#include <ctype.h>
#include <stdio.h>
#include <strings.h>

#include "convert/audit_parts.h"

static bool contains(struct lm_span s, const char *what)
{
    return s.size > 0 && memmem(s.data, s.size, what, strlen(what)) != NULL;
}

/* ---- statements: text between {% and %} */

static bool looks_at_content(struct lm_span s)
{
    bool tests = contains(s, "if ") && (contains(s, " in ") || contains(s, "startswith") || contains(s, "endswith") ||
                                        contains(s, ".find(") || contains(s, "=="));
    bool role_only = contains(s, "'role'") || contains(s, ".role") || contains(s, "\"role\"");

    return tests && contains(s, "content") && !role_only;
}

static bool is_conditional(struct lm_span t)
{
    size_t pos = 0;

    while (pos + 4 < t.size) {
        const uint8_t *from = memmem(t.data + pos, t.size - pos, "{%", 2);
        const uint8_t *end = from ? memmem(from, (size_t)(t.data + t.size - from), "%}", 2) : NULL;
        if (!end)
            return false;
        if (looks_at_content(lm_span_of(from, (size_t)(end - from))))
            return true;
        pos = (size_t)(end - t.data) + 2;
    }
    return false;
}

/* ---- tokens: <|…|> */

static bool is_name(const uint8_t *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum(s[i]) && s[i] != '_' && s[i] != '-')
            return false;
    return n > 0 && n < 40;
}

/* The next control token from *pos on; an empty span at the end. */
static struct lm_span next_token(struct lm_span t, size_t *pos)
{
    while (*pos + 4 < t.size) {
        const uint8_t *from = memmem(t.data + *pos, t.size - *pos, "<|", 2);
        const uint8_t *end = from ? memmem(from, (size_t)(t.data + t.size - from), "|>", 2) : NULL;
        if (!end)
            break;
        *pos = (size_t)(from - t.data) + 2;
        if (!is_name(from + 2, (size_t)(end - from) - 2))
            continue;
        *pos = (size_t)(end - t.data) + 2;
        return lm_span_of(from, (size_t)(end - from) + 2);
    }
    return lm_span_of(NULL, 0);
}

/* Templates mention tokens of variants too: only when most are unknown is it another model's. */
static void check_foreign(struct lm_audit *a, struct lm_span t)
{
    size_t pos = 0, n = 0, missing = 0;
    struct lm_span first = {NULL, 0};

    for (struct lm_span s = next_token(t, &pos); s.size; s = next_token(t, &pos)) {
        n++;
        if (lm_vocab_find(a->vocab, s) >= 0)
            continue;
        first = missing++ ? first : s;
    }
    if (2 * missing > n)
        lmc_found(a, LM_RULE_template_foreign, "chat template", "%zu of %zu, the first is '%.*s'", missing, n,
                  (int)first.size, (const char *)first.data);
}

/* ---- stopping */

static bool stops(const struct lm_audit *a, int64_t id)
{
    static const char *const files[] = {"config.json", "generation_config.json"};
    bool found = id == a->vocab->eos_id;

    for (size_t i = 0; i < 2 && !found; i++) {
        json_t *root = lmc_audit_json(a, files[i]);
        int64_t ids[16];
        size_t n = lmc_audit_ids(root, "eos_token_id", ids, 16);
        for (size_t k = 0; k < n; k++)
            found |= ids[k] == id;
        json_decref(root);
    }
    return found;
}

static void check_stop(struct lm_audit *a, struct lm_span t)
{
    static const char *const ends[] = {"<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", NULL};

    for (size_t i = 0; ends[i] && !lmc_audit_is_gguf(a); i++) {
        int64_t id = contains(t, ends[i]) ? lm_vocab_find(a->vocab, lm_span_str(ends[i])) : -1;
        if (id >= 0 && !stops(a, id))
            lmc_found(a, LM_RULE_template_eos, "chat template", "'%s' is id %lld, generation stops at %lld", ends[i],
                      (long long)id, (long long)a->vocab->eos_id);
    }
}

/* GGUF engines add BOS themselves and run the template too. */
static void check_bos(struct lm_audit *a, struct lm_span t)
{
    int64_t bos = a->vocab->bos_id;
    struct lm_span text = bos >= 0 && (uint64_t)bos < a->vocab->n_pieces ? a->vocab->pieces[bos].text : lm_span_str("");
    bool literal = text.size > 0 && memmem(t.data, t.size, text.data, text.size) != NULL;

    if (lmc_audit_is_gguf(a) && a->vocab->add_bos && (literal || contains(t, "bos_token")))
        lmc_found(a, LM_RULE_double_bos, "tokenizer.ggml.add_bos_token", "it is true, and the template puts BOS in front");
}

/* ---- the same template in several files */

struct lm_span lmc_audit_template_of(const struct lm_audit *a, const char *file, json_t **keep)
{
    struct lm_span text = {NULL, 0};
    struct lm_err ignored;
    const json_t *v;

    *keep = NULL;
    if (lmc_has_suffix(file, ".jinja")) {
        if (lm_model_sidecar(a->m, file, &text, &ignored) != 1)
            text = lm_span_of(NULL, 0);
        return text;
    }
    *keep = lmc_audit_json(a, file);
    v = json_object_get(*keep, "chat_template");
    return json_is_string(v) ? lm_span_of(json_string_value(v), json_string_length(v)) : text;
}

static struct lm_span trimmed(struct lm_span s)
{
    while (s.size > 0 && isspace(s.data[s.size - 1]))
        s.size--;
    return s;
}

static void check_copies(struct lm_audit *a)
{
    static const char *const files[] = {"tokenizer_config.json", "chat_template.jinja", "chat_template.json"};
    json_t *keep[3];
    struct lm_span t[3];
    int first = -1;

    for (int i = 0; i < 3; i++) {
        t[i] = trimmed(lmc_audit_template_of(a, files[i], &keep[i]));
        if (t[i].size > 0 && first >= 0 && !lm_span_eq(t[i], t[first]))
            lmc_found(a, LM_RULE_template_differs, files[i], "%zu bytes, in %s %zu bytes", t[i].size, files[first],
                      t[first].size);
        first = first < 0 && t[i].size > 0 ? i : first;
    }
    for (int i = 0; i < 3; i++)
        json_decref(keep[i]);
}

/* ---- is one expected? */

static bool sounds_chatty(const char *s)
{
    static const char *const words[] = {"instruct", "chat", "-it-", "-it.", NULL};

    for (size_t i = 0; s && words[i]; i++)
        if (strcasestr(s, words[i]))
            return true;
    return false;
}

static void check_missing(struct lm_audit *a)
{
    const struct lm_meta_value *name = lm_meta_get(lm_model_meta(a->m), "general.name");
    const char *text = name && name->type == LM_META_STR ? lm_arena_str(&a->arena, name->str) : NULL;

    if (sounds_chatty(text) || sounds_chatty(lmc_base_name(a->path)))
        lmc_found(a, LM_RULE_template_missing, a->vocab->source, "the name says it is a chat model");
}

void lmc_audit_template(struct lm_audit *a)
{
    struct lm_span t;

    check_copies(a);
    if (!a->vocab)
        return;
    t = a->vocab->chat_template;
    if (t.size == 0) {
        check_missing(a);
        return;
    }
    if (is_conditional(t))
        lmc_found(a, LM_RULE_template_conditional, "chat template", "%zu bytes, SHA-256 %.16s…", t.size,
                  a->template_hash ? a->template_hash : "");
    check_foreign(a, t);
    check_stop(a, t);
    check_bos(a, t);
}
