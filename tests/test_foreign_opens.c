/* Which files are opened, as strace sees it: the model's own, its small files
 * beside it, and nothing that a file names elsewhere. */
#include "tests/commands.h"
#include "tests/mutate.h"
#include "tests/zips.h"

#define MODELS "tests/fixtures/models/"
#define CONTAINERS "tests/fixtures/containers/"

static bool have_strace(void)
{
    const char *const argv[] = {"strace", "-o", "/dev/null", "true", NULL};
    const char *path = getenv("PATH");
    char *dirs = strdup(path ? path : ""), *rest = dirs, *one;
    bool found = false;

    while ((one = strsep(&rest, ":")))
        found |= access(path_in(one, "strace"), X_OK) == 0;
    free(dirs);
    if (!found)
        return false;
    struct output o = command_run(argv, dir);
    found = o.code == 0;
    output_free(&o);
    return found;
}

/* ---- what was opened */

/* The system's: libraries, locales, what OpenMP asks about processors. */
static bool is_the_systems(const char *path)
{
    static const char *const begins[] = {"/lib", "/usr/", "/etc/ld.so", "/proc/", "/sys/", "/dev/", "/etc/localtime",
                                         "/etc/gnutls", "/etc/ssl"};

    for (size_t i = 0; i < sizeof begins / sizeof begins[0]; i++)
        if (strncmp(path, begins[i], strlen(begins[i])) == 0)
            return true;
    return strstr(path, ".so") != NULL;
}

/* Paths of a log's open, openat … and execve lines, from the first that is in
 * the test's folder on; "!" before those that were written. */
static size_t opened(char paths[64][256], const struct bytes *log)
{
    size_t n = 0;
    char *save = NULL, *text = (char *)log->data;

    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *begin = strchr(line, '"'), *end = begin ? strchr(begin + 1, '"') : NULL;
        if (!end || strstr(line, "execve(") || strstr(line, "O_DIRECTORY") || strstr(line, "O_TMPFILE"))
            continue;
        *end = 0;
        if (is_the_systems(begin + 1))
            continue;
        assert_true(n < 64);
        snprintf(paths[n++], 256, "%s%s", strstr(end + 1, "O_CREAT") ? "!" : "", begin + 1);
    }
    return n;
}

