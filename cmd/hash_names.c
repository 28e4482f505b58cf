/* What every tensor of Hugging Face is called in the canonical form, and how
 * its elements get there: the rows of all architectures, each line once. */
#include <stdio.h>
#include <string.h>

#include "cmd/hash_show.h"
#include "libmodel/arch.h"

static const char *how(enum lm_transform t)
{
    static const char *const words[] = {
        [LM_T_NONE] = "as-is", [LM_T_PERMUTE_Q] = "rope-q", [LM_T_PERMUTE_K] = "rope-k", [LM_T_TRANSPOSE] = "transposed",
        [LM_T_PLUS_ONE] = "plus-one", [LM_T_GROUP_QKV] = "qkv", [LM_T_STACK] = "stacked", [LM_T_HALF_1] = "half-1",
        [LM_T_HALF_2] = "half-2", [LM_T_EVEN] = "even", [LM_T_ODD] = "odd", [LM_T_EVEN_ROWS] = "even-turned",
        [LM_T_ODD_ROWS] = "odd-turned", [LM_T_TURN] = "turned", [LM_T_MLA_K] = "mla-k", [LM_T_MLA_V] = "mla-v",
        [LM_T_EVEN_OUTS] = "even-rows", [LM_T_ODD_OUTS] = "odd-rows"};

    return (unsigned)t < sizeof words / sizeof words[0] && words[t] ? words[t] : "?";
}

static bool has_name(const struct lm_arch_row *r)
{
    return r->hf && (r->gguf || r->flags & LM_ROW_DROPPED);
}

static bool same_line(const struct lm_arch_row *a, const struct lm_arch_row *b)
{
    return strcmp(a->hf, b->hf) == 0 && strcmp(a->gguf ? a->gguf : "-", b->gguf ? b->gguf : "-") == 0 &&
           a->transform == b->transform;
}

/* The row of arch that is the same line as r, or NULL. */
static const struct lm_arch_row *in_arch(const struct lm_arch *a, const struct lm_arch_row *r)
{
    for (const struct lm_arch_row *x = a->rows; x < a->rows + a->n_rows; x++)
        if (has_name(x) && same_line(x, r))
            return x;
    return NULL;
}

static bool is_printed(size_t arch, const struct lm_arch_row *r)
{
    const struct lm_arch *a = lm_arch_at(arch);

    for (size_t i = 0; i < arch; i++)
        if (in_arch(lm_arch_at(i), r))
            return true;
    return in_arch(a, r) != r;
}

/* Does some family read the same Hugging Face name otherwise? */
static bool is_contested(const struct lm_arch_row *r)
{
    const struct lm_arch *a;

    for (size_t i = 0; (a = lm_arch_at(i)); i++)
        for (const struct lm_arch_row *x = a->rows; x < a->rows + a->n_rows; x++)
            if (has_name(x) && strcmp(x->hf, r->hf) == 0 && !same_line(x, r) && !in_arch(a, r))
                return true;
    return false;
}

static void print_row(const struct lm_arch_row *r)
{
    const struct lm_arch *a;

    printf("%s %s %s", r->hf, r->gguf ? r->gguf : "-", r->gguf ? how(r->transform) : "not-counted");
    for (size_t i = 0; is_contested(r) && (a = lm_arch_at(i)); i++)
        if (in_arch(a, r))
            printf(" %s", a->name);
    putchar('\n');
}

static void print_family(const struct lm_arch *a)
{
    printf("= %s:", a->name);
    for (size_t i = 0; a->hf_model_types[i]; i++) {
        size_t k = 0;
        while (strcmp(a->hf_model_types[k], a->hf_model_types[i]) != 0)
            k++;
        if (k == i)
            printf(" %s", a->hf_model_types[i]);
    }
    putchar('\n');
}

void hash_print_names(void)
{
    const struct lm_arch *a;

    for (size_t i = 0; (a = lm_arch_at(i)); i++)
        print_family(a);
    for (size_t i = 0; (a = lm_arch_at(i)); i++)
        for (const struct lm_arch_row *r = a->rows; r < a->rows + a->n_rows; r++)
            if (has_name(r) && !is_printed(i, r))
                print_row(r);
}
