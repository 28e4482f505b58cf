/* What stands beside a vocabulary in a Hugging Face folder: tokenizer_config.json
 * and its older relatives say which pieces are special, which ids open and close
 * a text, and how a conversation is written. Later sources win, config.json only
 * fills what nobody said. */
#include <stdlib.h>

#include "libmodel/tok/build.h"

static const struct role {
    const char *token, *config_id; /* keys in tokenizer_config.json and in config.json */
    size_t offset;
} roles[] = {
    {"bos_token", "bos_token_id", offsetof(struct lm_vocab, bos_id)},
    {"eos_token", "eos_token_id", offsetof(struct lm_vocab, eos_id)},
    {"unk_token", NULL, offsetof(struct lm_vocab, unk_id)},
    {"pad_token", "pad_token_id", offsetof(struct lm_vocab, pad_id)},
};
enum { N_ROLES = sizeof roles / sizeof *roles };

/* *out is NULL when there is no such file. */
static int load(struct lmi_files files, const char *name, json_t **out, struct lm_err *e)
{
    struct lm_span text;
    int rc = files.get(files.user, name, &text, e);

    *out = NULL;
    if (rc <= 0)
        return rc;
    *out = lm_json_parse(text, name, e);
    if (*out && !json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return lm_err_set(e, LM_MALFORMED, "%s: expected an object", name);
    }
    return *out ? 1 : -1;
}

/* "<s>" or {"content": "<s>", …} */
static struct lm_span token_text(const json_t *v)
{
    return json_is_object(v) ? lm_json_span(json_object_get(v, "content")) : lm_json_span(v);
}

static void name_special(struct lmi_vocab *b, const json_t *config)
{
    for (size_t i = 0; i < N_ROLES; i++) {
        struct lm_span text = token_text(json_object_get(config, roles[i].token));
        uint32_t id = text.data ? lmi_texts_get(&b->texts, text) : LMI_NONE;
        bool unk = roles[i].offset == offsetof(struct lm_vocab, unk_id);
        /* The unknown piece of a model is part of its algorithm, not a name. */
        if (id != LMI_NONE && !unk)
            *(int64_t *)((char *)&b->v + roles[i].offset) = id;
    }
}

static void set_bool(const json_t *config, const char *key, bool *out)
{
    const json_t *v = json_object_get(config, key);

    if (json_is_boolean(v))
        *out = json_is_true(v);
}

/* A string, or a list of named ones: the one called "default", else the first. */
static struct lm_span chat_template(const json_t *v)
{
    struct lm_span found = lm_json_span(v);

    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *item = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (!found.data || (name && strcmp(name, "default") == 0))
            found = lm_json_span(json_object_get(item, "template"));
    }
    return found;
}

static int set_template(struct lmi_vocab *b, struct lm_span text, struct lm_err *e)
{
    if (!text.size)
        return 0;
    b->v.chat_template = lmi_vocab_copy(b, text);
    return b->v.chat_template.data ? 0 : lmi_nomem_vocab(e);
}

/* Keys are ids in decimal. A token that the model knows as user-defined stays
 * the model's: SentencePiece itself matches it. */
static int added_decoder(struct lmi_vocab *b, json_t *map, struct lm_err *e)
{
    size_t limit = 2 * (b->v.n_pieces + json_object_size(map)) + 4096;
    const char *key;
    json_t *value;

    json_object_foreach(map, key, value) {
        char *end;
        unsigned long long id = strtoull(key, &end, 10);
        if (*key < '0' || *key > '9' || *end || id >= limit)
            return lm_err_set(e, LM_MALFORMED, "the key '%s' of added_tokens_decoder is no id below %zu", key, limit);
        struct lm_span content = lm_json_span(json_object_get(value, "content"));
        bool known = id < b->v.n_pieces && b->pieces[id].kind == LM_PIECE_USER_DEFINED && !b->pieces[id].added &&
                     lm_span_eq(b->pieces[id].text, content);
        if (!known && lmi_hf_added_token(b, (size_t)id, value, e) < 0)
            return -1;
    }
    return lmi_vocab_index(b, e);
}

