/* lm-generate: continues a text, or talks. */
#include "cmd/generate.h"

#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

static int choose_seed(struct generation *g, struct lm_err *e)
{
    uint32_t random; /* short enough to be typed again */

    if (g->o.seed == GENERATE_NO_SEED) {
        if (getrandom(&random, sizeof random, 0) < 0)
            return lm_err_errno(e, "cannot get a random seed");
        g->o.seed = random;
    }
    g->sampling.state = g->o.seed;
    return 0;
}

static int check_options(struct generation *g, struct lm_err *e)
{
    struct generate_options *o = &g->o;

    if (o->n < -1)
        return lm_err_set(e, LM_USAGE, "-n is a number of tokens, or -1 for as many as fit, not %d", o->n);
    if (o->temp < 0 || o->top_k < 0 || o->top_p <= 0 || o->top_p > 1 || o->min_p < 0 || o->min_p > 1)
        return lm_err_set(e, LM_USAGE, "--temp and --top-k are 0 or more, --top-p is in (0, 1], --min-p in [0, 1]");
    if (!(o->repeat > 0) || o->window < 0)
        return lm_err_set(e, LM_USAGE, "--repeat-penalty is above 0, --penalty-window 0 or more");
    if (o->logprobs < 0 || o->logprobs > 100 || (o->logprobs && !o->json))
        return lm_err_set(e, LM_USAGE, "--logprobs takes 1 to 100 and goes with --json");
    if (o->system || o->messages || o->template_file || o->template_args.n || o->show_prompt)
        o->chat = true;
    g->sampling = (struct lm_sampling){.temperature = (float)o->temp, .top_k = (uint32_t)o->top_k,
                                       .top_p = (float)o->top_p, .min_p = (float)o->min_p};
    g->penalties = (struct lm_penalties){(float)o->repeat, (float)o->presence, (float)o->frequency, (uint32_t)o->window};
    return choose_seed(g, e);
}

/* As many positions as can be used: the trained context bounds them unless --ctx says more. */
static uint64_t positions(const struct generation *g, const struct lm_config *c)
{
    uint64_t most = c->ctx_len < 4096 ? c->ctx_len : 4096;
    uint64_t need = g->prompt.n + (g->o.n > 0 ? (uint64_t)g->o.n : 1);

    if (g->o.n >= 0 && !g->o.interactive)
        most = need < c->ctx_len ? need : c->ctx_len;
    return most > 0 ? most : 1;
}

static int start(struct generation *g, const char *path, struct lm_err *e)
{
    struct lm_config config;
    const char *why = "no config";
    int found = lm_config_read(&config, g->l.model, &why, e);

    if (found < 0)
        return -1;
    if (found == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "%s cannot be run: %s", path, why);
    if (cli_start(&g->l, &g->o.engine, positions(g, &config), e) != 0)
        return -1;
    g->piece_size = lm_tokenizer_max_bytes(g->l.tok) + 16;
    g->piece = malloc(g->piece_size);
    g->logits = malloc(config.vocab_size * sizeof *g->logits);
    if (!g->piece || !g->logits)
        return lm_err_set(e, LM_NOMEM, "no memory for the logits");
    generate_find_ends(g);
    g->decoder = (struct lm_decoder){.t = g->l.tok, .started = g->n_text > 0};
    return 0;
}

/* ---- one text */

/* What is to be read first: the text itself, or one question of a conversation. */
static int read_input(struct generation *g, struct generate_chat *chat, struct lm_err *e)
{
    bool asked = g->o.prompt || g->o.file || !g->o.messages;

    if (asked && cli_read_text(&g->text, &g->n_text, g->o.prompt, g->o.file, e) != 0)
        return -1;
    if (!chat)
        return cli_encode(&g->l, lm_span_of(g->text, g->n_text), g->o.special ? LM_ENCODE_SPECIAL : 0, &g->prompt, e);
    if (asked && generate_chat_add(chat, "user", lm_span_of(g->text, g->n_text), e) != 0)
        return -1;
    return generate_chat_render(chat, g, e);
}

