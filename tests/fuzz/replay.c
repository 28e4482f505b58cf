/* Runs a fuzz target without a fuzzer: over every file named, and every file in
 * every folder named.  The target aborts when something is wrong. */
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t n_files;

static int replay(const char *path, const struct stat *s, int flag, struct FTW *ftw)
{
    (void)ftw;
    if (flag != FTW_F)
        return 0;
    FILE *f = fopen(path, "rb");
    size_t size = (size_t)s->st_size;
    uint8_t *data = malloc(size + 1); /* exactly as large as the input for a sanitizer, but for the empty one */
    if (!f || !data || fread(data, 1, size, f) != size) {
        perror(path);
        exit(1);
    }
    fclose(f);
    uint8_t *exact = size ? realloc(data, size) : data;
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    n_files++;
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (nftw(argv[i], replay, 16, FTW_PHYS) != 0) {
            perror(argv[i]);
            return 1;
        }
    }
    printf("%zu inputs replayed\n", n_files);
    return n_files ? 0 : 1;
}
