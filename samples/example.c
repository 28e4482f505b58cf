/* Names, types and sizes of the tensors of a checkpoint, whatever its container:
 *
 *   cc -o example example.c $(pkg-config --cflags --libs libmodel)
 *   ./example MODEL
 */
#include <stdio.h>

#include <libmodel/libmodel.h>

int main(int argc, char **argv)
{
    struct lm_err e = {0};
    struct lm_model *m;
    unsigned long long n_params = 0;

    if (argc != 2 || lm_model_open(&m, argv[1], &e)) {
        fprintf(stderr, "%s\n", argc == 2 ? e.text : "usage: example MODEL");
        return 1;
    }
    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        char shape[128];
        printf("%s %s %s\n", t->name, lm_dtype_name(t->dtype), lm_tensor_shape_str(t, shape, sizeof shape));
        n_params += t->n_elems;
    }
    printf("%s: %zu tensors, %llu parameters\n", lm_model_format(m)->title, lm_model_n_tensors(m), n_params);
    lm_model_close(m);
    return 0;
}