static struct output traced(const char *const *words, struct bytes *log)
{
    const char *argv[24] = {"strace", "-f", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2,creat,connect,execve", "-o"};
    size_t n = 8;

    argv[n++] = path_in(dir, "log");
    argv[n++] = command_path(words[0]);
    for (size_t i = 1; words[i]; i++)
        argv[n++] = words[i];
    struct output o = command_run(argv, dir);
    *log = read_back(path_in(dir, "log"));
    if (strstr((const char *)log->data, "connect("))
        fail_msg("%s connects to something", words[0]);
    return o;
}

/* Kinds of tokenizers that are looked for by their name. */
static const char *const tokenizers[] = {"tekken.json", "spiece.model", "vocab.txt", "rwkv_vocab_v20230424.txt",
                                         "sentencepiece.bpe.model",
                                         "tokenizer.tiktoken", "tokenizer.bin"};

/* Every path is `folder`/NAME with a NAME that is allowed or a small file's, or is
 * below `output` or where commands put what they need for a while (TMPDIR). */
static void only(const char *const *words, const char *folder, const char *const *allowed, const char *output)
{
    char paths[64][256], own[128];
    struct bytes log;

    snprintf(own, sizeof own, "%s/own/", dir);
    mkdir(own, 0777);
    setenv("TMPDIR", own, 1);
    struct output o = traced(words, &log);
    size_t n = opened(paths, &log), n_folder = strlen(folder);

    for (size_t i = 0; i < n; i++) {
        const char *p = paths[i], *base = strrchr(p, '/') ? strrchr(p, '/') + 1 : p;
        bool fine = false;
        if (strncmp(p + (p[0] == '!'), own, strlen(own)) == 0)
            continue;
        if (output && (strncmp(p, output, strlen(output)) == 0 || (p[0] == '!' && strncmp(p + 1, output, strlen(output)) == 0)))
            continue;
        bool beside = strncmp(p, folder, n_folder) == 0 && p[n_folder] == '/' && base == p + n_folder + 1;
        for (size_t k = 0; beside && allowed[k]; k++)
            fine |= strcmp(base, allowed[k]) == 0;
        for (size_t k = 0; beside && lm_sidecar_names[k]; k++)
            fine |= strcmp(base, lm_sidecar_names[k]) == 0;
        for (size_t k = 0; beside && k < sizeof tokenizers / sizeof tokenizers[0]; k++)
            fine |= strcmp(base, tokenizers[k]) == 0;
        if (!fine)
            fail_msg("%s opens %s", words[0], p);
    }
    bytes_free(&log);
    output_free(&o);
}

#define REQUIRE_STRACE() \
    do { \
        if (!have_strace()) { \
            print_message("strace is not there or may not trace: which files are opened is not checked\n"); \
            skip(); \
        } \
    } while (0)

/* ---- sound models */

static void a_model_opens_its_own_files(void **state)
{
    (void)state;
    REQUIRE_STRACE();
    static const struct { const char *path, *folder; const char *const own[8]; } models[] = {
        {MODELS "tiny-llama/model.safetensors", MODELS "tiny-llama", {"model.safetensors"}},
        {MODELS "tiny-llama-sharded/model.safetensors.index.json", MODELS "tiny-llama-sharded",
         {"model.safetensors.index.json", "model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors",
          "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors"}},
        {CONTAINERS "plain.pt", CONTAINERS "", {"plain.pt"}},
        {CONTAINERS "legacy.pt", CONTAINERS "", {"legacy.pt"}},
        {CONTAINERS "script.pt", CONTAINERS "", {"script.pt"}},
        {CONTAINERS "stored.npz", CONTAINERS "", {"stored.npz"}},
        {CONTAINERS "plain.npy", CONTAINERS "", {"plain.npy"}},
        {CONTAINERS "meta-2/params.json", CONTAINERS "meta-2", {"params.json", "consolidated.00.pth", "consolidated.01.pth"}},
        {CONTAINERS "mistral-native/params.json", CONTAINERS "mistral-native", {"params.json", "consolidated.safetensors"}},
    };

    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char folder[128];
        snprintf(folder, sizeof folder, "%s", models[i].folder);
        if (folder[strlen(folder) - 1] == '/')
            folder[strlen(folder) - 1] = 0;
        only((const char *const[]){"lm-list", "--meta", models[i].path, NULL}, folder, models[i].own, NULL);
        only((const char *const[]){"lm-hash", models[i].path, NULL}, folder, models[i].own, NULL);
        only((const char *const[]){"lm-convert", "--force", "--allow-unknown", "--to", "safetensors", models[i].path,
                                   path_in(dir, "made/"), NULL}, folder, models[i].own, dir);
    }
}

/* ---- files that name others */

static const char *const elsewhere[] = {
    "../secret.safetensors", "/etc/passwd", "sub/../../secret.safetensors", "./../secret.safetensors", "..", ".",
    "file:///etc/passwd", "http://localhost/x.safetensors", "sub/model.safetensors", "..\\\\secret.safetensors", "C:secret",
    "secret.safetensors/", "//etc/passwd", "model.safetensors\\u0000/../../secret.safetensors", "\\u002e\\u002e/secret.safetensors",
};

static void an_index_names_only_its_own_folder(void **state)
{
    (void)state;
    REQUIRE_STRACE();
    struct mut *x = mut_load(MODELS "tiny-llama");
    char folder[128];

    snprintf(folder, sizeof folder, "%s/hub", dir);
    mut_write(x, "safetensors", folder);
    mut_write_split(x, "safetensors", dir, "secret.safetensors", 0);
    mut_free(x);
    static const char *const own[] = {"model.safetensors", "x.safetensors.index.json", "x.bin.index.json", NULL};
    for (size_t i = 0; i < 2 * (sizeof elsewhere / sizeof elsewhere[0]); i++) {
        char text[300];
        const char *index = i % 2 ? path_in(folder, "x.bin.index.json") : path_in(folder, "x.safetensors.index.json");
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\",\"b\":\"x%s\"}}", elsewhere[i / 2], i % 2 ? ".bin" : ".safetensors");
        write_file(index, text, strlen(text));
        only((const char *const[]){"lm-list", index, NULL}, folder, own, NULL);
    }
}

