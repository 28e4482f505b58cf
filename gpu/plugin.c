/* The cuda backend lives in a shared object of its own, so that every command
 * works on machines without CUDA. */
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "gpu/net.h"

#define PLUGIN "libmodel-cuda.so"
#define SO_VERSION "0" /* SOMAJOR of the Makefile */

static const struct lm_plugin *plugin;
static struct lm_err plugin_err;

static void note_tried(char *tried, size_t size, const char *path)
{
    size_t n = strlen(tried);
    snprintf(tried + n, size - n, "%s%s", n ? ", " : "", path);
}

static const struct lm_plugin *check(void *so, const char *path)
{
    const struct lm_plugin *p = dlsym(so, LM_PLUGIN_SYMBOL);

    if (!p)
        lm_err_set(&plugin_err, LM_UNSUPPORTED, "%s has no symbol " LM_PLUGIN_SYMBOL ": it is not our plugin", path);
    else if (p->abi != LM_BACKEND_ABI)
        lm_err_set(&plugin_err, LM_UNSUPPORTED,
                   "%s speaks version %u of the backend interface, this program version %u: install both from one build",
                   path, p->abi, (unsigned)LM_BACKEND_ABI);
    else
        return p;
    return NULL;
}

/* 1 settled (found, or found and of no use), 0 look further. */
static int try_dir(const char *dir, char *tried, size_t size)
{
    char path[PATH_MAX];
    void *so;

    if (!dir || (size_t)snprintf(path, sizeof path, "%s/" PLUGIN, dir) >= sizeof path)
        return 0;
    if (access(path, F_OK)) {
        note_tried(tried, size, path);
        return 0;
    }
    if (!(so = dlopen(path, RTLD_NOW | RTLD_LOCAL))) {
        lm_err_set(&plugin_err, LM_UNSUPPORTED, "the plugin does not load: %s", dlerror());
        return 1;
    }
    if (!(plugin = check(so, path)))
        dlclose(so);
    return 1;
}

/* LM_PLUGIN_PATH is a list like PATH. */
static int try_list(const char *list, char *tried, size_t size)
{
    char *copy = strdup(list ? list : ""), *rest = copy, *dir;
    int settled = 0;

    while (!settled && copy && (dir = strsep(&rest, ":")))
        settled = *dir && try_dir(dir, tried, size);
    free(copy);
    return settled;
}

static void search(void)
{
    char tried[900] = "", exe[PATH_MAX], installed[PATH_MAX + 64], above[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    const char *dir = NULL;

    if (n > 0) {
        exe[n] = 0;
        dir = dirname(exe);
        snprintf(installed, sizeof installed, "%s/../lib/libmodel/" SO_VERSION, dir);
        snprintf(above, sizeof above, "%s/..", dir); /* tests/ and bench/ of a build folder */
    }
    if (!try_list(getenv("LM_PLUGIN_PATH"), tried, sizeof tried) && !try_dir(dir, tried, sizeof tried) &&
        !try_dir(dir ? installed : NULL, tried, sizeof tried) && !try_dir(dir ? above : NULL, tried, sizeof tried))
        try_dir(LM_LIBDIR, tried, sizeof tried);
    if (!plugin && plugin_err.code == LM_OK)
        lm_err_set(&plugin_err, LM_MISSING, "the plugin " PLUGIN " was not found; tried %s (LM_PLUGIN_PATH names a "
                                            "folder to look in)", tried);
}

const struct lm_plugin *lmi_plugin_cuda(struct lm_err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, search);
    if (!plugin && e)
        *e = plugin_err;
    return plugin;
}
