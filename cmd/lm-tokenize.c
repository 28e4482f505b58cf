/* lm-tokenize: text to ids and back, and whether two models agree on it. */
#include "cmd/tokenize.h"

#include <stdlib.h>
#include <unistd.h>

static const char *const binaries[] = {"no", "u16", "u32", NULL};

#define AT(f) offsetof(struct tok_options, f)
static const struct cli_opt opts[] = {
    {"file", 'f', CLI_LIST, "FILE", AT(files), "Read the text (or ids) from FILE, - for standard input; may be given "
     "several times.", NULL},
    {"add-special", 'a', CLI_FLAG, NULL, AT(add_special),
     "Add the tokens that the model wants in front of and behind a text (BOS, EOS, [CLS] …).", NULL},
    {"parse-special", 's', CLI_FLAG, NULL, AT(parse_special),
     "Read special tokens written in the text (<s>, <|eot_id|>) as tokens; else they are ordinary text.", NULL},
    {"pieces", 'p', CLI_FLAG, NULL, AT(pieces), "One token a line with its piece.", NULL},
    {"offsets", 'o', CLI_FLAG, NULL, AT(offsets),
     "One token a line with the bytes of the text it stands for: first, and one past the last.", NULL},
    {"count", 'c', CLI_FLAG, NULL, AT(count), "Only how many tokens there are, and bytes and characters for each.", NULL},
    {"view", 'v', CLI_FLAG, NULL, AT(view), "The text in the colours of its tokens, ids underneath.", NULL},
    {"html", 0, CLI_STRING, "FILE", AT(html), "Write the same as a page for a browser, complete in itself.", NULL},
    {"json", 0, CLI_FLAG, NULL, AT(json), "Print JSON.", NULL},
    {"jsonl", 'l', CLI_FLAG, NULL, AT(jsonl), "A JSON value a line in, a JSON object a line out.", NULL},
    {"field", 0, CLI_STRING, "NAME", AT(field), "Where the text is in a line of --jsonl (default: text).", NULL},
    {"binary", 0, CLI_CHOICE, NULL, AT(binary), "Ids as little-endian numbers of 2 or 4 bytes, without anything "
     "between; with --decode, read them (default: no).", binaries},
    {"threads", 'j', CLI_INT, "N", AT(threads), "Threads for large inputs (default: all cores). The ids do not "
     "depend on it.", NULL},
    {"encoding", 0, CLI_STRING, "NAME", AT(rank_file.encoding), "Of a .tiktoken file: cl100k_base, o200k_base, gpt2, "
     "llama3 ... (default: by its name and size).", NULL},
    {"pattern", 0, CLI_STRING, "RE", AT(rank_file.pattern), "The regex that splits words, for a .tiktoken file that no "
     "encoding fits.", NULL},
    {"decode", 'd', CLI_FLAG, NULL, AT(decode), "Turn ids into text.", NULL},
    {"show-special", 0, CLI_FLAG, NULL, AT(show_special), "With --decode, write special tokens too.", NULL},
    {"compare", 0, CLI_FLAG, NULL, AT(compare), "Do two models tokenize alike? Exit code 1 when not.", NULL},
    {"quick", 0, CLI_FLAG, NULL, AT(quick), "With --compare, fewer texts: shorter sequences, not every character.", NULL},
    {"seed", 0, CLI_UINT64, "N", AT(seed), "Of the search of --compare (default 1).", NULL},
    {"tries", 0, CLI_UINT64, "N", AT(tries), "Texts that --compare makes up (default 100000).", NULL},
    {"force", 0, CLI_FLAG, NULL, AT(force), "Let --html replace a file.", NULL},
    {0},
};

