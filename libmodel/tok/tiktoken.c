/* tiktoken's rank files: a line for a token, "base64 SP rank". The file says
 * nothing else: the regex that splits words and the special tokens belong to a
 * named encoding, found by the file's name or its number of ranks.
 * Meta's Llama 3 tokenizer.model is such a file.
 * https://github.com/openai/tiktoken */
#include <stdio.h>

#include "libmodel/tok/base64.h"
#include "libmodel/tok/pretok.h"
#include "libmodel/tok/ranks.h"

struct special {
    uint32_t id;
    const char *text;
};

/* A run of numbered tokens: "%u" in text counts from `from`. */
struct numbered {
    uint32_t id, last, from;
    const char *text;
};

struct encoding {
    const char *name;
    size_t n_ranks;
    const char *pre;     /* the GGUF name with the same regex, or … */
    const char *pattern; /* … the regex */
    struct special specials[16];
    struct numbered numbered[4];
    int64_t bos, eos;
    bool add_bos, nfc;
};

#define END "<|endoftext|>"
#define HARMONY \
    {199998, "<|startoftext|>"}, {199999, END}, {200002, "<|return|>"}, {200003, "<|constrain|>"}, {200005, "<|channel|>"}, \
        {200006, "<|start|>"}, {200007, "<|end|>"}, {200008, "<|message|>"}, {200012, "<|call|>"}
#define LLAMA3 {128000, "<|begin_of_text|>"}, {128001, "<|end_of_text|>"}, {128006, "<|start_header_id|>"}, \
        {128007, "<|end_header_id|>"}, {128009, "<|eot_id|>"}
#define RESERVED "<|reserved_special_token_%u|>"

/* Of several with the same number of ranks the first is meant when nobody says. */
static const struct encoding encodings[] = {
    {"gpt2", 50256, "gpt-2", NULL, {{50256, END}}, {{0}}, 50256, 50256, false, false},
    {"r50k_base", 50256, "gpt-2", NULL, {{50256, END}}, {{0}}, -1, 50256, false, false},
    {"p50k_base", 50280, "gpt-2", NULL, {{50256, END}}, {{0}}, -1, 50256, false, false},
    {"p50k_edit", 50280, "gpt-2", NULL,
     {{50256, END}, {50281, "<|fim_prefix|>"}, {50282, "<|fim_middle|>"}, {50283, "<|fim_suffix|>"}}, {{0}}, -1, 50256, false, false},
    {"cl100k_base", 100256, NULL, lmi_re_cl100k,
     {{100257, END}, {100258, "<|fim_prefix|>"}, {100259, "<|fim_middle|>"}, {100260, "<|fim_suffix|>"},
      {100276, "<|endofprompt|>"}}, {{0}}, -1, 100257, false, false},
    {"o200k_base", 199998, "gpt-4o", NULL, {{199999, END}, {200018, "<|endofprompt|>"}}, {{0}}, -1, 199999, false, false},
    {"o200k_harmony", 199998, "gpt-4o", NULL, {HARMONY},
     {{200000, 200001, 200000, "<|reserved_%u|>"}, {200004, 200004, 200004, "<|reserved_%u|>"},
      {200009, 200011, 200009, "<|reserved_%u|>"}, {200013, 201087, 200013, "<|reserved_%u|>"}}, 199998, 200002, false, false},
    {"llama3", 128000, "llama3", NULL, {LLAMA3},
     {{128002, 128005, 0, RESERVED}, {128008, 128008, 4, RESERVED}, {128010, 128255, 5, RESERVED}}, 128000, 128001, true, false},
    {"llama3.1", 128000, "llama3", NULL,
     {LLAMA3, {128004, "<|finetune_right_pad_id|>"}, {128008, "<|eom_id|>"}, {128010, "<|python_tag|>"}},
     {{128002, 128003, 0, RESERVED}, {128005, 128005, 2, RESERVED}, {128011, 128255, 3, RESERVED}}, 128000, 128001, true, false},
    {"qwen", 151643, "qwen2", NULL, {{151643, END}, {151644, "<|im_start|>"}, {151645, "<|im_end|>"}},
     {{151646, 151850, 0, "<|extra_%u|>"}}, -1, 151643, false, true},
    {"kimi-k2", 163584, "kimi-k2", NULL, {{163584, "[BOS]"}, {163585, "[EOS]"}, {163586, "<|im_end|>"}}, {{0}}, 163584, 163585, false, false},
};
enum { N_ENCODINGS = sizeof encodings / sizeof *encodings };

/* ---- which encoding */

static const struct encoding *by_name(const char *name, size_t n)
{
    for (size_t i = 0; i < N_ENCODINGS; i++)
        if (strlen(encodings[i].name) == n && memcmp(encodings[i].name, name, n) == 0)
            return &encodings[i];
    return NULL;
}

static const struct encoding *by_count(size_t n)
{
    for (size_t i = 0; i < N_ENCODINGS; i++)
        if (encodings[i].n_ranks == n)
            return &encodings[i];
    return NULL;
}

