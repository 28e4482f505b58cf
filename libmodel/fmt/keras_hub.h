/* Models of keras-hub as data: where each of Hugging Face's tensors lies, and
 * which of its settings is which.  Private to libmodel. */
#ifndef LIBMODEL_FMT_KERAS_HUB_H
#define LIBMODEL_FMT_KERAS_HUB_H

#include <stdbool.h>

/* From a Keras variable to Hugging Face's tensor. Dimensions [0, lead) become
 * one, the rest another; then the two change places if turned. */
enum lmi_hub_turn {
    LMI_HUB_SAME,
    LMI_HUB_FLAT,   /* all dimensions become one */
    LMI_HUB_LEAD_1, /* [a, b…] -> [a, b·…] */
    LMI_HUB_LEAD_2, /* [a, b, c] -> [a·b, c] */
    LMI_HUB_LEAD_1_TURNED,
    LMI_HUB_LEAD_2_TURNED,
    LMI_HUB_HEADS_FIRST /* [heads, in, d_head] -> [heads·d_head, in] */
};

struct lmi_hub_row {
    const char *keras; /* "?query_dense/vars/0": ? is a _ that may be missing */
    const char *hf;    /* "model.layers.#.…": of a layer. Rows in a row with one name are joined along the last dimension */
    enum lmi_hub_turn turn;
    bool optional;
};

/* A setting: Keras' name, Hugging Face's, and what to do with the number. */
struct lmi_hub_key {
    const char *keras, *hf;
    unsigned divide; /* 0: as it is */
};

struct lmi_hub_family {
    const char *class_name; /* of the backbone */
    const char *when;       /* a setting that is true in this family and false in others of the class; or NULL */
    const char *unless;     /* the reverse */
    const char *block;      /* "mistral_transformer_decoder": layer 0; layer 7 is "…_7" */
    const struct lmi_hub_row *rows;
    unsigned n_rows;
    const struct lmi_hub_key *keys;
    unsigned n_keys;
    const char *fixed; /* JSON: what config.json says besides */
};
/* NULL past the end. */
const struct lmi_hub_family *lmi_hub_family_at(unsigned i);
#endif