/* HDF5 has three ways to name other files: links, storage and parts of virtual
 * datasets. The last one's lies beside it here and could be opened. */
static void an_hdf5_file_is_alone(void **state)
{
    (void)state;
    REQUIRE_STRACE();
    static const char *const files[] = {"external-link.h5", "external-storage.h5", "virtual.h5", "lzf.h5"};
    static const char *const commands[][3] = {{"lm-list", "--meta"}, {"lm-list", "--json"}, {"lm-hash"}, {"lm-audit"},
                                              {"lm-vocab"}, {"lm-tokenize"}, {"lm-generate", "-p"}, {"lm-convert", "--force"}};
    char folder[128], source[200], out[128];

    snprintf(folder, sizeof folder, "%s/hdf5", dir);
    snprintf(out, sizeof out, "%s/hdf5-out", dir);
    mkdir(folder, 0777);
    struct bytes beside = read_back("tests/fixtures/hdf5/others.h5");
    write_file(path_in(folder, "others.h5"), beside.data, beside.n);
    bytes_free(&beside);
    setenv("HDF5_PLUGIN_PATH", folder, 1);
    for (size_t i = 0; i < 2 * (sizeof files / sizeof files[0]); i++) {
        struct bytes whole = {0};
        struct member m[3] = {{"metadata.json", {0}}, {"config.json", {0}}, {"model.weights.h5", {0}}};
        char name[64], path[200];
        snprintf(source, sizeof source, "tests/fixtures/hdf5/%s", files[i / 2]);
        m[2].data = read_back(source);
        put_text(&m[0].data, "{\"keras_version\": \"3.0.0\"}");
        put_text(&m[1].data, "{}");
        if (i % 2)
            put_zip(&whole, m, 3, NULL);
        else
            put(&whole, m[2].data.data, m[2].data.n);
        snprintf(name, sizeof name, "%s%s", files[i / 2], i % 2 ? ".keras" : "");
        snprintf(path, sizeof path, "%s/%s", folder, name);
        write_file(path, whole.data, whole.n);
        for (size_t c = 0; c < sizeof commands / sizeof commands[0]; c++) {
            const char *words[6] = {commands[c][0]};
            size_t n = 1;
            if (commands[c][1])
                words[n++] = commands[c][1];
            if (c == 6)
                words[n++] = "text";
            words[n++] = path;
            if (c == 5)
                words[n++] = "text";
            if (c == 7)
                words[n++] = out;
            only(words, folder, (const char *const[]){name, NULL}, out);
        }
        members_free(m, 3);
        bytes_free(&whole);
    }
    unsetenv("HDF5_PLUGIN_PATH");
}

/* Configurations say where code, tokenizers and other models are. Nobody goes there. */
static void a_config_is_data(void **state)
{
    (void)state;
    REQUIRE_STRACE();
    struct mut *x = mut_load(MODELS "tiny-llama");
    char folder[128];

    snprintf(folder, sizeof folder, "%s/config", dir);
    mut_edit(x, "config.json", "{", "{\"_name_or_path\": \"../secret\", \"auto_map\": {\"AutoModel\": \"../evil.py--M\"}, "
             "\"base_model_name_or_path\": \"/etc/passwd\", \"transformers_weights\": \"../secret.safetensors\",");
    mut_side_text(x, "tokenizer_config.json", "{\"tokenizer_file\": \"../secret\", \"vocab_file\": \"/etc/passwd\", "
                  "\"tokenizer_class\": \"../evil\", \"auto_map\": {\"AutoTokenizer\": [\"../evil.T\", null]}}");
    mut_side_text(x, "adapter_config.json", "{\"base_model_name_or_path\": \"../secret\"}");
    mut_side_text(x, "model.py", "import os");
    mut_write(x, "safetensors", folder);
    mut_free(x);
    static const char *const own[] = {"model.safetensors", "adapter_config.json", NULL};
    only((const char *const[]){"lm-list", "--meta", folder, NULL}, folder, own, NULL);
    only((const char *const[]){"lm-vocab", folder, NULL}, folder, own, NULL);
    only((const char *const[]){"lm-convert", folder, path_in(dir, "c.gguf"), NULL}, folder, own, path_in(dir, "c.gguf"));
}

