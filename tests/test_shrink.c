/* A file that becomes shorter while a command reads it: exit code 3 and a
 * sentence, never a signal, and nothing is left where the result would be. */
#include "tests/commands.h"

#include <dirent.h>
#include <time.h>

/* A safetensors file of many tensors in a sparse file, so that it is large at once. */
static void make_model(const char *path, size_t n_tensors, size_t n_bytes)
{
    struct bytes h = {0}, b = {0};

    put_text(&h, "{");
    for (size_t i = 0; i < n_tensors; i++) {
        char one[160];
        snprintf(one, sizeof one, "%s\"layers.%zu.weight\":{\"dtype\":\"F32\",\"shape\":[%zu],\"data_offsets\":[%zu,%zu]}",
                 i ? "," : "", i, n_bytes / 4, i * n_bytes, (i + 1) * n_bytes);
        put_text(&h, one);
    }
    put_text(&h, "}");
    put_u64(&b, h.n);
    put(&b, h.data, h.n);
    write_file(path, b.data, b.n);
    assert_int_equal(truncate(path, (off_t)(b.n + n_tensors * n_bytes)), 0);
    bytes_free(&h);
    bytes_free(&b);
}

static bool has_mapped(pid_t pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *f = fopen(path, "r");
    char line[600];
    bool found = false;

    while (f && !found && fgets(line, sizeof line, f))
        found = strstr(line, name) != NULL;
    if (f)
        fclose(f);
    return found;
}

static bool is_over(pid_t pid)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

/* Cuts the file as soon as the program has it mapped, with the program stopped
 * meanwhile, and again `later` steps of a millisecond after. False: it was over
 * before. */
static bool cut_under(pid_t pid, const char *path, off_t to, int later)
{
    const struct timespec step = {0, 1000000 / 4}, ms = {0, 1000000};

    for (int i = 0; i < 40000 && !has_mapped(pid, "victim"); i++) {
        if (is_over(pid))
            return false;
        nanosleep(&step, NULL);
    }
    for (int i = 0; i < later; i++)
        nanosleep(&ms, NULL);
    kill(pid, SIGSTOP);
    if (is_over(pid))
        return false;
    assert_int_equal(truncate(path, to), 0);
    kill(pid, SIGCONT);
    return true;
}

static size_t n_entries(const char *folder)
{
    DIR *d = opendir(folder);
    size_t n = 0;

    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));)
        n += strcmp(x->d_name, ".") != 0 && strcmp(x->d_name, "..") != 0;
    closedir(d);
    return n;
}

static bool says_so(const char *text)
{
    static const char *const ways[] = {"changed", "became shorter", "cut short", "modified"};

    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
        if (strstr(text, ways[i]))
            return true;
    return false;
}

static const struct { const char *words[8]; size_t n_tensors, n_bytes; } runs[] = {
    {{"lm-hash", "@"}, 64, 4 << 20},
    {{"lm-convert", "--allow-unknown", "@", "^/x.gguf"}, 64, 4 << 20},
    {{"lm-convert", "--dtype", "f16", "--allow-unknown", "@", "^/y.safetensors"}, 64, 4 << 20},
    {{"lm-audit", "@"}, 64, 4 << 20},
    {{"lm-diff", "@", "@"}, 64, 4 << 20},
    {{"lm-list", "@"}, 60000, 4},
};

static void never_a_signal(void **state)
{
    (void)state;
    const char *victim = path_in(dir, "victim.safetensors"), *target = path_in(dir, "target");
    char at[128], to[128];
    size_t n_cut = 0, n_noticed = 0;

    snprintf(at, sizeof at, "%s", victim);
    mkdir(target, 0777);
    snprintf(to, sizeof to, "%s", target);
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++)
        for (int later = 0; later <= 16; later += 8)
            for (int much = 0; much < 2; much++) {
                const char *argv[10] = {NULL};
                char made[8][600];
                make_model(at, runs[i].n_tensors, runs[i].n_bytes);
                argv[0] = command_path(runs[i].words[0]);
                for (size_t k = 1; runs[i].words[k]; k++) {
                    const char *w = runs[i].words[k];
                    snprintf(made[k], sizeof made[k], "%s%s", w[0] == '@' ? at : w[0] == '^' ? to : w, w[0] == '^' ? w + 1 : "");
                    argv[k] = made[k];
                }
                pid_t pid = command_begin(argv, dir);
                bool cut = cut_under(pid, at, much ? 4096 : (off_t)(runs[i].n_tensors * runs[i].n_bytes / 2), later);
                struct output o = command_end(pid, dir);
                /* It may have had all it wanted by then. */
                if (o.code < 0 || (o.code != 3 && (cut && o.code != 0 && o.code != 1)))
                    fail_msg("%s ended with %d: %s", runs[i].words[0], o.code, o.err.data);
                if (o.code == 3 && !says_so((const char *)o.err.data))
                    fail_msg("%s says: %s", runs[i].words[0], o.err.data);
                if (o.code == 3)
                    assert_int_equal(n_entries(to), 0);
                n_cut += cut;
                n_noticed += o.code == 3;
                output_free(&o);
                unlink(path_in(to, "x.gguf"));
                unlink(path_in(to, "y.safetensors"));
            }
    print_message("%zu runs whose file was cut, %zu of them ended with an error\n", n_cut, n_noticed);
    assert_true(n_noticed >= 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(never_a_signal)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
