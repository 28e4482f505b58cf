/* --stats: a vocabulary in numbers. */
#include <stdlib.h>

#include "cmd/vocab.h"
#include "convert/vocab_stats.h"

enum { EXAMPLES = 8, BAR = 40, SCRIPTS = 15 };

/* ---- words */

static void head(const char *name)
{
    printf("%-15s", name);
}

static void print_kinds(const struct vocab_job *j, const struct lm_vocab_stats *s)
{
    const char *between = "";

    head("kinds");
    for (unsigned k = LM_PIECE_NORMAL; k <= LM_PIECE_BYTE; k++)
        if (s->n_of_kind[k]) {
            printf("%s%zu %s", between, s->n_of_kind[k], lm_piece_kind_name((enum lm_piece_kind)k));
            between = ", ";
        }
    printf("; %zu special, %zu added\n", s->n_special, s->n_added);
    head("merges");
    printf("%zu\n", j->v->n_merges);
}

static void print_special(struct vocab_job *j)
{
    const struct { const char *name; int64_t id; bool added; } ids[] = {
        {"BOS", j->v->bos_id, j->v->add_bos}, {"EOS", j->v->eos_id, j->v->add_eos}, {"unknown", j->v->unk_id, false},
        {"padding", j->v->pad_id, false}};

    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        head(ids[i].name);
        if (ids[i].id < 0)
            printf("none\n");
        else
            printf("%lld %s%s\n", (long long)ids[i].id, vocab_escaped(j, j->v->pieces[ids[i].id].text),
                   ids[i].added ? " (added to a text)" : "");
    }
}

static void print_ids(struct vocab_job *j, const char *name, const uint32_t *ids, size_t n, const char *none)
{
    head(name);
    if (n == 0)
        printf("%s", none);
    else
        printf("%zu: ", n);
    for (size_t i = 0; i < n && i < EXAMPLES; i++)
        printf("%s%u %s", i ? ", " : "", ids[i], vocab_escaped(j, j->v->pieces[ids[i]].text));
    printf(n > EXAMPLES ? ", ... (--json lists all)\n" : "\n");
}

static void print_lengths(const struct lm_vocab_stats *s)
{
    size_t most = 1;

    printf("\nbytes of the text of a piece (mean %.2f, %.2f characters)\n", s->mean_bytes, s->mean_chars);
    for (size_t i = 0; i < LM_STATS_LENGTHS; i++)
        most = s->n_of_length[i] > most ? s->n_of_length[i] : most;
    for (size_t i = 0; i < LM_STATS_LENGTHS; i++) {
        if (!s->n_of_length[i])
            continue;
        printf("%4zu%s %8zu  ", i, i + 1 == LM_STATS_LENGTHS ? "+" : " ", s->n_of_length[i]);
        for (size_t k = (s->n_of_length[i] * BAR + most - 1) / most; k > 0; k--)
            fputs("█", stdout);
        putchar('\n');
    }
}

static void print_scripts(const struct lm_vocab_stats *s)
{
    printf("\nscripts of the letters\n");
    for (size_t i = 0; i < s->n_scripts && i < SCRIPTS; i++)
        printf("%9zu  %6.2f %%  %s\n", s->scripts[i].n, 100.0 * (double)s->scripts[i].n / (double)s->n_texts,
               s->scripts[i].name);
    if (s->n_scripts > SCRIPTS)
        printf("           and %zu more (--json lists all)\n", s->n_scripts - SCRIPTS);
}

static void print_longest(struct vocab_job *j, const struct lm_vocab_stats *s)
{
    printf("\nlongest pieces\n");
    for (size_t i = 0; i < s->n_longest; i++)
        printf("%9u  %s\n", s->longest[i], cli_safe(vocab_bytes_of(j, s->longest[i])));
}

