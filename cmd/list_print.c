/* lm-list for people. */
#include <stdlib.h>

#include "cmd/list.h"

static void print_config(const struct lm_config *c)
{
    printf("layers        %u\n", c->n_layers);
    printf("width         %u, %u heads of %u", c->d_model, c->n_heads, c->d_head);
    if (c->n_kv_heads != c->n_heads)
        printf(" (%u for keys and values)", c->n_kv_heads);
    printf(", feed-forward %u\n", c->d_ff);
    printf("context       %u positions%s\n", c->ctx_len, c->arch->learned_positions ? ", learned" : "");
    printf("vocabulary    %u%s\n", c->vocab_size, c->tied ? ", output tied to the embedding" : "");
}

static void print_tokenizer(const struct lm_meta *meta)
{
    const struct lm_meta_value *model = lm_meta_get(meta, "tokenizer.ggml.model");
    const struct lm_meta_value *tokens = lm_meta_get(meta, "tokenizer.ggml.tokens");

    if (model && model->type == LM_META_STR && tokens && tokens->type == LM_META_ARRAY)
        printf("tokenizer     %s, %zu pieces\n", cli_safe(model->str), tokens->n);
}

static void print_dtypes(struct listing *l)
{
    size_t n;
    int by = l->o.by;

    l->o.by = LIST_BY_DTYPE;
    struct list_group *g = list_groups(l, l->all, lm_model_n_tensors(l->m), &n);
    l->o.by = by;
    printf("dtypes       ");
    for (size_t i = 0; i < n; i++)
        printf("%s %s (%zu tensors, %.2f %%)", i ? "," : "", g[i].key, g[i].n_tensors, 100 * list_share(l, g[i].n_params));
    putchar('\n');
    free(g);
}

static void print_left_out(const struct lm_model *m)
{
    enum { SHOWN = 12 };
    size_t n = lm_model_n_left_out(m);

    for (size_t i = 0; i < n && i < SHOWN; i++)
        printf("%s%s\n", i ? "              " : "no tensors    ", lm_model_left_out(m, i));
    if (n > SHOWN)
        printf("              and %zu more\n", n - SHOWN);
}

static void print_summary(struct listing *l)
{
    char buf[64], exact[64];
    size_t n_files = 0, n = lm_model_n_tensors(l->m);

    for (size_t i = 0; i < lm_model_n_files(l->m); i++)
        n_files += !lm_model_file(l->m, i)->made;
    printf("format        %s", lm_model_format(l->m)->title);
    printf(n_files > 1 ? ", %zu files\n" : "\n", n_files);
    if (l->has_config)
        printf("architecture  %s (%s)\n", l->config.arch->name, l->config.arch->title);
    else
        printf("architecture  %s\n", l->arch ? cli_safe(lm_span_str(l->arch)) : "not said");
    if (l->has_config)
        print_config(&l->config);
    else if (l->n_layers > 0)
        printf("layers        %d, by the names\n", l->n_layers);
    printf("tensors       %zu\n", n);
    if (lm_model_n_stored(l->m) != n)
        printf("stored        %zu tensors: quantized weights are several (--stored lists them)\n", lm_model_n_stored(l->m));
    printf("parameters    %s\n", cli_count(buf, sizeof buf, l->n_params));
    printf("bytes         %s (%s)\n", cli_count(exact, sizeof exact, l->n_bytes), cli_bytes(buf, sizeof buf, l->n_bytes));
    if (n > 0)
        print_dtypes(l);
    if (l->n_shared)
        printf("shared        %zu tensors lie in the bytes of others and are counted once\n", l->n_shared);
    print_tokenizer(lm_model_meta(l->m));
    print_left_out(l->m);
}

static void print_tensors(struct listing *l)
{
    static const char *const heads[] = {"tensor", "dtype", "shape", "parameters", "share", "bytes"};
    struct cli_table *t = cli_table_new(heads, "lllrrr");

    for (size_t i = 0; i < l->n_rows; i++) {
        const struct list_row *r = &l->rows[i];
        char shape[200], params[40], share[40], bytes[40], times[32] = "";
        if (r->count > 1)
            snprintf(times, sizeof times, "%zu × ", r->count);
        lm_tensor_shape_str(r->t, shape, sizeof shape);
        char full[240];
        snprintf(full, sizeof full, "%s%s", times, shape);
        snprintf(share, sizeof share, "%.2f %%", 100 * list_share(l, r->n_params));
        cli_table_row(t, cli_safe(lm_span_str(list_row_name(l, r))), list_type(r->t), full,
                      cli_count(params, sizeof params, r->n_params), share, cli_count(bytes, sizeof bytes, r->n_bytes));
    }
    cli_table_print(t, stdout);
}

static void print_groups(struct listing *l)
{
    static const char *const names[] = {"", "layer", "role", "dtype"};
    const char *heads[] = {names[l->o.by], "tensors", "parameters", "share", "bytes"};
    struct cli_table *t = cli_table_new(heads, "lrrrr");
    size_t n;
    struct list_group *g = list_groups(l, l->rows, l->n_rows, &n);

    for (size_t i = 0; i < n; i++) {
        char count[40], params[40], share[40], bytes[40];
        snprintf(share, sizeof share, "%.2f %%", 100 * list_share(l, g[i].n_params));
        cli_table_row(t, cli_safe(lm_span_str(g[i].key)), cli_count(count, sizeof count, g[i].n_tensors),
                      cli_count(params, sizeof params, g[i].n_params), share,
                      cli_count(bytes, sizeof bytes, g[i].n_bytes));
    }
    free(g);
    cli_table_print(t, stdout);
}

void list_print(struct listing *l, json_t *config)
{
    print_summary(l);
    if (!l->o.meta && l->n_rows == 0)
        return;
    putchar('\n');
    if (l->o.meta)
        list_print_meta(l, config);
    else if (l->o.by)
        print_groups(l);
    else
        print_tensors(l);
}
