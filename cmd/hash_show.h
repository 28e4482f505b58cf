/* Between the files of lm-hash. */
#ifndef CMD_HASH_SHOW_H
#define CMD_HASH_SHOW_H

/* The table of canonical names, as in the README: a line "= FAMILY: model types"
 * for each family, then "HUGGING-FACE GGUF HOW [families]" for each tensor. */
void hash_print_names(void);

#endif