/* The names of the original files, which a GGUF carries, become files again. */
static void carried_names_stay_in_the_folder(void **state)
{
    (void)state;
    REQUIRE_STRACE();
    static const char *const bad[] = {"../evil.safetensors", "/tmp/evil.safetensors", "a/evil.safetensors", ".evil.safetensors"};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mut *x = mut_load(MODELS "tiny-llama");
        struct lm_span name = lm_span_str(bad[i]);
        char folder[128], out[128];
        snprintf(folder, sizeof folder, "%s/gguf%zu", dir, i);
        snprintf(out, sizeof out, "%s/back%zu", dir, i);
        lm_meta_set_str(x->meta, "libmodel.source.header", lm_span_str("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"));
        lm_meta_set_strs(x->meta, "libmodel.source.files", &name, 1);
        lm_meta_set_str(x->meta, "libmodel.source.../../evil", lm_span_str("x"));
        lm_meta_set_str(x->meta, "libmodel.source.config.json", lm_span_str("{}"));
        mut_write_split(x, "gguf", folder, "m.gguf", 0);
        mut_free(x);
        only((const char *const[]){"lm-convert", "--to", "safetensors", path_in(folder, "m.gguf"), out, NULL}, folder,
             (const char *const[]){"m.gguf", NULL}, out);
        assert_int_not_equal(access(path_in(dir, "evil.safetensors"), F_OK), 0);
        assert_int_not_equal(access("/tmp/evil.safetensors", F_OK), 0);
    }
}

/* A shard may be a symbolic link (the Hub's cache is made of those), but what it
 * leads to must be a file. */
static void links_are_followed_to_files_only(void **state)
{
    (void)state;
    struct mut *x = mut_load(MODELS "tiny-llama");
    char folder[128];

    snprintf(folder, sizeof folder, "%s/links", dir);
    mut_write_split(x, "safetensors", path_in(dir, "blobs"), "blob.safetensors", 0);
    mkdir(folder, 0777);
    assert_int_equal(symlink("../blobs/blob.safetensors", path_in(folder, "model.safetensors")), 0);
    write_file(path_in(folder, "config.json"), "{}", 2);
    lm_model_close(open_ok(path_in(folder, "model.safetensors")));
    mut_free(x);
    static const struct { const char *to, *reason; } bad[] = {
        {"/dev/zero", "not a regular file"}, {"..", "no model here"}, {"nowhere.safetensors", "no such file"},
        {"loop.safetensors", "loop.safetensors"}, {"/proc/self/mem", "empty"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct lm_model *m;
        struct lm_err e = {0};
        const char *path = path_in(folder, "loop.safetensors");
        unlink(path);
        assert_int_equal(symlink(bad[i].to, path), 0);
        if (lm_model_open(&m, path, &e) == 0)
            lm_model_close(m); /* ".." may hold a model, by chance */
        else if (!strstr(e.text, bad[i].reason) && i != 1)
            fail_msg("%s: %s", bad[i].to, e.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_opens_its_own_files),      cmocka_unit_test(an_index_names_only_its_own_folder),
        cmocka_unit_test(an_hdf5_file_is_alone),            cmocka_unit_test(a_config_is_data),
        cmocka_unit_test(carried_names_stay_in_the_folder),
        cmocka_unit_test(links_are_followed_to_files_only),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