static int once(struct generation *g, struct generate_chat *chat, const char *path, struct lm_err *e)
{
    if (read_input(g, chat, e) != 0)
        return -1;
    if (g->o.show_prompt) {
        generate_put_text(g->text, g->n_text);
        return 0;
    }
    if (start(g, path, e) != 0)
        return -1;
    cli_catch_signals();
    if (generate_read(g, e) != 0)
        return -1;
    if (g->o.json)
        generate_prompt_out(g);
    else if (g->o.echo)
        generate_put_text(g->text, g->n_text);
    if (generate_go_on(g, e) != 0)
        return -1;
    if (!g->o.json && isatty(1))
        putchar('\n');
    generate_stats(g);
    return 0;
}

static int talk(struct generation *g, struct generate_chat *chat, const char *path, struct lm_err *e)
{
    if (start(g, path, e) != 0)
        return -1;
    cli_catch_signals();
    if (isatty(0) && !g->o.quiet)
        cli_note("%s: /help lists the commands, Ctrl-C ends an answer, Ctrl-D the conversation", path);
    return generate_chat_talk(chat, g, e);
}

static int run(struct generation *g, const char *path, struct lm_err *e)
{
    struct generate_chat *chat = NULL;
    int code = -1;

    if (check_options(g, e) == 0 && cli_load(&g->l, path, true, e) == 0 &&
        ((!g->o.chat && !g->o.interactive) || generate_chat_open(&chat, g, e) == 0))
        code = g->o.interactive ? talk(g, chat, path, e) : once(g, chat, path, e);
    generate_chat_free(chat);
    return code;
}

#define AT(field) offsetof(struct generate_options, field)
static const struct cli_opt opts[] = {
    {"prompt", 'p', CLI_STRING, "TEXT", AT(prompt), "The text to continue; - reads it from standard input.", NULL},
    {"file", 'f', CLI_STRING, "FILE", AT(file), "Take the text from a file, exactly as it is (- for standard input).",
     NULL},
    {"n", 'n', CLI_INT, "N", AT(n), "Tokens to generate at most (default 128); -1: until the text or the context ends.",
     NULL},
    {"interactive", 'i', CLI_FLAG, NULL, AT(interactive), "Talk: each line is a message, answered by the model.", NULL},
    {"chat", 0, CLI_FLAG, NULL, AT(chat), "The text is a message to the model; its chat template is put around it.", NULL},
    {"system", 's', CLI_STRING, "TEXT", AT(system), "The system message that begins the conversation.", NULL},
    {"messages", 0, CLI_STRING, "FILE", AT(messages),
     "The conversation so far: a JSON list of messages, or an object with messages, tools and so on.", NULL},
    {"template", 0, CLI_STRING, "FILE", AT(template_file), "A chat template instead of the checkpoint's.", NULL},
    {"template-arg", 0, CLI_LIST, "NAME=VALUE", AT(template_args), "A variable of the template, JSON or text.", NULL},
    {"show-prompt", 0, CLI_FLAG, NULL, AT(show_prompt), "Print what the template makes of the conversation, and end.", NULL},
    {"stop", 0, CLI_LIST, "TEXT", AT(stops), "End in front of this text; may be given several times.", NULL},
    {"temp", 't', CLI_REAL, "T", AT(temp), "Temperature; 0 (default) always takes the likeliest token.", NULL},
    {"top-k", 0, CLI_INT, "K", AT(top_k), "Sample among the K likeliest; 0 (default): all.", NULL},
    {"top-p", 0, CLI_REAL, "P", AT(top_p), "Sample among the likeliest that make up this probability (default 1).", NULL},
    {"min-p", 0, CLI_REAL, "P", AT(min_p), "Leave out what is less likely than P times the likeliest (default 0).", NULL},
    {"repeat-penalty", 0, CLI_REAL, "X", AT(repeat),
     "Divide the logits of tokens that occurred by X, multiply negative ones (default 1: off), as Hugging Face and "
     "llama.cpp do.", NULL},
    {"presence-penalty", 0, CLI_REAL, "X", AT(presence),
     "Take X off the logits of tokens that occurred, as OpenAI and llama.cpp do.", NULL},
    {"frequency-penalty", 0, CLI_REAL, "X", AT(frequency), "Take X off them for each time they occurred.", NULL},
    {"penalty-window", 0, CLI_INT, "N", AT(window), "Look at the last N tokens only (default 0: all).", NULL},
    {"seed", 0, CLI_UINT64, "N", AT(seed), "Seed of the sampling; the same seed gives the same text (default: random, told).",
     NULL},
    CLI_ENGINE_ROWS(AT(engine)),
    {"math", 0, CLI_CHOICE, NULL, AT(engine.math),
     "Products in f32 (exact) or with rounded activations (fast; tf32 and bf16 on a GPU); auto (default) is fast when "
     "most weights are block-quantized and exact otherwise.", cli_maths},
    {"ctx", 'c', CLI_SIZE, "N", AT(engine.ctx), "Positions to provide for (default: what the text and -n need).", NULL},
    {"shift", 0, CLI_FLAG, NULL, AT(shift),
     "When the context is full, forget the older half of it and go on (the first tokens stay).", NULL},
    {"special", 0, CLI_FLAG, NULL, AT(special), "Read control tokens such as </s> in the text as tokens.", NULL},
    {"ignore-eos", 0, CLI_FLAG, NULL, AT(ignore_eos), "Go on past the token that ends a text.", NULL},
    {"echo", 'e', CLI_FLAG, NULL, AT(echo), "Print the text itself first.", NULL},
    {"quiet", 'q', CLI_FLAG, NULL, AT(quiet), "No speeds on standard error.", NULL},
    {"json", 0, CLI_FLAG, NULL, AT(json), "JSON events on standard output, one a line, as they happen.", NULL},
    {"logprobs", 0, CLI_INT, "K", AT(logprobs), "With --json: each token's log probability and the K likeliest.", NULL},
    {NULL, 0, 0, NULL, 0, NULL, NULL}};

