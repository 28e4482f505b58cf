/* What lm-generate shows: text as it comes, or one JSON event a line. */
#include "cmd/generate.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void generate_put_text(const char *s, size_t n)
{
    if (!isatty(1)) {
        fwrite(s, 1, n, stdout);
        return;
    }
    while (n > 0) {
        size_t k = 0;
        while (k < n && s[k] != '\n' && s[k] != '\t')
            k++;
        fputs(cli_safe(lm_span_of(s, k)), stdout);
        if (k < n)
            putchar(s[k++]);
        s += k;
        n -= k;
    }
}

/* Bytes at the end of what was said that may be the beginning of a stop text. */
static size_t held(const struct generation *g)
{
    size_t most = 0;

    for (size_t i = 0; i < g->o.stops.n; i++) {
        const char *stop = g->o.stops.items[i];
        for (size_t k = strlen(stop); k-- > 1;)
            if (k > most && k <= g->n_said && memcmp(g->said + g->n_said - k, stop, k) == 0)
                most = k;
    }
    return most;
}

static int event(json_t *o)
{
    char *line = cli_json_text(o, JSON_COMPACT);

    json_decref(o);
    if (!line)
        return 1;
    puts(line);
    free(line);
    return fflush(stdout) == 0 ? 0 : 1;
}

static json_t *ids_json(const struct lm_ids *l)
{
    json_t *a = json_array();

    for (size_t i = 0; i < l->n; i++)
        json_array_append_new(a, json_integer(l->ids[i]));
    return a;
}

int generate_prompt_out(const struct generation *g)
{
    json_t *o = json_object();

    json_object_set_new(o, "event", json_string("prompt"));
    json_object_set_new(o, "ids", ids_json(&g->prompt));
    if (g->o.chat || g->o.interactive)
        json_object_set_new(o, "text", cli_json_str(lm_span_of(g->text, g->n_text)));
    return event(o);
}

/* ---- log probabilities */

static json_t *alternative(const struct generation *g, int32_t id, double logprob)
{
    json_t *o = json_object();
    uint8_t buf[256];
    size_t n = (size_t)id < g->l.vocab->n_pieces
                   ? lm_tokenizer_piece_bytes(g->l.tok, id, false, true, buf, sizeof buf) : 0;

    json_object_set_new(o, "id", json_integer(id));
    json_object_set_new(o, "text", cli_json_str(lm_span_of(buf, n < sizeof buf ? n : sizeof buf)));
    json_object_set_new(o, "logprob", cli_json_real(logprob));
    return o;
}

/* The k likeliest of the logits, best first. */
static json_t *likeliest(const struct generation *g, size_t k)
{
    uint32_t n = lm_engine_config(g->l.engine)->vocab_size;
    json_t *a = json_array();
    double last = INFINITY;
    int32_t last_id = -1;

    for (size_t i = 0; i < k && i < n; i++) {
        int32_t best = -1;
        for (uint32_t id = 0; id < n; id++) {
            float x = g->logits[id];
            bool later = (double)x < last || ((double)x == last && (int32_t)id > last_id);
            if (later && (best < 0 || x > g->logits[best]))
                best = (int32_t)id;
        }
        if (best < 0)
            break;
        last = (double)g->logits[best];
        last_id = best;
        json_array_append_new(a, alternative(g, best, lm_log_softmax_at(g->logits, n, (size_t)best)));
    }
    return a;
}

static int token_event(struct generation *g, int32_t id, const char *text, size_t n)
{
    json_t *o = json_object();

    json_object_set_new(o, "event", json_string("token"));
    json_object_set_new(o, "id", json_integer(id));
    json_object_set_new(o, "text", cli_json_str(lm_span_of(text, n)));
    if (g->o.logprobs > 0) {
        uint32_t vocab = lm_engine_config(g->l.engine)->vocab_size;
        json_object_set_new(o, "logprob", cli_json_real(lm_log_softmax_at(g->logits, vocab, (size_t)id)));
        json_object_set_new(o, "likeliest", likeliest(g, (size_t)g->o.logprobs));
    }
    return event(o);
}

/* ---- tokens and the end */

int generate_token_out(struct generation *g, int32_t id, struct lm_err *e)
{
    size_t until = g->n_said - held(g), from = g->n_shown;

    (void)e;
    if (until < from)
        until = from;
    g->n_shown = until;
    if (g->o.json)
        return token_event(g, id, g->said + from, until - from);
    generate_put_text(g->said + from, until - from);
    return fflush(stdout) == 0 ? 0 : 1;
}

int generate_end_out(struct generation *g, struct lm_err *e)
{
    json_t *o;

    (void)e;
    if (!g->o.json) {
        if (g->n_said > g->n_shown)
            generate_put_text(g->said + g->n_shown, g->n_said - g->n_shown);
        return 0;
    }
    o = json_object();
    json_object_set_new(o, "event", json_string("end"));
    json_object_set_new(o, "stopped", json_string(g->stopped));
    json_object_set_new(o, "ids", ids_json(&g->out));
    json_object_set_new(o, "text", cli_json_str(lm_span_of(g->said, g->n_said)));
    event(o);
    return 0;
}

/* Do messages go where the text went, whose line is not ended? */
static bool same_place(void)
{
    struct stat out, err;

    return fstat(1, &out) == 0 && fstat(2, &err) == 0 && out.st_dev == err.st_dev && out.st_ino == err.st_ino;
}

void generate_stats(const struct generation *g)
{
    char device[200];

    if (strcmp(g->stopped, "context") == 0)
        cli_note("%s: stopped because the context of %u positions is full", cli_name(),
                 lm_engine_ctx_len(g->l.engine));
    if (g->o.quiet)
        return;
    lm_engine_describe(g->l.engine, device, sizeof device);
    if (!g->o.json && same_place())
        fputc('\n', stderr);
    cli_note("prompt %zu tokens, %.1f tokens/s; generated %zu tokens, %.1f tokens/s; %s", g->n_read,
             g->prompt_seconds > 0 ? (double)g->n_read / g->prompt_seconds : 0, g->out.n,
             g->seconds > 0 ? (double)g->out.n / g->seconds : 0, device);
    if (g->sampling.temperature > 0)
        cli_note("the same text again: --seed %llu", (unsigned long long)g->o.seed);
}
