/* PCRE2 knows the script of every character: one pattern whose alternatives
 * carry the names, asked once a code point. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "convert/vocab_scripts.h"

static const char *const names[] = {
    [LMC_PARTIAL] = "parts of characters", [LMC_MIXED] = "several scripts", [LMC_DIGITS] = "digits",
    [LMC_SPACES] = "spaces",               [LMC_SIGNS] = "punctuation and symbols",
    [LMC_OTHER] = "other",
#define SCRIPT(name) #name,
#include "convert/scripts.def"
#undef SCRIPT
};

enum { N_NAMES = sizeof names / sizeof *names, PATTERN = 80 * N_NAMES, N_CODES = 0x110000 };
_Static_assert((int)N_NAMES < (int)LMC_MOST_SCRIPTS, "a class is a byte");

struct lmc_scripts {
    pcre2_code *code;
    pcre2_match_data *match;
    uint8_t classes[N_CODES]; /* 0: not asked yet; else the class + 1 */
};

static pcre2_code *compile(const char *pattern)
{
    int code;
    PCRE2_SIZE at;

    return pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code, &at, NULL);
}

/* "sc:" is how newer versions say script and not the wider script extensions. */
static const char *prefix(void)
{
    pcre2_code *code = compile("\\p{sc:Latin}");
    bool known = code != NULL;

    pcre2_code_free(code);
    return known ? "sc:" : "";
}

static void write_pattern(char *out)
{
    const char *sc = prefix(), *bar = "";

    *out = '\0';
    for (unsigned i = LMC_FIRST_SCRIPT; i < N_NAMES; i++) {
        char one[100];
        snprintf(one, sizeof one, "\\p{%s%s}(*MARK:%u)", sc, names[i], i);
        pcre2_code *code = compile(one);
        if (code)
            out += snprintf(out, 80, "%s%s", bar, one);
        bar = code ? "|" : bar;
        pcre2_code_free(code);
    }
}

int lmc_scripts_new(struct lmc_scripts **out, struct lm_err *e)
{
    struct lmc_scripts *s = calloc(1, sizeof *s);
    char *pattern = malloc(PATTERN);

    *out = s;
    if (s && pattern) {
        write_pattern(pattern);
        s->code = compile(pattern);
        if (s->code) {
            pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE);
            s->match = pcre2_match_data_create_from_pattern(s->code, NULL);
        }
    }
    free(pattern);
    if (s && s->match)
        return 0;
    lmc_scripts_free(s);
    *out = NULL;
    return lm_err_set(e, LM_NOMEM, "out of memory for the table of scripts");
}

void lmc_scripts_free(struct lmc_scripts *s)
{
    if (!s)
        return;
    pcre2_match_data_free(s->match);
    pcre2_code_free(s->code);
    free(s);
}

static unsigned without_script(utf8proc_int32_t c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return LMC_DIGITS;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return LMC_SPACES;
    case UTF8PROC_CATEGORY_CC: return c >= '\t' && c <= '\r' ? LMC_SPACES : LMC_OTHER;
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN: return LMC_OTHER;
    default: return LMC_SIGNS;
    }
}

static unsigned class_of(struct lmc_scripts *s, utf8proc_int32_t c, struct lm_span bytes)
{
    if (s->classes[c])
        return s->classes[c] - 1u;
    int rc = pcre2_match(s->code, bytes.data, bytes.size, 0, PCRE2_NO_UTF_CHECK, s->match, NULL);
    PCRE2_SPTR mark = rc > 0 ? pcre2_get_mark(s->match) : NULL;
    unsigned class = mark ? (unsigned)strtoul((const char *)mark, NULL, 10) : without_script(c);
    s->classes[c] = (uint8_t)(class + 1);
    return class;
}

/* Letters decide; without them digits, then signs, then spaces. */
unsigned lmc_script_of_text(struct lmc_scripts *s, struct lm_span text)
{
    bool seen[LMC_FIRST_SCRIPT] = {0};
    unsigned script = 0;

    for (size_t i = 0; i < text.size;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t w = utf8proc_iterate(text.data + i, (utf8proc_ssize_t)(text.size - i), &c);
        if (w <= 0)
            return LMC_PARTIAL;
        unsigned class = class_of(s, c, lm_span_of(text.data + i, (size_t)w));
        if (class >= LMC_FIRST_SCRIPT && script && class != script)
            return LMC_MIXED;
        if (class >= LMC_FIRST_SCRIPT)
            script = class;
        else
            seen[class] = true;
        i += (size_t)w;
    }
    return script             ? script
           : seen[LMC_DIGITS] ? LMC_DIGITS
           : seen[LMC_SIGNS]  ? LMC_SIGNS
           : seen[LMC_OTHER]  ? LMC_OTHER
           : seen[LMC_SPACES] ? LMC_SPACES
                              : LMC_OTHER;
}

const char *lmc_script_name(unsigned script)
{
    return script < N_NAMES ? names[script] : "?";
}
