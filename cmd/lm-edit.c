/* lm-edit: metadata and names of a model file, without rewriting its tensors. */
#include <signal.h>
#include <stdlib.h>

#include "cmd/cli.h"
#include "convert/edit.h"

struct options {
    struct cli_list set, delete, rename;
    const char *template, *out;
    bool force, dry_run, json;
};

static const struct cli_opt opts[] = {
    {"set", 's', CLI_LIST, "KEY=VALUE", offsetof(struct options, set),
     "Give a key a value; KEY:TYPE=VALUE with u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool str (default: the type it has, "
     "str for a new one).", NULL},
    {"delete", 'd', CLI_LIST, "KEY", offsetof(struct options, delete), "Remove a key.", NULL},
    {"rename", 'r', CLI_LIST, "OLD=NEW", offsetof(struct options, rename), "Rename a tensor or a key.", NULL},
    {"chat-template", 0, CLI_STRING, "FILE", offsetof(struct options, template),
     "The chat template from a file: of a GGUF its key, of safetensors what lies beside them.", NULL},
    {"output", 'o', CLI_STRING, "FILE", offsetof(struct options, out), "Write another file; MODEL stays as it is.", NULL},
    {"force", 'f', CLI_FLAG, NULL, offsetof(struct options, force), "Replace an existing --output.", NULL},
    {"dry-run", 'n', CLI_FLAG, NULL, offsetof(struct options, dry_run), "Say what would be done; write nothing.", NULL},
    {"json", 0, CLI_FLAG, NULL, offsetof(struct options, json), "What was done as JSON.", NULL},
    {NULL, 0, CLI_FLAG, NULL, 0, NULL, NULL},
};

static const struct cli_cmd cmd = {
    .name = "lm-edit",
    .brief = "change metadata and names of GGUF or safetensors files",
    .synopsis = "MODEL",
    .about =
        "Changes the head of MODEL, a GGUF or safetensors file, a set of them, or a folder with one: first all --delete, "
        "then all --rename, then all --set, each in the order given. Metadata of safetensors are texts.\n"
        "\n"
        "In a set, keys are those of the first file, and a tensor's name is changed in the file that holds it and in "
        "index.json; when several files change they get their names together, the index last. The chat template of a "
        "folder of safetensors is chat_template.jinja or, where there is none, chat_template in tokenizer_config.json, of "
        "which everything else stays byte for byte.\n"
        "\n"
        "When the new head fits into the old one's place only that is written, in seconds for any size; shorter heads "
        "are filled up (GGUF: the key libmodel.padding; safetensors: spaces). Otherwise the file is written anew, by "
        "the kernel and without reading tensors, with room for the next edits, and takes the old one's place when it is "
        "complete and on the disk. Files that lm-convert and lm-quantize write have room for 4 kB more from the start. If "
        "the machine stops while a head is written in place, lm-edit MODEL without options "
        "completes it from the copy it left beside the file (.MODEL.edit).\n"
        "\n"
        "With --json: model, edits (their number), in_place, n_bytes_head, n_bytes_copied, beside (the small file that was "
        "changed, or null), written.\n",
    .opts = opts,
    .examples = "  $ lm-edit bielik.gguf --set general.name='Bielik 7B' --set general.quantization_version:u32=2\n"
                "  $ lm-edit bielik.gguf --chat-template chatml.jinja\n"
                "  $ lm-edit bielik-7b/ --chat-template chatml.jinja\n"
                "  $ lm-edit bielik-00001-of-00004.gguf --set general.license=apache-2.0\n"
                "  $ lm-edit model.safetensors --rename lm_head.weight=output.weight -o renamed.safetensors\n",
    .min_args = 1,
    .max_args = 1,
};

struct edits { struct lm_edit *of; size_t n; struct lm_arena arena; char *template; };

static int find_type(const char *name, size_t n)
{
    for (int t = 0; t < LM_META_N_TYPES; t++)
        if (t != LM_META_ARRAY && strlen(lm_meta_type_name((enum lm_meta_type)t)) == n &&
            strncmp(lm_meta_type_name((enum lm_meta_type)t), name, n) == 0)
            return t;
    return -1;
}

static int add_set(struct edits *x, const char *text, struct lm_err *e)
{
    const char *eq = strchr(text, '='), *colon = eq ? memrchr(text, ':', (size_t)(eq - text)) : NULL;
    struct lm_edit *d = &x->of[x->n++];

    if (!eq)
        return lm_err_set(e, LM_USAGE, "--set is KEY=VALUE or KEY:TYPE=VALUE, not '%s'", text);
    int type = colon ? find_type(colon + 1, (size_t)(eq - colon - 1)) : -1;
    if (colon && type < 0)
        return lm_err_set(e, LM_USAGE, "--set %s: no type is called '%.*s' (u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool str)",
                          text, (int)(eq - colon - 1), colon + 1);
    const char *end = colon ? colon : eq;
    *d = (struct lm_edit){.what = LM_EDIT_SET, .type = type, .text = lm_span_str(eq + 1),
                          .key = lm_arena_str(&x->arena, lm_span_of(text, (size_t)(end - text)))};
    return d->key ? 0 : lm_err_set(e, LM_NOMEM, "out of memory");
}