/* {"<tok>": id}: the form before added_tokens_decoder. */
static int added_map(struct lmi_vocab *b, json_t *map, struct lm_err *e)
{
    size_t limit = 2 * (b->v.n_pieces + json_object_size(map)) + 4096;
    const char *key;
    json_t *value;

    json_object_foreach(map, key, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || (size_t)id >= limit)
            return lm_err_set(e, LM_MALFORMED, "the id of '%s' is no number below %zu", key, limit);
        if ((size_t)id < b->v.n_pieces && lm_span_eq(b->pieces[id].text, lm_span_str(key)))
            continue;
        struct lm_piece *p = lmi_vocab_piece(b, (size_t)id);
        struct lm_span text = p ? lmi_vocab_copy(b, lm_span_str(key)) : (struct lm_span){NULL, 0};
        if (!text.data)
            return lmi_nomem_vocab(e);
        *p = (struct lm_piece){.text = text, .kind = LM_PIECE_USER_DEFINED, .added = true};
    }
    return lmi_vocab_index(b, e);
}

static int apply_tokenizer_config(struct lmi_vocab *b, const json_t *config, bool complete, struct lm_err *e)
{
    json_t *decoder = json_object_get(config, "added_tokens_decoder");

    if (!complete && json_is_object(decoder) && added_decoder(b, decoder, e) < 0)
        return lm_err_prefix(e, "tokenizer_config.json");
    name_special(b, config);
    set_bool(config, "add_bos_token", &b->v.add_bos);
    set_bool(config, "add_eos_token", &b->v.add_eos);
    if (!complete) {
        bool spm = lmi_is_spm(&b->v);
        set_bool(config, "add_prefix_space", spm ? &b->v.add_dummy_prefix : &b->v.add_prefix_space);
        set_bool(config, "legacy", &b->v.prefix_every_part);
    }
    return set_template(b, chat_template(json_object_get(config, "chat_template")), e);
}

/* An id that config.json gives, or the first of a list of them. */
static void fill_from_config(struct lmi_vocab *b, const json_t *config)
{
    for (size_t i = 0; i < N_ROLES; i++) {
        int64_t *id = (int64_t *)((char *)&b->v + roles[i].offset);
        const json_t *v = roles[i].config_id ? json_object_get(config, roles[i].config_id) : NULL;
        const json_t *one = json_is_array(v) ? json_array_get(v, 0) : v;
        json_int_t value = json_is_integer(one) ? json_integer_value(one) : -1;
        if (*id < 0 && value >= 0 && (size_t)value < b->v.n_pieces)
            *id = value;
    }
}

enum file { SPECIAL_MAP, ADDED, TOKENIZER_CONFIG, CHAT_JSON, CONFIG, GENERATION, N_FILES };
static const char *const names[N_FILES] = {"special_tokens_map.json", "added_tokens.json",  "tokenizer_config.json",
                                           "chat_template.json",      "config.json",        "generation_config.json"};

static int apply(struct lmi_vocab *b, enum file f, json_t *v, bool complete, struct lm_err *e)
{
    switch (f) {
    case SPECIAL_MAP:
        name_special(b, v);
        return 0;
    case ADDED:
        return complete ? 0 : added_map(b, v, e);
    case TOKENIZER_CONFIG:
        return apply_tokenizer_config(b, v, complete, e);
    case CHAT_JSON:
        return set_template(b, chat_template(json_object_get(v, "chat_template")), e);
    default:
        fill_from_config(b, v);
        return 0;
    }
}

int lmi_vocab_configure(struct lmi_vocab *b, struct lmi_files files, struct lm_err *e)
{
    /* tokenizer.json lists its added tokens itself. */
    bool complete = strcmp(b->v.source, "tokenizer.json") == 0;
    struct lm_span jinja;

    if (lmi_vocab_index(b, e) < 0)
        return -1;
    for (enum file f = 0; f < N_FILES; f++) {
        json_t *v;
        int rc = load(files, names[f], &v, e);
        if (rc > 0)
            rc = apply(b, f, v, complete, e);
        json_decref(v);
        if (rc < 0)
            return -1;
    }
    int rc = files.get(files.user, "chat_template.jinja", &jinja, e);
    return rc <= 0 ? rc : set_template(b, jinja, e);
}

int lmi_vocab_configure_prefix(struct lmi_vocab *b, struct lmi_files files, struct lm_err *e)
{
    json_t *config;
    int rc = load(files, "tokenizer_config.json", &config, e);

    if (rc > 0)
        set_bool(config, "legacy", &b->v.prefix_every_part);
    json_decref(config);
    return rc < 0 ? -1 : 0;
}