static void print_words(struct vocab_job *j, const struct lm_vocab_stats *s)
{
    head("algorithm");
    printf("%s%s%s, from %s\n", lm_vocab_algo_name(j->v->algo), j->v->pre[0] ? ", pre-tokenizer " : "", j->v->pre,
           j->v->source);
    head("pieces");
    printf("%zu\n", j->v->n_pieces);
    print_kinds(j, s);
    print_special(j);
    head("single bytes");
    printf("%zu of 256\n", s->n_bytes);
    print_ids(j, "duplicates", s->duplicates, s->n_duplicates, "none");
    print_ids(j, "unreachable", s->unreachable, s->n_unreachable, "none");
    if (s->n_partial)
        printf("%15s(%zu parts of characters were not reached by themselves and not judged)\n", "", s->n_partial);
    print_lengths(s);
    print_scripts(s);
    print_longest(j, s);
}

/* ---- JSON */

static json_t *list_json(struct vocab_job *j, const uint32_t *ids, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{sI, ss}", "id", (json_int_t)ids[i], "piece",
                                              vocab_escaped(j, j->v->pieces[ids[i]].text)));
    return list;
}

static json_t *kinds_json(const struct lm_vocab_stats *s)
{
    json_t *o = json_object();

    for (unsigned k = LM_PIECE_NORMAL; k <= LM_PIECE_BYTE; k++)
        json_object_set_new(o, lm_piece_kind_name((enum lm_piece_kind)k), json_integer((json_int_t)s->n_of_kind[k]));
    return o;
}

static json_t *lengths_json(const struct lm_vocab_stats *s)
{
    json_t *list = json_array();

    for (size_t i = 0; i < LM_STATS_LENGTHS; i++)
        json_array_append_new(list, json_integer((json_int_t)s->n_of_length[i]));
    return list;
}

static json_t *scripts_json(const struct lm_vocab_stats *s)
{
    json_t *list = json_array();

    for (size_t i = 0; i < s->n_scripts; i++)
        json_array_append_new(list, json_pack("{ss, sI}", "name", s->scripts[i].name, "n", (json_int_t)s->scripts[i].n));
    return list;
}

static json_t *special_json(struct vocab_job *j)
{
    json_t *list = json_array();

    for (size_t i = 0; i < j->v->n_pieces; i++) {
        const struct lm_piece *p = &j->v->pieces[i];
        if (p->special || p->added || p->kind == LM_PIECE_CONTROL || p->kind == LM_PIECE_USER_DEFINED)
            json_array_append_new(list, vocab_piece_json(j, i));
    }
    return list;
}

static void print_json(struct vocab_job *j, const struct lm_vocab_stats *s)
{
    json_t *root = vocab_summary_json(j->v);

    json_object_set_new(root, "kinds", kinds_json(s));
    json_object_set_new(root, "n_single_bytes", json_integer((json_int_t)s->n_bytes));
    json_object_set_new(root, "mean_bytes", cli_json_real(s->mean_bytes));
    json_object_set_new(root, "mean_chars", cli_json_real(s->mean_chars));
    json_object_set_new(root, "n_of_length", lengths_json(s));
    json_object_set_new(root, "scripts", scripts_json(s));
    json_object_set_new(root, "duplicates", list_json(j, s->duplicates, s->n_duplicates));
    json_object_set_new(root, "unreachable", list_json(j, s->unreachable, s->n_unreachable));
    json_object_set_new(root, "n_partial", json_integer((json_int_t)s->n_partial));
    json_object_set_new(root, "longest", list_json(j, s->longest, s->n_longest));
    json_object_set_new(root, "tokens", special_json(j));
    cli_json_print(root);
}

int vocab_stats(struct vocab_job *j, struct lm_err *e)
{
    struct lm_vocab_stats *s;

    if (vocab_need_tokenizer(j, e) < 0 || lm_vocab_stats_make(&s, j->v, j->t, e) < 0)
        return -1;
    j->o->json ? print_json(j, s) : print_words(j, s);
    lm_vocab_stats_free(s);
    return CLI_OK;
}
