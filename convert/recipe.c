/* Types by name: regular expressions in order, the first that matches decides. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

#include "convert/plan.h"
#include "convert/policy.h"

enum { MAX_STEPS = 1000000, MAX_BYTES = 16 << 20 };

struct lm_recipe {
    struct line { pcre2_code *code; enum lm_dtype dtype; } *lines;
    size_t n;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

int lm_recipe_new(struct lm_recipe **out, struct lm_err *e)
{
    struct lm_recipe *r = *out = calloc(1, sizeof *r);

    if (!r)
        return lmc_nomem(e);
    r->match = pcre2_match_data_create(1, NULL);
    r->limits = pcre2_match_context_create(NULL);
    if (!r->match || !r->limits) {
        lm_recipe_free(r);
        *out = NULL;
        return lmc_nomem(e);
    }
    pcre2_set_match_limit(r->limits, MAX_STEPS);
    return 0;
}

void lm_recipe_free(struct lm_recipe *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n; i++)
        pcre2_code_free(r->lines[i].code);
    free(r->lines);
    pcre2_match_data_free(r->match);
    pcre2_match_context_free(r->limits);
    free(r);
}

static int find_type(enum lm_dtype *out, struct lm_span type, struct lm_err *e)
{
    char name[32];
    int d = -1;

    if (type.size < sizeof name) {
        snprintf(name, sizeof name, "%.*s", (int)type.size, (const char *)type.data);
        d = lm_dtype_find(name);
    }
    if (d < 0 || (!lm_dtype_info((enum lm_dtype)d)->from_f32 && !lm_dtype_info((enum lm_dtype)d)->from_f32_weighted))
        return lm_err_set(e, LM_USAGE, "'%.*s' is no storage type that can be written (Q4_K, Q8_0, F16 …; mixes such as "
                          "Q4_K_M have several)", (int)(type.size < 40 ? type.size : 40), (const char *)type.data);
    *out = (enum lm_dtype)d;
    return 0;
}

int lm_recipe_add(struct lm_recipe *r, struct lm_span pattern, struct lm_span type, struct lm_err *e)
{
    struct line *bigger = reallocarray(r->lines, r->n + 1, sizeof *bigger), *line;
    int code;
    PCRE2_SIZE at;

    if (!bigger)
        return lmc_nomem(e);
    r->lines = bigger;
    line = &r->lines[r->n];
    if (pattern.size == 0)
        return lm_err_set(e, LM_USAGE, "an empty name would match every tensor; write . for that");
    if (find_type(&line->dtype, type, e))
        return -1;
    line->code = pcre2_compile(pattern.data, pattern.size, PCRE2_CASELESS, &code, &at, NULL);
    if (!line->code) {
        char why[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return lm_err_set(e, LM_USAGE, "'%.*s' is no regular expression: %s at character %zu",
                          (int)(pattern.size < 200 ? pattern.size : 200), (const char *)pattern.data, why, (size_t)at + 1);
    }
    r->n++;
    return 0;
}

int lmc_recipe_find(const struct lm_recipe *r, const char *name)
{
    for (size_t i = 0; r && i < r->n; i++)
        if (pcre2_match(r->lines[i].code, (PCRE2_SPTR)name, strlen(name), 0, 0, r->match, r->limits) >= 0)
            return (int)r->lines[i].dtype;
    return -1;
}

/* ---- files */

static bool is_blank(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static struct lm_span next_word(struct lm_span *line)
{
    size_t i = 0, from;

    while (i < line->size && is_blank(line->data[i]))
        i++;
    for (from = i; i < line->size && !is_blank(line->data[i]);)
        i++;
    struct lm_span word = lm_span_of(line->data + from, i - from);
    *line = lm_span_of(line->data + i, line->size - i);
    return word;
}

static int read_line(struct lm_recipe *r, struct lm_span line, struct lm_err *e)
{
    struct lm_span pattern = next_word(&line), type = next_word(&line), more = next_word(&line);

    if (pattern.size == 0 || pattern.data[0] == '#')
        return 0;
    if (type.size == 0 || (more.size > 0 && more.data[0] != '#'))
        return lm_err_set(e, LM_USAGE, "a line is NAME-REGEX TYPE, or # and a comment");
    return lm_recipe_add(r, pattern, type, e);
}

static int read_lines(struct lm_recipe *r, struct lm_span text, struct lm_err *e)
{
    for (size_t n = 1; text.size > 0; n++) {
        const uint8_t *end = memchr(text.data, '\n', text.size);
        size_t k = end ? (size_t)(end - text.data) : text.size;
        if (read_line(r, lm_span_of(text.data, k), e))
            return lm_err_prefix(e, "line %zu", n);
        k += end != NULL;
        text = lm_span_of(text.data + k, text.size - k);
    }
    return 0;
}

int lm_recipe_read(struct lm_recipe *r, const char *path, struct lm_err *e)
{
    FILE *f = fopen(path, "rb");
    char *text = malloc(MAX_BYTES + 1);
    int rc = -1;

    if (!f)
        lm_err_errno(e, "%s: cannot open", path);
    else if (!text)
        lmc_nomem(e);
    else {
        size_t n = fread(text, 1, MAX_BYTES + 1, f);
        if (ferror(f))
            lm_err_errno(e, "%s: cannot read", path);
        else if (n > MAX_BYTES)
            lm_err_set(e, LM_LIMIT, "%s: larger than any recipe", path);
        else if ((rc = read_lines(r, lm_span_of(text, n), e)))
            lm_err_prefix(e, "%s", path);
    }
    if (f)
        fclose(f);
    free(text);
    return rc;
}

/* ---- what was decided */

static void print_name(FILE *f, const char *name)
{
    putc('^', f);
    for (; *name; name++) {
        if (!isalnum((unsigned char)*name) && *name != '_' && *name != '-')
            putc('\\', f);
        putc(*name, f);
    }
    fputs("$ ", f);
}

char *lm_recipe_of(const struct lm_plan *p)
{
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    struct lmc_mix m = {.options = p->req.mix};

    if (!f)
        return NULL;
    fprintf(f, "# types of --type %s; use with the same --type\n", p->req.ftype ? p->req.ftype->name : "");
    for (size_t i = 0; i < p->n_items; i++) {
        const struct lm_plan_item *it = &p->items[i];
        if (!it->src || !lmc_mix_allows(&m, it->name, it->n_dims, it->shape))
            continue;
        print_name(f, it->name);
        fprintf(f, "%s\n", lm_dtype_name(it->dtype));
    }
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

bool lmc_recipe_has_rules(const struct lm_recipe *r)
{
    return r && r->n > 0;
}
