/* tokenizer.json (Hugging Face tokenizers): {"model": {"type": "BPE", "vocab": {text: id}, "merges": […],
 * "byte_fallback", "fuse_unk", "unk_token", "ignore_merges", …}, "added_tokens": […], "normalizer",
 * "pre_tokenizer", "post_processor", "decoder"}.
 * The vocabulary and merges of BPE are read as they stand in the file, the small parts as trees.
 * Two families of BPE have engines of their own: byte-level (GPT-2's letters for bytes) and
 * SentencePiece-style (U+2581 for a space, <0xHH> for bytes). Of everything else the stages are
 * executed one by one.
 * vocab.json + merges.txt is the same model without the rest: GPT-2's. */
#include <stdlib.h>

#include "libmodel/tok/hf_vocab.h"
#include "libmodel/tok/pipeline.h"

/* The members of the file and of its model, as they stand there. */
enum part { NORMALIZER, PRE_TOKENIZER, POST_PROCESSOR, DECODER, ADDED_TOKENS, TRUNCATION, PADDING, N_PARTS };
static const char *const part_names[N_PARTS] = {"normalizer",   "pre_tokenizer", "post_processor", "decoder",
                                                "added_tokens", "truncation",    "padding"};

struct file {
    struct lmi_vocab *b;
    struct lmi_pull p;
    json_t *parts[N_PARTS];
    json_t *model; /* its small members */
    struct lmi_merge_texts merges;
    bool has_model, has_vocab, has_merges;
};

static bool empty(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) || (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_number(v) && json_number_value(v) == 0);
}

static bool key_is(struct lm_span key, const char *name)
{
    return lm_span_eq(key, lm_span_str(name));
}

/* Passes over a value, gives its text. */
static int skip_value(struct lmi_pull *p, struct lm_span *out)
{
    lmi_pull_peek(p);
    size_t begin = p->pos;
    if (lmi_pull_skip(p) < 0)
        return -1;
    *out = lm_span_of(p->text.data + begin, p->pos - begin);
    return 0;
}

/* jansson wants an array or object at the top. */
static json_t *parse_value(struct lm_span text, const char *name, struct lm_err *e)
{
    struct lm_arena a = {0};
    char *s = lm_arena_alloc(&a, text.size + 3);
    json_t *v = NULL;

    if (!s) {
        lmi_nomem_vocab(e);
        return NULL;
    }
    s[0] = '[';
    memcpy(s + 1, text.data, text.size);
    s[text.size + 1] = ']';
    json_t *list = lm_json_parse(lm_span_of(s, text.size + 2), name, e);
    if (list)
        v = json_incref(json_array_get(list, 0));
    json_decref(list);
    lm_arena_free(&a);
    return v;
}

static int read_value(struct lmi_pull *p, const char *name, json_t **out)
{
    struct lm_span text;

    json_decref(*out);
    *out = NULL;
    if (skip_value(p, &text) < 0)
        return -1;
    *out = parse_value(text, name, p->e);
    return *out ? 0 : -1;
}

/* ---- model */

static int model_member(struct file *f, struct lm_span key)
{
    char name[40];
    json_t *v = NULL;

    if (key_is(key, "vocab") && (lmi_pull_peek(&f->p) == '{' || lmi_pull_peek(&f->p) == '[')) {
        if (f->has_vocab)
            return lm_err_set(f->p.e, LM_MALFORMED, "model.vocab occurs twice");
        f->has_vocab = true;
        return lmi_pull_peek(&f->p) == '{' ? lmi_vocab_stream(f->b, &f->p) : lmi_unigram_stream(f->b, &f->p);
    }
    if (key_is(key, "merges")) {
        f->has_merges = true;
        return lmi_merges_stream(&f->merges, &f->p);
    }
    if (key.size >= sizeof name || memchr(key.data, 0, key.size))
        return lmi_pull_skip(&f->p);
    memcpy(name, key.data, key.size);
    name[key.size] = 0;
    if (read_value(&f->p, name, &v) < 0)
        return -1;
    return json_object_set_new(f->model, name, v) < 0 ? lmi_nomem_vocab(f->p.e) : 0;
}

/* Old files have no type; they are BPE. */
static bool is_bpe(const json_t *model)
{
    const char *type = json_string_value(json_object_get(model, "type"));

    return !type || strcmp(type, "BPE") == 0;
}

static int read_model(struct file *f)
{
    size_t n = 0;
    struct lm_span key;
    int rc;

    if (lmi_pull_peek(&f->p) != '{')
        return lm_err_set(f->p.e, LM_MALFORMED, "there is no object 'model'");
    f->has_model = true;
    f->model = json_object();
    while ((rc = lmi_pull_member(&f->p, &n, &key)) > 0) {
        if (model_member(f, key) < 0)
            return -1;
    }
    return rc;
}