static int unknown_encoding(const char *name, struct lm_err *e)
{
    char list[200] = "";

    for (size_t i = 0; i < N_ENCODINGS; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", encodings[i].name);
    return lm_err_set(e, LM_UNSUPPORTED, "the encoding %s is not known; known are %s; any other needs its regex", name, list);
}

/* Llama 3.1 gave names to some of the reserved tokens; its rope is scaled. */
static bool is_llama31(struct lmi_files files)
{
    struct lm_span text;
    struct lm_err ignored;

    return files.get(files.user, "params.json", &text, &ignored) > 0 && memmem(text.data, text.size, "use_scaled_rope", 15);
}

static int choose(const struct encoding **out, size_t n_ranks, const char *file, const struct lm_vocab_options *o,
                  struct lmi_files files, struct lm_err *e)
{
    size_t stem = strcspn(file, ".");

    *out = NULL;
    if (o && o->encoding)
        return (*out = by_name(o->encoding, strlen(o->encoding))) ? 0 : unknown_encoding(o->encoding, e);
    *out = by_name(file, stem);
    if (!*out)
        *out = by_count(n_ranks);
    if (!*out && !(o && o->pattern))
        return lm_err_set(e, LM_UNSUPPORTED, "a tiktoken file of %zu ranks is none of the encodings we know: name one or "
                                             "give its regex", n_ranks);
    if (*out && strcmp((*out)->name, "llama3") == 0 && is_llama31(files))
        *out = by_name("llama3.1", 8);
    return 0;
}

/* ---- reading */

static struct lm_span next_line(struct lm_span *rest)
{
    const uint8_t *end = memchr(rest->data, '\n', rest->size);
    size_t n = end ? (size_t)(end - rest->data) : rest->size, skip = end ? n + 1 : n;
    struct lm_span line = lm_span_of(rest->data, n > 0 && rest->data[n - 1] == '\r' ? n - 1 : n);

    *rest = lm_span_of(rest->data + skip, rest->size - skip);
    return line;
}

static bool read_number(struct lm_span s, uint64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < s.size; i++) {
        if (s.data[i] < '0' || s.data[i] > '9')
            return false;
        *out = 10 * *out + (uint64_t)(s.data[i] - '0');
    }
    return s.size > 0 && s.size <= 10;
}

/* Decodes a line to `to`; the bytes written, or -1. */
static int64_t read_line(struct lm_span line, uint8_t *to, uint64_t *rank)
{
    const uint8_t *space = line.size ? memchr(line.data, ' ', line.size) : NULL;
    size_t n = space ? (size_t)(space - line.data) : 0;

    if (!space || !read_number(lm_span_of(space + 1, line.size - n - 1), rank))
        return -1;
    return lmi_base64_decode(lm_span_of(line.data, n), to);
}

bool lmi_is_tiktoken(struct lm_span file)
{
    struct lm_span rest = file.size > 3000 ? lm_span_of(file.data, 3000) : file;
    uint8_t buf[3000];
    uint64_t rank;

    return file.size > 0 && read_line(next_line(&rest), buf, &rank) > 0;
}

static int read_lines(struct lmi_ranks *r, struct lm_span file, uint8_t *bytes, struct lm_err *e)
{
    for (size_t number = 1; file.size > 0; number++) {
        struct lm_span line = next_line(&file);
        uint64_t rank;
        if (line.size == 0)
            continue;
        int64_t n = read_line(line, bytes, &rank);
        if (n < 0)
            return lm_err_set(e, LM_MALFORMED, "line %zu is not base64, a space and a rank", number);
        if (lmi_ranks_put(r, lm_span_of(bytes, (size_t)n), rank, e) < 0)
            return lm_err_prefix(e, "line %zu", number);
        bytes += n;
    }
    return 0;
}

static int add_specials(struct lmi_vocab *b, const struct encoding *x, struct lm_err *e)
{
    for (size_t i = 0; i < 16 && x->specials[i].text; i++)
        if (lmi_ranks_special(b, x->specials[i].id, lm_span_str(x->specials[i].text), e) < 0)
            return -1;
    for (size_t i = 0; i < 4 && x->numbered[i].text; i++)
        for (uint32_t id = x->numbered[i].id; id <= x->numbered[i].last; id++) {
            const char *open = strstr(x->numbered[i].text, "%u");
            char text[64];
            snprintf(text, sizeof text, "%.*s%u%s", (int)(open - x->numbered[i].text), x->numbered[i].text,
                     x->numbered[i].from + id - x->numbered[i].id, open + 2);
            if (lmi_ranks_special(b, id, lm_span_str(text), e) < 0)
                return -1;
        }
    b->v.bos_id = x->bos;
    b->v.eos_id = x->eos;
    b->v.add_bos = x->add_bos;
    b->v.nfc = x->nfc;
    return 0;
}

static struct lm_span pattern_of(struct lmi_vocab *b, const struct encoding *x, const struct lm_vocab_options *o)
{
    if (o && o->pattern)
        return lm_span_str(o->pattern);
    return x->pattern ? lm_span_str(x->pattern) : lmi_pre_pattern(&b->arena, lmi_pre_find(lm_span_str(x->pre)));
}

int lmi_tiktoken_read(struct lmi_vocab *b, struct lm_span file, const char *name, const struct lm_vocab_options *options,
                      struct lmi_files files, struct lm_err *e)
{
    struct lm_arena scratch = {0};
    struct lmi_ranks r = {0};
    const struct encoding *x;
    uint8_t *bytes = lm_arena_alloc(&scratch, file.size + 4);
    int rc = bytes ? read_lines(&r, file, bytes, e) : lmi_nomem_vocab(e);

    b->v.source = "tiktoken";
    if (rc == 0)
        rc = choose(&x, r.n, name, options, files, e);
    if (rc == 0)
        rc = lmi_ranks_to_vocab(b, &r, 0, e);
    if (rc == 0 && x)
        rc = add_specials(b, x, e);
    if (rc == 0)
        rc = lmi_ranks_pattern(b, pattern_of(b, x, options), e);
    lmi_ranks_free(&r);
    lm_arena_free(&scratch);
    return rc;
}
