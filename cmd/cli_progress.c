/* Progress on stderr: a bar on a terminal, a line every ten seconds off one. */
#include "cmd/cli.h"

#include <unistd.h>

void cli_progress_begin(struct cli_progress *p, const char *label)
{
    *p = (struct cli_progress){.label = label, .began = cli_now(), .on = isatty(2)};
}

static void amount(const struct cli_progress *p, double v, char *buf, size_t size)
{
    if (!p->unit)
        cli_bytes(buf, size, (uint64_t)v);
    else if (v >= 100)
        snprintf(buf, size, "%.0f %s", v, p->unit);
    else
        snprintf(buf, size, "%.3g %s", v, p->unit);
}

static void duration(double s, char *buf, size_t size)
{
    unsigned long long t = s < 1e9 ? (unsigned long long)(s + 0.5) : 1000000000;

    if (t >= 3600)
        snprintf(buf, size, "%llu:%02llu:%02llu", t / 3600, t / 60 % 60, t % 60);
    else
        snprintf(buf, size, "%llu:%02llu", t / 60, t % 60);
}

static void draw_bar(double share)
{
    enum { CELLS = 30 };
    static const char *const part[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    int eighths = (int)(share * CELLS * 8);

    for (int i = 0; i < CELLS; i++, eighths -= 8)
        fputs(eighths >= 8 ? "█" : part[eighths > 0 ? eighths : 0], stderr);
}

void cli_progress(void *user, uint64_t done, uint64_t total)
{
    struct cli_progress *p = user;
    double now = cli_now(), spent = now - p->began;
    double share = total ? (double)done / (double)total : 0;
    char rate[48], left[32], so_far[48], all[48];

    p->total = total;
    if (now - p->shown < (p->on ? 0.1 : 10) || spent < (p->on ? 1 : 10))
        return;
    p->shown = now;
    amount(p, (double)done / spent, rate, sizeof rate);
    duration(share > 0 ? spent / share - spent : 0, left, sizeof left);
    if (p->on) {
        fprintf(stderr, "\r%s ", p->label);
        draw_bar(share > 1 ? 1 : share);
        fprintf(stderr, " %3.0f %%  %s/s  %s left\033[K", 100 * share, rate, left);
    } else {
        amount(p, (double)done, so_far, sizeof so_far);
        amount(p, (double)total, all, sizeof all);
        fprintf(stderr, "%s: %.0f %% (%s of %s), %s/s, %s left\n", p->label, 100 * share, so_far, all, rate, left);
    }
    fflush(stderr);
}

void cli_progress_end(struct cli_progress *p)
{
    if (p->on && p->shown > 0)
        fputs("\r\033[K", stderr);
}