static int read_unknown(struct lmi_vocab *b, const json_t *model, struct lm_err *e)
{
    struct lm_span unk = lm_json_span(json_object_get(model, "unk_token"));

    b->v.fuse_unk = !empty(json_object_get(model, "fuse_unk"));
    if (!unk.data)
        return 0;
    uint32_t id = lmi_texts_get(&b->texts, unk);
    if (id == LMI_NONE)
        return lm_err_set(e, LM_MALFORMED, "model.unk_token '%.*s' is not in the vocabulary",
                          (int)(unk.size < 80 ? unk.size : 80), (const char *)unk.data);
    b->v.unk_id = id;
    return 0;
}

static int copy_member(struct lmi_vocab *b, const json_t *model, const char *key, struct lm_span *out, struct lm_err *e)
{
    struct lm_span s = lm_json_span(json_object_get(model, key));

    if (s.size == 0)
        return 0;
    *out = lmi_vocab_copy(b, s);
    return out->data ? 0 : lmi_nomem_vocab(e);
}

static int finish_bpe(struct file *f)
{
    struct lmi_vocab *b = f->b;
    struct lm_err *e = f->p.e;
    const char *type = json_string_value(json_object_get(f->model, "type"));

    if (!type && !f->has_merges)
        return lm_err_set(e, LM_UNSUPPORTED, "the tokenizer model has no type");
    if (!f->has_vocab || b->hf)
        return lm_err_set(e, LM_MALFORMED, "model.vocab is no object");
    if (!f->has_merges)
        return lm_err_set(e, LM_MALFORMED, "model.merges is no array");
    b->v.algo = LM_VOCAB_BPE;
    b->v.ignore_merges = !empty(json_object_get(f->model, "ignore_merges"));
    b->v.byte_fallback = !empty(json_object_get(f->model, "byte_fallback"));
    if (copy_member(b, f->model, "continuing_subword_prefix", &b->v.continuing_subword_prefix, e) < 0 ||
        copy_member(b, f->model, "end_of_word_suffix", &b->v.end_of_word_suffix, e) < 0 || read_unknown(b, f->model, e) < 0)
        return -1;
    return lmi_merges_resolve(b, &f->merges, e);
}

static int finish_model(struct file *f)
{
    const char *type = json_string_value(json_object_get(f->model, "type"));

    if (is_bpe(f->model))
        return finish_bpe(f);
    if (strcmp(type, "Unigram") == 0)
        return lmi_hf_unigram(f->b, f->model, f->p.e);
    if (strcmp(type, "WordPiece") == 0)
        return lmi_hf_wordpiece(f->b, f->model, f->p.e);
    if (strcmp(type, "WordLevel") == 0)
        return lmi_hf_wordlevel(f->b, f->model, f->p.e);
    return lm_err_set(f->p.e, LM_UNSUPPORTED, "the tokenizer model %s is not handled", type);
}

/* ---- the whole file */

static int root_member(struct file *f, struct lm_span key)
{
    if (key_is(key, "model"))
        return f->has_model ? lm_err_set(f->p.e, LM_MALFORMED, "model occurs twice") : read_model(f);
    for (int i = 0; i < N_PARTS; i++)
        if (key_is(key, part_names[i]))
            return f->parts[i] ? lm_err_set(f->p.e, LM_MALFORMED, "%s occurs twice", part_names[i])
                               : read_value(&f->p, part_names[i], &f->parts[i]);
    return lmi_pull_skip(&f->p);
}

static int read_root(struct file *f)
{
    size_t n = 0;
    struct lm_span key;
    int rc;

    if (lmi_pull_peek(&f->p) != '{')
        return lmi_pull_peek(&f->p) == '[' ? lm_err_set(f->p.e, LM_MALFORMED, "there is no object 'model'")
                                           : lmi_pull_fail(&f->p, "not valid JSON: expected '{'");
    while ((rc = lmi_pull_member(&f->p, &n, &key)) > 0)
        if (root_member(f, key) < 0)
            return -1;
    if (rc == 0)
        rc = lmi_pull_end(&f->p);
    if (rc == 0 && !f->has_model)
        rc = lm_err_set(f->p.e, LM_MALFORMED, "there is no object 'model'");
    return rc;
}

static int keep_stage(struct lmi_vocab *b, const json_t *v, struct lm_span *out, struct lm_err *e)
{
    char *text = v && !json_is_null(v) ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

    if (!text)
        return 0;
    *out = lmi_vocab_copy(b, lm_span_str(text));
    free(text);
    return out->data ? 0 : lmi_nomem_vocab(e);
}

/* What is declared, but is a wish for one call rather than part of the ids. */
static int note_ignored(struct file *f)
{
    static const char *const what[] = {"truncation, ", "padding, ", "dropout, "};
    bool declared[] = {!empty(f->parts[TRUNCATION]), !empty(f->parts[PADDING]), !empty(json_object_get(f->model, "dropout"))};
    char note[100] = "";

    for (int i = 0; i < 3; i++)
        strcat(note, declared[i] ? what[i] : "");
    if (!note[0])
        return 0;
    strcpy(note + strlen(note) - 2, ": declared by the file, not applied");
    f->b->v.note = lm_arena_str(&f->b->arena, lm_span_str(note));
    return f->b->v.note ? 0 : lmi_nomem_vocab(f->p.e);
}