static const struct cli_cmd cmd = {
    .name = "lm-tokenize",
    .brief = "turn text into token ids or ids into text, or compare two tokenizers",
    .synopsis = "MODEL [TEXT...]",
    .about = "With --decode the arguments behind MODEL are ids, with --compare a second model. MODEL "
             "is a checkpoint, its directory, or a tokenizer file. The tokenizer that it declares is executed exactly; one of a kind that is not handled is refused.\n\n"
             "Prints the ids of each text on a line; on a terminal also the text in the colours of its tokens. Each TEXT "
             "and each file is a text of its own; without any, standard input is. Any bytes are a text, NUL and broken "
             "UTF-8 too. With --pieces and --offsets a line holds, separated by tabs: id, begin and end (--offsets), "
             "piece (--pieces, escaped as in lm-vocab). Large files are worked part by part, by several threads, in "
             "bounded memory; --json, --view and --html hold the text as a whole.\n\n"
             "--count: for one TEXT, or standard input without -f, only the number of tokens; for files a table (with "
             "--json: texts, and total: name n_tokens n_bytes n_chars bytes_per_token chars_per_token).\n\n"
             "--jsonl: each line is a string, or an object with the text in the field \"text\"; blank lines are passed "
             "over. The line that answers is {\"ids\":[1,2],\"offsets\":[[0,3],[3,5]]} (bytes of the text in UTF-8), with "
             "--pieces also \"pieces\". With --decode a line is [1,2] or {\"ids\":[1,2]} and the answer {\"text\":\"...\"}; "
             "where the bytes are not UTF-8, it says \"utf8\":false and writes them \\xNN.\n\n"
             "--decode takes ids as arguments, from files or from standard input, separated by spaces, commas or "
             "brackets, and writes exactly the bytes of the text.\n\n"
             "--json: an object with n_bytes, n_tokens, ids, and tokens (objects with id, piece, begin, end), in an array "
             "when there are several texts; with --decode an object with text.\n\n"
             "--compare runs both over texts that are known to be hard, the texts given with -f, every piece of both "
             "vocabularies, every character, every short sequence of kinds of characters, and made-up texts. Each "
             "difference is cut down to the shortest text that shows it and explained by experiment: one setting of B "
             "after the other is replaced by A's, until the difference is gone. With --json: a, b, alike, n_texts, "
             "n_bytes, n_differ, differences (text, parse_special, add_special, found_in, explained, stage, settings "
             "with name a b, why, only_decoding, ids_a, ids_b, pieces_a, pieces_b, n_similar).",
    .opts = opts,
    .examples = "  $ lm-tokenize model.gguf \"Ala ma kota\"\n"
                "  $ lm-tokenize model/ --view -f letter.txt\n"
                "  $ lm-tokenize tokenizer.model --pieces --offsets -f book.txt\n"
                "  $ lm-tokenize model/ --count -f book.txt -f other.txt\n"
                "  $ lm-tokenize model/ --jsonl --add-special < texts.jsonl > ids.jsonl\n"
                "  $ lm-tokenize model/ --binary u16 -f corpus.txt > corpus.bin\n"
                "  $ lm-tokenize model/ --decode 334 3862 28724\n"
                "  $ lm-tokenize --compare model/ model.gguf",
    .min_args = 1,
    .max_args = -1,
};

/* ---- the frame: what stands around "a" when it is asked for */

static int find_frame(struct tok_job *j, struct lm_err *e)
{
    struct lm_ids bare = {0}, full = {0};
    struct lm_span a = lm_span_str("a");
    int rc = lm_tokenizer_encode(j->t, a, 0, &bare, e);

    if (rc == 0)
        rc = lm_tokenizer_encode(j->t, a, LM_ENCODE_BOS_EOS, &full, e);
    if (rc == 0 && full.n >= bare.n) {
        size_t at = 0, extra = full.n - bare.n;
        while (at < extra && memcmp(full.ids + at, bare.ids, bare.n * sizeof *bare.ids) != 0)
            at++;
        memmove(full.ids + at, full.ids + at + bare.n, (extra - at) * sizeof *full.ids);
        j->frame = full.ids;
        j->n_before = at;
        j->n_after = extra - at;
        full.ids = NULL;
    }
    lm_ids_free(&bare);
    lm_ids_free(&full);
    return rc;
}

/* ---- text to ids */

static int as_wholes(const struct tok_job *j, const struct tok_input *in, size_t n, struct lm_err *e)
{
    struct tok_whole *w = calloc(n, sizeof *w);
    int rc = w ? 0 : lm_err_set(e, LM_NOMEM, "no memory for %zu texts", n);

    for (size_t i = 0; i < n && rc == 0; i++)
        rc = tok_encode_whole(j, &in[i], &w[i], e);
    if (rc == 0 && j->o.html)
        rc = tok_write_html(j, w, n, e);
    else if (rc == 0 && j->o.json)
        rc = tok_print_json(j, w, n, e);
    for (size_t i = 0; i < n && rc == 0 && j->o.view; i++)
        tok_print_view(j, &w[i]);
    for (size_t i = 0; w && i < n; i++)
        tok_whole_free(&w[i]);
    free(w);
    return rc;
}

static int color_first(const struct tok_job *j, const struct tok_input *in, struct lm_err *e)
{
    struct tok_whole w;

    if (tok_encode_whole(j, in, &w, e) < 0)
        return tok_whole_free(&w), -1;
    tok_print_colored(j, &w);
    for (size_t i = 0; i < w.ids.n; i++)
        printf(i ? " %d" : "%d", w.ids.ids[i]);
    putchar('\n');
    tok_whole_free(&w);
    return 0;
}

