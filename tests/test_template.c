/* Chat templates against what transformers renders (tests/make_template_cases.py), and their limits. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "libmodel/parse/json.h"
#include "libmodel/template.h"

/* The text, or NULL with e. */
static char *rendered(const char *source, const char *variables, const struct lm_template_options *o, struct lm_err *e)
{
    struct lm_template *t;
    char *text = NULL;
    size_t n;

    if (lm_template_new(&t, lm_span_str(source), e) < 0)
        return NULL;
    if (lm_template_render(t, lm_span_str(variables), o, &text, &n, e) < 0)
        text = NULL;
    lm_template_free(t);
    return text;
}

static void check_case(size_t line, json_t *c, json_t *shared)
{
    struct lm_err e = {0};
    json_t *own = json_object_get(c, "v"), *want = json_object_get(c, "x");
    char *vars = json_dumps(own ? own : shared, 0);
    char *text = rendered(json_string_value(json_object_get(c, "t")), vars, NULL, &e);

    if (json_is_null(want) ? text != NULL : !text || strcmp(text, json_string_value(want)) != 0)
        fail_msg("line %zu: %s\n got  %s\n want %s", line, json_string_value(json_object_get(c, "t")),
                 text ? text : e.text, json_is_null(want) ? "an error" : json_string_value(want));
    if (!text)
        assert_true(e.text[0] != 0 && strchr(e.text, '\n') == NULL);
    free(text);
    free(vars);
}

static void renders_as_transformers(void **state)
{
    FILE *f = fopen("tests/fixtures/templates/cases.jsonl", "r");
    char *line = NULL;
    size_t size = 0, n = 0;
    json_t *shared = NULL;

    (void)state;
    assert_non_null(f);
    while (getline(&line, &size, f) > 0) {
        json_t *c = json_loads(line, 0, NULL);
        assert_non_null(c);
        n++;
        if (!shared) {
            shared = c;
            continue;
        }
        check_case(n, c, shared);
        json_decref(c);
    }
    assert_true(n > 300);
    json_decref(shared);
    free(line);
    fclose(f);
}

static void exceptions_are_told(void **state)
{
    struct lm_err e;

    (void)state;
    assert_null(rendered("{{ raise_exception('only users\x1b[31m speak') }}", "{}", NULL, &e));
    assert_int_equal(e.code, LM_MISMATCH);
    assert_string_equal(e.text, "the template refuses the conversation: only users\\x1B[31m speak");
    assert_null(rendered("a\n{% if x %}\n", "{}", NULL, &e));
    assert_non_null(strstr(e.text, "line 2 of the template"));
    assert_null(rendered("{% include 'etc' %}", "{}", NULL, &e));
    assert_int_equal(e.code, LM_UNSUPPORTED);
}

/* What a hostile template can ask for ends in an error, soon. */
static void limits_hold(void **state)
{
    static const char *const hostile[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{{ 'x' * 9999999999 }}", "{{ [1] * 9999999999 }}", "{{ 9999999999999999999 }}", "{{ 9 ** 99 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ range(99999999) }}",
        "{% set ns = namespace(l=[]) %}{% for a in range(300) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for a in range(300) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}"};
    struct lm_err e;

    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        char *text = rendered(hostile[i], "{}", NULL, &e);
        if (text)
            fail_msg("%s rendered", hostile[i]);
    }
}

static void deep_sources_are_refused(void **state)
{
    static const char *const parts[] = {"(", "[", "{'a':", "not ", "-", "{% if a %}", "{{ {", "a if b else "};
    struct lm_err e;

    (void)state;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t n = strlen(parts[i]);
        char *source = malloc(3 + 20000 * n + 1);
        assert_non_null(source);
        memcpy(source, "{{ ", 3);
        for (size_t k = 0; k < 20000; k++)
            memcpy(source + 3 + k * n, parts[i], n);
        source[3 + 20000 * n] = 0;
        assert_null(rendered(source + (parts[i][0] == '{' && parts[i][1] == '%' ? 3 : 0), "{}", NULL, &e));
        free(source);
    }
}

/* Every prefix of a template and every byte changed: an error or a text. */
static void broken_sources(void **state)
{
    static const char whole[] =
        "{%- set ns = namespace(a=1) -%}{% macro m(x, y='\\n\\u0105') %}{{ x ~ y }}{% endmacro %}{# c #}"
        "{% for k, v in d | items if v is not none %}{{ loop.last }}{{ m(k, y=v[1:2]) }}{% else %}-{% endfor %}"
        "{% if a and not b or c == 1.5 %}x{% elif 'q' in \"rq\" %}{{ {'a': [1, (2,)]} | tojson(indent=2) }}{% endif %}";
    struct lm_err e;
    char buf[sizeof whole];

    (void)state;
    for (size_t n = 0; n < sizeof whole; n++) {
        memcpy(buf, whole, sizeof whole);
        buf[n] = 0;
        free(rendered(buf, "{\"d\": {\"k\": \"vw\"}}", NULL, &e));
        for (int flip = 1; flip < 256; flip <<= 1) {
            memcpy(buf, whole, sizeof whole);
            buf[n < sizeof whole - 1 ? n : 0] ^= (char)flip;
            free(rendered(buf, "{\"d\": {\"k\": \"vw\"}}", NULL, &e));
        }
    }
}

static void the_clock_is_given(void **state)
{
    struct lm_template_options o = {.now = 1700000000};
    struct lm_err e;
    char *text = rendered("{{ strftime_now('%d %B %Y') }}", "{}", &o, &e);

    (void)state;
    assert_non_null(text);
    assert_string_equal(text + 2, " November 2023");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renders_as_transformers), cmocka_unit_test(exceptions_are_told), cmocka_unit_test(limits_hold),
        cmocka_unit_test(deep_sources_are_refused), cmocka_unit_test(broken_sources),
        cmocka_unit_test(the_clock_is_given)};

    return cmocka_run_group_tests_name("template", tests, NULL, NULL);
}