static int use_parts(struct file *f)
{
    struct lmi_vocab *b = f->b;
    struct lm_err *e = f->p.e;
    struct lmi_stages s = {f->parts[NORMALIZER], f->parts[PRE_TOKENIZER], f->parts[POST_PROCESSOR], f->parts[DECODER]};

    b->v.source = "tokenizer.json";
    if (finish_model(f) < 0 || lmi_hf_stages(b, &s, e) < 0 || lmi_hf_added_tokens(b, f->parts[ADDED_TOKENS], e) < 0 ||
        lmi_vocab_index(b, e) < 0 || lmi_hf_post_processor(b, f->parts[POST_PROCESSOR], e) < 0)
        return -1;
    if (keep_stage(b, s.normalizer, &b->v.normalizer, e) < 0 || keep_stage(b, s.pre_tokenizer, &b->v.pre_tokenizer, e) < 0 ||
        keep_stage(b, s.post_processor, &b->v.post_processor, e) < 0 || keep_stage(b, s.decoder, &b->v.decoder, e) < 0)
        return -1;
    return note_ignored(f);
}

int lmi_tokenizer_json_read(struct lmi_vocab *b, struct lm_span text, struct lm_err *e)
{
    struct lm_arena scratch = {0}; /* of texts with escapes */
    struct file f = {.b = b};
    int rc = lmi_pull_begin(&f.p, text, &scratch, e);

    if (rc == 0)
        rc = read_root(&f);
    if (rc == 0)
        rc = use_parts(&f);
    for (int i = 0; i < N_PARTS; i++)
        json_decref(f.parts[i]);
    json_decref(f.model);
    lmi_merge_texts_free(&f.merges);
    lm_arena_free(&scratch);
    return rc < 0 ? lm_err_prefix(e, "tokenizer.json") : 0;
}

/* ---- vocab.json + merges.txt */

static struct lm_span next_line(struct lm_span *rest)
{
    const uint8_t *end = memchr(rest->data, '\n', rest->size);
    size_t n = end ? (size_t)(end - rest->data) : rest->size, skip = end ? n + 1 : n;
    struct lm_span line = lm_span_of(rest->data, n > 0 && rest->data[n - 1] == '\r' ? n - 1 : n);

    *rest = lm_span_of(rest->data + skip, rest->size - skip);
    return line;
}

static int read_merge_lines(struct lmi_vocab *b, struct lm_span rest, struct lm_err *e)
{
    struct lmi_merge_texts merges = {0};
    int rc = 0;

    for (size_t number = 1; rest.size && rc == 0; number++) {
        struct lm_span line = next_line(&rest);
        if (line.size == 0 || (line.size >= 8 && memcmp(line.data, "#version", 8) == 0))
            continue;
        if (lmi_merge_line(&merges, line, e) < 0)
            rc = lm_err_prefix(e, "line %zu", number);
    }
    if (rc == 0)
        rc = lmi_merges_resolve(b, &merges, e);
    lmi_merge_texts_free(&merges);
    return rc;
}

static int read_vocab_json(struct lmi_vocab *b, struct lm_span text, struct lm_err *e)
{
    struct lm_arena scratch = {0};
    struct lmi_pull p;
    int rc = lmi_pull_begin(&p, text, &scratch, e);

    if (rc == 0)
        rc = lmi_vocab_stream(b, &p);
    if (rc == 0)
        rc = lmi_pull_end(&p);
    lm_arena_free(&scratch);
    return rc;
}

/* Files without tokenizer.json are GPT-2's own format: its regex, no normalizer. */
int lmi_vocab_merges_read(struct lmi_vocab *b, struct lm_span vocab, struct lm_span merges, struct lm_err *e)
{
    const struct lmi_pre_name *pre = lmi_pre_find(lm_span_str("gpt-2"));

    b->v.algo = LM_VOCAB_BYTE_BPE;
    b->v.source = "vocab.json + merges.txt";
    b->v.pre = pre->name;
    b->v.pre_pattern = lmi_pre_pattern(&b->arena, pre);
    if (read_vocab_json(b, vocab, e) < 0)
        return lm_err_prefix(e, "vocab.json");
    if (!b->v.pre_pattern.data)
        return lmi_nomem_vocab(e);
    if (read_merge_lines(b, merges, e) < 0)
        return lm_err_prefix(e, "merges.txt");
    /* The end-of-text piece is no merge: it is matched as a whole. */
    uint32_t end = lmi_texts_get(&b->texts, lm_span_str("<|endoftext|>"));
    if (end != LMI_NONE) {
        b->pieces[end].kind = LM_PIECE_CONTROL;
        b->pieces[end].special = b->pieces[end].added = true;
        b->v.bos_id = b->v.eos_id = end;
    }
    return 0;
}