static int in_parts(const struct tok_job *j, const struct tok_input *in, size_t n, struct lm_err *e)
{
    bool plain = !j->o.pieces && !j->o.offsets && !j->o.jsonl && !j->o.binary;
    int rc = 0;

    for (size_t i = 0; i < n && rc == 0; i++)
        rc = plain && j->color ? color_first(j, &in[i], e)
                               : tok_stream(j, &in[i], j->o.jsonl ? &tok_jsonl_worker : &tok_text_worker, NULL, e);
    return rc;
}

static int check_options(const struct tok_job *j, struct lm_err *e)
{
    const struct tok_options *o = &j->o;
    bool json = o->json && !o->count && !o->compare && !o->decode;
    int n_forms = o->view + (o->html != NULL) + json + (o->binary != 0) + o->count;

    if (n_forms > 1)
        return lm_err_set(e, LM_USAGE, "--view, --html, --json, --binary and --count exclude each other");
    if (o->jsonl && (o->view || o->html || (o->json && !o->count)))
        return lm_err_set(e, LM_USAGE, "--jsonl goes with --binary, --count, --pieces or --decode only");
    if (o->field && !o->jsonl)
        return lm_err_set(e, LM_USAGE, "--field goes with --jsonl");
    if (o->threads < 0)
        return lm_err_set(e, LM_USAGE, "--threads %d: expected 1 or more", o->threads);
    return 0;
}

static int open_model(struct tok_job *j, const char *path, struct lm_err *e)
{
    j->model = path;
    if (lm_vocab_open_with(&j->v, path, &j->o.rank_file, e) < 0 || lm_tokenizer_new(&j->t, j->v, e) < 0)
        return -1;
    if (j->o.binary == 1 && j->v->n_pieces > UINT16_MAX + 1)
        return lm_err_set(e, LM_USAGE, "--binary u16 cannot hold ids up to %zu; use u32", j->v->n_pieces - 1);
    return 0;
}

static size_t list_inputs(const struct tok_job *j, int n, char **args, struct tok_input *in)
{
    size_t k = 0;

    for (int i = 0; i < n; i++)
        in[k++] = strcmp(args[i], "-") == 0 ? (struct tok_input){.name = "-"} : (struct tok_input){.argument = args[i]};
    for (size_t i = 0; i < j->o.files.n; i++)
        in[k++] = (struct tok_input){.name = j->o.files.items[i]};
    if (k == 0)
        in[k++] = (struct tok_input){.name = "-"};
    return k;
}

static int encode(struct tok_job *j, int n, char **args, struct lm_err *e)
{
    struct tok_input *in = calloc((size_t)n + j->o.files.n + 1, sizeof *in);
    int rc = -1;

    if (!in)
        lm_err_set(e, LM_NOMEM, "no memory for the arguments");
    else if (n == 0 && j->o.files.n == 0 && isatty(0))
        lm_err_set(e, LM_USAGE, "no text given: put it on the command line, in a file with -f, or use -");
    else if (n > 0 && j->o.jsonl && strcmp(args[0], "-") != 0)
        lm_err_set(e, LM_USAGE, "--jsonl reads files (-f) or standard input");
    else if (!j->o.add_special || find_frame(j, e) == 0) {
        size_t k = list_inputs(j, n, args, in);
        bool whole = j->o.view || j->o.html || (j->o.json && !j->o.count);
        rc = j->o.count ? tok_print_counts(j, in, k, e) : whole ? as_wholes(j, in, k, e) : in_parts(j, in, k, e);
    }
    free(in);
    return rc;
}

/* ---- the command */

static int run(struct tok_job *j, int n, char **argv, struct lm_err *e)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (check_options(j, e) < 0)
        return -1;
    j->n_threads = j->o.threads ? j->o.threads : cores > 0 ? (int)cores : 1;
    if (j->o.compare && n != 2)
        return lm_err_set(e, LM_USAGE, "--compare takes two models; texts go in with -f");
    if (j->o.compare)
        return tok_compare(j, argv[1], argv[2], e);
    if (open_model(j, argv[1], e) < 0)
        return -1;
    json_object_seed(0); /* before there are threads */
    j->color = cli_color(stdout) && !j->o.count && !j->o.json;
    return j->o.decode ? tok_decode(j, n - 1, argv + 2, e) : encode(j, n - 1, argv + 2, e);
}

int main(int argc, char **argv)
{
    struct tok_job j = {.o = {.seed = 1, .tries = 100000}};
    struct lm_err e;
    int n = cli_parse(&cmd, argc, argv, &j.o);
    int rc = run(&j, n, argv, &e);

    if (rc < 0)
        rc = cli_fail(&e);
    free(j.frame);
    free(j.o.files.items);
    lm_tokenizer_free(j.t);
    lm_vocab_free(j.v);
    return cli_finish(rc);
}