static const struct cli_cmd cmd = {
    .name = "lm-generate",
    .brief = "continue a text with a model, or talk to it",
    .synopsis = "MODEL -p TEXT",
    .about =
        "Prints the continuation of a text, token by token as it comes, in whole characters (bytes that are none become "
        "U+FFFD); then, on standard error, "
        "the speed of reading and of writing and the device. It stops at the model's end-of-text token, in front of a "
        "--stop text, after -n tokens, or when the context is full. Without --temp it is greedy and always gives the "
        "same text.\n"
        "\n"
        "A beginning-of-text token is put in front when the checkpoint asks for it.\n"
        "\n"
        "With -i, --chat or --messages the model's own chat template is rendered, as Hugging Face renders it. What of a "
        "conversation was read before is not read again. When it no longer fits the context, the oldest exchanges are "
        "forgotten, which is said. A template is data: it sees the conversation and nothing else.\n"
        "\n"
        "With --json, objects, one a line: {\"event\": \"prompt\", \"ids\"}; for each token {\"event\": \"token\", \"id\", "
        "\"text\"} (text that has become certain with it) and with --logprobs logprob and likeliest (after the "
        "penalties, before the temperature); then {\"event\": \"end\", \"ids\", \"text\", \"stopped\"} (length, eos, stop, "
        "context or interrupted).\n",
    .opts = opts,
    .examples = "  $ lm-generate model.gguf -p 'Pan Ignacy usiadł przy stole i' -n 48\n"
                "  $ lm-generate model/ -f story.txt -n -1 --temp 0.8 --top-p 0.95 --seed 7\n"
                "  $ lm-generate chat-model.gguf -i --system 'Odpowiadaj krótko.'\n",
    .min_args = 1,
    .max_args = 1};

int main(int argc, char **argv)
{
    struct generation g = {.o = {.n = 128, .top_p = 1, .repeat = 1, .seed = GENERATE_NO_SEED}};
    struct lm_err e;

    cli_parse(&cmd, argc, argv, &g.o);
    int code = run(&g, argv[1], &e) == 0 ? CLI_OK : cli_fail(&e);
    if (g.stopped && strcmp(g.stopped, "interrupted") == 0 && !g.o.interactive)
        code = 130;
    lm_ids_free(&g.prompt);
    lm_ids_free(&g.past);
    lm_ids_free(&g.out);
    free(g.text);
    free(g.said);
    free(g.piece);
    free(g.logits);
    free(g.o.stops.items);
    free(g.o.template_args.items);
    cli_unload(&g.l);
    return cli_finish(code);
}