static int add_rename(struct edits *x, const char *text, struct lm_err *e)
{
    const char *eq = strchr(text, '=');
    struct lm_edit *d = &x->of[x->n++];

    if (!eq)
        return lm_err_set(e, LM_USAGE, "--rename is OLD=NEW, not '%s'", text);
    *d = (struct lm_edit){.what = LM_EDIT_RENAME, .to = eq + 1,
                          .key = lm_arena_str(&x->arena, lm_span_of(text, (size_t)(eq - text)))};
    return d->key ? 0 : lm_err_set(e, LM_NOMEM, "out of memory");
}

static int add_template(struct edits *x, const char *file, struct lm_err *e)
{
    size_t n;

    if (cli_read_text(&x->template, &n, NULL, file, e))
        return -1;
    x->of[x->n++] = (struct lm_edit){.what = LM_EDIT_SET, .key = "tokenizer.chat_template", .type = LM_META_STR,
                                     .text = lm_span_of(x->template, n)};
    return 0;
}

static int collect(struct edits *x, const struct options *o, struct lm_err *e)
{
    x->of = calloc(o->set.n + o->delete.n + o->rename.n + 1, sizeof *x->of);
    if (!x->of)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    for (size_t i = 0; i < o->delete.n; i++)
        x->of[x->n++] = (struct lm_edit){.what = LM_EDIT_DELETE, .key = o->delete.items[i]};
    for (size_t i = 0; i < o->rename.n; i++)
        if (add_rename(x, o->rename.items[i], e))
            return -1;
    for (size_t i = 0; i < o->set.n; i++)
        if (add_set(x, o->set.items[i], e))
            return -1;
    return o->template ? add_template(x, o->template, e) : 0;
}

static int report(const struct edits *x, const struct lm_edit_result *r, const struct options *o, const char *path)
{
    char size[32];
    const char *where = o->out ? o->out : path;

    if (o->json)
        return cli_json_print(json_pack("{s:o, s:I, s:b, s:I, s:I, s:o, s:b}", "model", cli_json_str(lm_span_str(where)), "edits",
                                        (json_int_t)x->n, "in_place", r->in_place, "n_bytes_head", (json_int_t)r->n_head,
                                        "n_bytes_copied", (json_int_t)r->n_copied, "beside",
                                        *r->beside ? cli_json_str(lm_span_str(r->beside)) : json_null(), "written",
                                        !o->dry_run && (x->n > 0 || o->out)));
    if (x->n == 0 && !o->out) {
        printf("%s: nothing to change\n", cli_safe(lm_span_str(where)));
        return 0;
    }
    if (*r->beside)
        printf("%s: the chat template%s\n", cli_safe(lm_span_str(r->beside)), o->dry_run ? "; nothing written (dry run)" : "");
    if (r->n_head == 0)
        return 0;
    printf("%s: %zu edit%s, %s", cli_safe(lm_span_str(where)), x->n, x->n == 1 ? "" : "s",
           r->in_place ? "in place" : "a new file");
    printf(" (%s %s)%s\n", cli_bytes(size, sizeof size, r->in_place ? r->n_head : r->n_head + r->n_copied),
           r->in_place ? "of head written" : "in all", o->dry_run ? "; nothing written (dry run)" : "");
    return 0;
}

static int run(const struct options *o, const char *path, struct lm_err *e)
{
    struct lm_edit_options how = {.out = o->out, .force = o->force, .dry = o->dry_run};
    struct lm_edit_result r;
    struct edits x = {0};
    int rc = collect(&x, o, e) || lm_edit(&r, path, x.of, x.n, &how, e) ? -1 : 0;

    if (rc == 0)
        rc = report(&x, &r, o, path);
    free(x.of);
    free(x.template);
    lm_arena_free(&x.arena);
    return rc;
}

int main(int argc, char **argv)
{
    struct options o = {0};
    struct lm_err e = {0};

    cli_parse(&cmd, argc, argv, &o);
    signal(SIGXFSZ, SIG_IGN);
    int code = run(&o, argv[1], &e) ? cli_fail(&e) : CLI_OK;
    free(o.set.items);
    free(o.delete.items);
    free(o.rename.items);
    return cli_finish(code);
}
