/* lm-vocab: the vocabulary of a checkpoint, piece by piece, in numbers, or
 * against another. */
#include <stdlib.h>
#include <unistd.h>

#include "cmd/vocab.h"
#include "convert/vocab_files.h"

static const char *const forms[] = {"tsv", "llama.cpp", NULL};

#define AT(f) offsetof(struct vocab_options, f)
static const struct cli_opt opts[] = {
    {"id", 0, CLI_UINT64, "N", AT(id), "Only this id (with --merges: this rank).", NULL},
    {"find", 0, CLI_STRING, "TEXT", AT(find),
     "Only the piece that is stored so, or else those that stand for this text; exit code 1 if there is none.", NULL},
    {"regex", 0, CLI_STRING, "RE", AT(regex),
     "Only pieces whose text matches (PCRE2, with Unicode; spaces are spaces); exit code 1 if there is none.", NULL},
    {"merges", 0, CLI_FLAG, NULL, AT(merges), "The merges instead of the pieces.", NULL},
    {"stats", 0, CLI_FLAG, NULL, AT(stats), "Kinds, lengths, scripts, duplicates, pieces that no text gives.", NULL},
    {"diff", 0, CLI_FLAG, NULL, AT(diff), "What differs between two vocabularies; exit code 1 if anything does.", NULL},
    {"all", 0, CLI_FLAG, NULL, AT(all), "With --diff, all lines instead of 20 of each kind.", NULL},
    {"form", 0, CLI_CHOICE, NULL, AT(form), "How a piece is printed (default: tsv).", forms},
    {"json", 0, CLI_FLAG, NULL, AT(json), "Print JSON.", NULL},
    {"encoding", 0, CLI_STRING, "NAME", AT(rank_file.encoding), "Of a .tiktoken file: cl100k_base, o200k_base, gpt2, "
     "llama3 ... (default: by its name and size).", NULL},
    {"pattern", 0, CLI_STRING, "RE", AT(rank_file.pattern), "The regex that splits words, for a .tiktoken file that no "
     "encoding fits.", NULL},
    {"to", 0, CLI_STRING, "PATH", AT(to), "Write NAME.tiktoken, NAME.txt (one piece a line), or else a folder with "
     "vocab.json and merges.txt.", NULL},
    {"force", 0, CLI_FLAG, NULL, AT(force), "Let --to replace files.", NULL},
    {0},
};

static const struct cli_cmd cmd = {
    .name = "lm-vocab",
    .brief = "show the vocabulary of a model, its statistics, or how two differ",
    .synopsis = "MODEL [OTHER]",
    .about = "MODEL is a checkpoint, its directory, or a tokenizer file.\n\n"
             "One line a piece: id, piece, kind, and its score (SentencePiece) or the rank of the merge that makes it "
             "(- if none does), separated by tabs unless shown on a terminal. The piece is as stored: U+2581 stands for "
             "a space in SentencePiece, other letters stand for bytes in byte-level BPE. A backslash is written \\\\ and "
             "every byte that cannot be shown \\xNN, so the bytes can be recovered exactly. --form llama.cpp prints the "
             "text that a piece stands for.\n\n"
             "--merges: rank, left, right, id of the result.\n\n"
             "--stats: a piece is unreachable when the text it stands for, alone or behind other text, never gives it. "
             "Scripts are those of Unicode.\n\n"
             "--diff MODEL OTHER: pieces are matched by their text: removed, added, moved to another id, with another "
             "kind, score or flag; merges; settings.\n\n"
             "--json: an object with algorithm, source, n_pieces, n_merges, bos_id, eos_id, unk_id, pad_id (null if "
             "none), add_bos, add_eos, pre, and either pieces (objects with id, piece, kind, score or rank, special, "
             "added) or merges (objects with rank, left, right, result); with --stats kinds, n_single_bytes, "
             "mean_bytes, mean_chars, n_of_length, scripts (name n), duplicates, unreachable, n_partial, longest, tokens; with "
             "--diff equal, a, b, counts, pieces, merges, settings.",
    .opts = opts,
    .examples = "  $ lm-vocab model.gguf | grep kot\n"
                "  $ lm-vocab tokenizer.model --find ' pan'\n"
                "  $ lm-vocab model/ --regex '^ ?[0-9]+$'\n"
                "  $ lm-vocab model/ --merges --id 0\n"
                "  $ lm-vocab model.gguf --stats\n"
                "  $ lm-vocab --diff base/ tuned/\n"
                "  $ lm-vocab model.gguf --to cl.tiktoken",
    .min_args = 1,
    .max_args = 2,
};

