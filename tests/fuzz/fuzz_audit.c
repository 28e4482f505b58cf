/* A model as strangers give it: audited, hashed, compared with itself, mended.
 *
 *   u16 n, n bytes of config.json, then the file: its first bytes say its name
 *
 * Whatever it is, the audit ends with findings in order, the digest does not
 * depend on threads, nothing differs from itself, and what --fix writes opens
 * and no longer has what was mended. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

#include "convert/audit.h"
#include "convert/diff.h"
#include "convert/hash.h"

static char folder[64], fixed[80];

static const char *in(const char *dir, const char *name)
{
    static char path[4][160];
    static unsigned i;

    snprintf(path[i++ % 4], sizeof path[0], "%s/%s", dir, name);
    return path[(i - 1) % 4];
}

static void put_file(const char *path, const void *data, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    require(fd >= 0 && write(fd, data, n) == (ssize_t)n, "a file in the folder");
    close(fd);
}

static void clean(void)
{
    static const char *const names[] = {"config.json", "model.safetensors", "model.gguf", "pytorch_model.bin", "model.npz",
                                        "model.h5"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        unlink(in(folder, names[i]));
        unlink(in(fixed, names[i]));
    }
}

static void leave(void)
{
    clean();
    rmdir(fixed);
    rmdir(folder);
}

static void make_folder(void)
{
    if (folder[0])
        return;
    strcpy(folder, "/dev/shm/fuzz-XXXXXX");
    if (!mkdtemp(folder)) {
        strcpy(folder, "/tmp/fuzz-XXXXXX");
        require(mkdtemp(folder) != NULL, "a folder");
    }
    snprintf(fixed, sizeof fixed, "%s/fixed", folder);
    atexit(leave);
}

static const char *name_of(const uint8_t *data, size_t n)
{
    if (n >= 4 && memcmp(data, "GGUF", 4) == 0)
        return "model.gguf";
    if (n >= 4 && memcmp(data, "\x89HDF", 4) == 0)
        return "model.h5";
    if (n >= 2 && memcmp(data, "PK", 2) == 0)
        return n % 2 ? "pytorch_model.bin" : "model.npz";
    return n >= 2 && data[0] == 0x80 ? "pytorch_model.bin" : "model.safetensors";
}

static struct lm_audit *audit(const char *path)
{
    struct lm_audit_options o = {.run = {.n_threads = 1}, .vram = 1u << 30};
    struct lm_audit *a = NULL;
    struct lm_err e = {0};

    if (lm_audit_path(&a, path, &o, &e) < 0)
        require(e.code != LM_OK && e.text[0], "a refusal has a reason");
    for (size_t i = 0; a && i < a->n_findings; i++) {
        require(a->findings[i].where && a->findings[i].found && a->findings[i].found[0], "a finding says what");
        require(i == 0 || lm_rule_at(a->findings[i - 1].rule)->severity >= lm_rule_at(a->findings[i].rule)->severity,
                "the worst first");
    }
    return a;
}

static void hash(struct lm_model *m)
{
    struct lm_hash *x = NULL, *y = NULL;
    struct lm_err e = {0};
    int a = lm_hash_model(&x, m, &(struct lm_run_options){.n_threads = 1}, &e);
    int b = lm_hash_model(&y, m, &(struct lm_run_options){.n_threads = 2}, &e);

    require(a == b && (a < 0 || lm_digest_eq(&x->model, &y->model)), "one digest");
    lm_hash_free(x);
    lm_hash_free(y);
}

/* Types whose values cannot be computed are compared as bytes. */
static void diff(struct lm_model *m)
{
    struct lm_diff *d = NULL;
    struct lm_err e = {0};

    if (lm_diff_models(&d, m, m, &(struct lm_run_options){.n_threads = 1}, &e) < 0) {
        require(e.code != LM_OK && e.text[0], "a refusal has a reason");
        return;
    }
    require(d->n_of[LM_DIFF_SAME] == d->n_tensors, "nothing differs from itself");
    lm_diff_free(d);
}

static size_t count(const struct lm_audit *a, bool fixable)
{
    size_t n = 0;

    for (size_t i = 0; i < a->n_findings; i++)
        n += lm_rule_at(a->findings[i].rule)->fixable == fixable;
    return n;
}

static void fix(const struct lm_audit *a, bool gguf)
{
    const char *to = gguf ? in(fixed, "model.gguf") : fixed;
    size_t n = 0;

    mkdir(fixed, 0700);
    if (!a->m || lm_audit_fix(a, to, true, &n, NULL) < 0)
        return;
    struct lm_audit *b = audit(to);
    require(b && b->m && b->n_tensors == a->n_tensors, "what is mended opens");
    require(n == 0 || count(b, true) < count(a, true), "what is mended is gone");
    lm_audit_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t n = lm_load_u16le(data), rest = size - 2;
    n = n < rest ? n : rest;
    const uint8_t *file = data + 2 + n;
    const char *name = name_of(file, rest - n);

    make_folder();
    clean();
    if (n > 0)
        put_file(in(folder, "config.json"), data + 2, n);
    put_file(in(folder, name), file, rest - n);
    const char *path = strcmp(name, "model.gguf") == 0 ? in(folder, name) : folder;
    struct lm_audit *a = audit(path);
    if (a && a->m) {
        hash(a->m);
        diff(a->m);
        fix(a, strcmp(name, "model.gguf") == 0);
    }
    lm_audit_free(a);
    return 0;
}