static int rank_pieces(struct vocab_job *j, struct lm_err *e)
{
    j->ranks = malloc((j->v->n_pieces + 1) * sizeof *j->ranks);
    if (!j->ranks)
        return lm_err_set(e, LM_NOMEM, "no memory for %zu pieces", j->v->n_pieces);
    memset(j->ranks, 0xff, j->v->n_pieces * sizeof *j->ranks);
    for (size_t i = j->v->n_merges; i-- > 0;)
        j->ranks[j->v->merges[i].result] = (uint32_t)i;
    return 0;
}

static int write_files(struct vocab_job *j, struct lm_err *e)
{
    const char *what;

    if (vocab_need_tokenizer(j, e) < 0 || lm_vocab_write(j->v, j->t, j->o->to, j->o->force, &what, e) < 0)
        return -1;
    cli_note("%s: wrote %s (%s)", cli_name(), j->o->to, what);
    if (j->v->pre_pattern.size && strcmp(j->v->pre, "gpt-2") != 0)
        cli_note("%s: such files do not say how a text is split into words; the pattern of this vocabulary is that of %s",
                 cli_name(), j->v->pre[0] ? j->v->pre : "no model known by name");
    return CLI_OK;
}

static int check_options(const struct vocab_options *o, int n, struct lm_err *e)
{
    int n_jobs = o->stats + o->diff + (o->to != NULL) + (o->find || o->regex || o->id != VOCAB_NO_ID || o->merges);

    if (n_jobs > 1)
        return lm_err_set(e, LM_USAGE, "--stats, --diff, --to and looking up exclude each other");
    if ((o->find != NULL) + (o->regex != NULL) + (o->id != VOCAB_NO_ID) > 1)
        return lm_err_set(e, LM_USAGE, "--id, --find and --regex exclude each other");
    if (o->merges && (o->find || o->regex))
        return lm_err_set(e, LM_USAGE, "--find and --regex look for pieces, not merges");
    if (o->diff != (n == 2))
        return lm_err_set(e, LM_USAGE, o->diff ? "--diff takes two models" : "two models given; --diff compares them");
    if (o->form != VOCAB_TSV && (o->json || o->merges))
        return lm_err_set(e, LM_USAGE, "--form goes with neither --json nor --merges");
    return 0;
}

static int run(struct vocab_job *j, char **argv, struct lm_err *e)
{
    if (j->o->diff)
        return vocab_diff(j, argv[1], argv[2], e);
    if (rank_pieces(j, e) < 0)
        return -1;
    return j->o->stats ? vocab_stats(j, e) : j->o->to ? write_files(j, e) : vocab_list(j, e);
}

int main(int argc, char **argv)
{
    struct vocab_options o = {.id = VOCAB_NO_ID};
    struct vocab_job j = {.o = &o};
    struct lm_vocab *v = NULL;
    struct lm_err e;
    int n = cli_parse(&cmd, argc, argv, &o);
    int rc = check_options(&o, n, &e);

    if (rc == 0)
        rc = lm_vocab_open_with(&v, argv[1], &o.rank_file, &e);
    j.v = v;
    j.terminal = isatty(1);
    if (rc == 0)
        rc = run(&j, argv, &e);
    if (rc < 0)
        rc = cli_fail(&e);
    lm_tokenizer_free(j.t);
    free(j.ranks);
    free(j.buf);
    free(j.bytes);
    lm_vocab_free(v);
    return cli_finish(rc);
}
