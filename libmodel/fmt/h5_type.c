/* HDF5's datatypes and storage properties, as words and as ours.
 *
 *   integers 1, 2, 4, 8 bytes; floats by their bit fields: F64 F32 F16 BF16;
 *   a byte enum FALSE = 0, TRUE = 1 (h5py): BOOL; compound r, i of floats: C64;
 *   opaque 2 bytes: BF16 (Keras, with an attribute dtype = "bfloat16");
 *   opaque with the tag of a type of ours ("F8_E4M3"): that type */
#include "libmodel/fmt/h5_lib.h"

#include <stdio.h>

enum { DEFLATE = H5Z_FILTER_DEFLATE, SHUFFLE = H5Z_FILTER_SHUFFLE, FLETCHER32 = H5Z_FILTER_FLETCHER32 };

/* ---- elements */

static const struct {
    enum lm_dtype d;
    size_t size, sign, exp_at, n_exp, n_mant, bias;
} floats[] = {
    {LM_F64, 8, 63, 52, 11, 52, 1023},
    {LM_F32, 4, 31, 23, 8, 23, 127},
    {LM_F16, 2, 15, 10, 5, 10, 15},
    {LM_BF16, 2, 15, 7, 8, 7, 127},
};
enum { N_FLOATS = sizeof floats / sizeof floats[0] };

static int float_dtype(hid_t t, enum lm_dtype *d)
{
    size_t sign, exp_at, n_exp, mant_at, n_mant;

    if (H5Tget_fields(t, &sign, &exp_at, &n_exp, &mant_at, &n_mant) < 0 || H5Tget_offset(t) != 0)
        return 0;
    for (size_t i = 0; i < N_FLOATS; i++) {
        if (H5Tget_size(t) != floats[i].size || H5Tget_precision(t) != 8 * floats[i].size || sign != floats[i].sign ||
            exp_at != floats[i].exp_at || n_exp != floats[i].n_exp || mant_at != 0 || n_mant != floats[i].n_mant ||
            H5Tget_ebias(t) != floats[i].bias || H5Tget_norm(t) != H5T_NORM_IMPLIED)
            continue;
        *d = floats[i].d;
        return 1;
    }
    return 0;
}

static int int_dtype(hid_t t, enum lm_dtype *d)
{
    static const enum lm_dtype of[2][4] = {{LM_U8, LM_U16, LM_U32, LM_U64}, {LM_I8, LM_I16, LM_I32, LM_I64}};
    size_t size = H5Tget_size(t);
    int width = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : size == 8 ? 3 : -1;
    H5T_sign_t sign = H5Tget_sign(t);

    if (width < 0 || H5Tget_precision(t) != 8 * size || H5Tget_offset(t) != 0 || (sign != H5T_SGN_NONE && sign != H5T_SGN_2))
        return 0;
    *d = of[sign == H5T_SGN_2][width];
    return 1;
}

static bool is_member(hid_t t, unsigned i, const char *name)
{
    char *s = H5Tget_member_name(t, i);
    bool same = s && strcmp(s, name) == 0;

    H5free_memory(s);
    return same;
}

static int enum_dtype(hid_t t, enum lm_dtype *d)
{
    int8_t no = -1, yes = -1;

    if (H5Tget_size(t) != 1 || H5Tget_nmembers(t) != 2 || !is_member(t, 0, "FALSE") || !is_member(t, 1, "TRUE") ||
        H5Tget_member_value(t, 0, &no) < 0 || H5Tget_member_value(t, 1, &yes) < 0 || no != 0 || yes != 1)
        return 0;
    *d = LM_BOOL;
    return 1;
}

/* Complex numbers, as h5py stores them. */
static int compound_dtype(hid_t t, enum lm_dtype *d, H5T_order_t *order)
{
    enum lm_dtype part[2] = {LM_I8, LM_I8};

    if (H5Tget_size(t) != 8 || H5Tget_nmembers(t) != 2 || !is_member(t, 0, "r") || !is_member(t, 1, "i"))
        return 0;
    for (unsigned i = 0; i < 2; i++) {
        hid_t m = H5Tget_member_type(t, i);
        bool fits = m >= 0 && H5Tget_class(m) == H5T_FLOAT && float_dtype(m, &part[i]) && part[i] == LM_F32 &&
                    H5Tget_member_offset(t, i) == 4 * (size_t)i;
        H5T_order_t o = m >= 0 ? H5Tget_order(m) : H5T_ORDER_ERROR;
        if (m >= 0)
            H5Tclose(m);
        if (!fits || (i == 1 && o != *order))
            return 0;
        *order = o;
    }
    *d = LM_C64;
    return 1;
}

/* The attribute dtype of a dataset, when it is a short string. */
static bool said_dtype(hid_t dataset, char *buf, size_t size)
{
    bool got = false;

    memset(buf, 0, size);
    if (H5Aexists(dataset, "dtype") <= 0)
        return false;
    hid_t a = H5Aopen(dataset, "dtype", H5P_DEFAULT), t = a < 0 ? -1 : H5Aget_type(a);
    if (t >= 0 && H5Tget_class(t) == H5T_STRING && H5Aget_storage_size(a) <= 64) {
        char *s = NULL;
        if (H5Tis_variable_str(t) > 0 && H5Aread(a, t, &s) >= 0 && s)
            snprintf(buf, size, "%s", s);
        else if (H5Tis_variable_str(t) == 0 && H5Tget_size(t) < size)
            H5Aread(a, t, buf);
        H5free_memory(s);
        got = buf[0] != 0;
    }
    if (t >= 0)
        H5Tclose(t);
    if (a >= 0)
        H5Aclose(a);
    return got;
}

static int opaque_dtype(hid_t dataset, hid_t t, enum lm_dtype *d)
{
    char *tag = H5Tget_tag(t), said[32];
    int found = tag ? lm_dtype_find(tag) : -1;

    H5free_memory(tag);
    if (found >= 0 && lm_dtype_info((enum lm_dtype)found)->block_elems == 1 &&
        lm_dtype_info((enum lm_dtype)found)->block_bytes == H5Tget_size(t)) {
        *d = (enum lm_dtype)found;
        return 1;
    }
    if (H5Tget_size(t) != 2 || (said_dtype(dataset, said, sizeof said) && strcmp(said, "bfloat16") != 0))
        return 0;
    *d = LM_BF16;
    return 1;
}

static void describe(hid_t t, char *why, size_t size)
{
    size_t n = H5Tget_size(t);

    switch (H5Tget_class(t)) {
    case H5T_STRING:
        snprintf(why, size, "text");
        break;
    case H5T_COMPOUND:
        snprintf(why, size, "records of %d fields (compound, %zu bytes each)", H5Tget_nmembers(t), n);
        break;
    case H5T_ENUM:
        snprintf(why, size, "an enumeration of %d names", H5Tget_nmembers(t));
        break;
    case H5T_OPAQUE:
        snprintf(why, size, "raw bytes (opaque, %zu bytes each)", n);
        break;
    case H5T_VLEN:
        snprintf(why, size, "lists of different lengths");
        break;
    case H5T_ARRAY:
        snprintf(why, size, "arrays as elements (%zu bytes each)", n);
        break;
    case H5T_REFERENCE:
        snprintf(why, size, "references to other objects");
        break;
    case H5T_BITFIELD:
        snprintf(why, size, "bit fields of %zu bytes", n);
        break;
    case H5T_FLOAT:
        snprintf(why, size, "floats of %zu bits in an unusual form", 8 * n);
        break;
    case H5T_INTEGER:
        snprintf(why, size, "integers of %zu bits in an unusual form", 8 * n);
        break;
    default:
        snprintf(why, size, "a type that is not handled");
    }
}

int lmi_h5_dtype(hid_t dataset, hid_t t, enum lm_dtype *d, bool *big_endian, char *why, size_t size)
{
    H5T_class_t c = H5Tget_class(t);
    H5T_order_t order = H5T_ORDER_LE;
    int ours = 0;

    if (c == H5T_FLOAT || c == H5T_INTEGER)
        order = H5Tget_order(t);
    if (c == H5T_FLOAT)
        ours = float_dtype(t, d);
    else if (c == H5T_INTEGER)
        ours = int_dtype(t, d);
    else if (c == H5T_ENUM)
        ours = enum_dtype(t, d);
    else if (c == H5T_COMPOUND)
        ours = compound_dtype(t, d, &order);
    else if (c == H5T_OPAQUE)
        ours = opaque_dtype(dataset, t, d);
    if (ours && order != H5T_ORDER_LE && order != H5T_ORDER_BE)
        ours = 0;
    if (!ours)
        describe(t, why, size);
    *big_endian = order == H5T_ORDER_BE && ours && lm_dtype_info(*d)->block_bytes > 1;
    return ours;
}

/* ---- storage */

static int check_filters(hid_t plist, char *why, size_t size)
{
    int n = H5Pget_nfilters(plist);

    for (int i = 0; i < n; i++) {
        unsigned flags, config;
        size_t n_values = 0;
        char name[64] = "";
        H5Z_filter_t id = H5Pget_filter2(plist, (unsigned)i, &flags, &n_values, NULL, sizeof name - 1, name, &config);
        if (id == DEFLATE || id == SHUFFLE || id == FLETCHER32)
            continue;
        snprintf(why, size, "compressed by filter %d%s%s%s; only deflate, shuffle and fletcher32 are read", (int)id,
                 *name ? " (" : "", name, *name ? ")" : "");
        return 0;
    }
    return n < 0 ? snprintf(why, size, "its filters cannot be read"), 0 : 1;
}

static int check_plist(hid_t dataset, hid_t plist, bool *contiguous, uint64_t *offset, char *why, size_t size)
{
    H5D_layout_t layout = H5Pget_layout(plist);

    *contiguous = false;
    if (layout == H5D_VIRTUAL) {
        snprintf(why, size, "a virtual dataset: its data are in other files, which are not opened");
        return 0;
    }
    if (layout != H5D_COMPACT && layout != H5D_CONTIGUOUS && layout != H5D_CHUNKED) {
        snprintf(why, size, "its layout cannot be read");
        return 0;
    }
    if (layout == H5D_CONTIGUOUS && H5Pget_external_count(plist) != 0) {
        char name[200] = "";
        H5Pget_external(plist, 0, sizeof name - 1, name, NULL, NULL);
        snprintf(why, size, "external storage: its data are in the file '%s', which is not opened", name);
        return 0;
    }
    if (layout == H5D_CHUNKED)
        return check_filters(plist, why, size);
    haddr_t at = H5Dget_offset(dataset);
    /* Behind a user block libhdf5 1.10 gives unwritten data an address too. */
    *contiguous = layout == H5D_CONTIGUOUS && at != HADDR_UNDEF && H5Dget_storage_size(dataset) > 0;
    *offset = *contiguous ? at : 0;
    return 1;
}

int lmi_h5_storage(hid_t dataset, bool *contiguous, uint64_t *offset, char *why, size_t size)
{
    hid_t plist = H5Dget_create_plist(dataset);
    int rc = 0;

    if (plist < 0)
        snprintf(why, size, "its properties cannot be read");
    else
        rc = check_plist(dataset, plist, contiguous, offset, why, size);
    if (plist >= 0)
        H5Pclose(plist);
    return rc;
}

/* ---- writing */

static hid_t bool_type(void)
{
    hid_t t = H5Tenum_create(H5T_STD_I8LE);
    int8_t no = 0, yes = 1;

    if (t >= 0 && H5Tenum_insert(t, "FALSE", &no) >= 0 && H5Tenum_insert(t, "TRUE", &yes) >= 0)
        return t;
    return -1;
}

/* h5py reads it as float32, value for value. */
static hid_t bf16_type(void)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);

    if (t >= 0 && H5Tset_fields(t, 15, 7, 8, 0, 7) >= 0 && H5Tset_size(t, 2) >= 0 && H5Tset_ebias(t, 127) >= 0)
        return t;
    return -1;
}

static hid_t f16_type(void)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);

    if (t >= 0 && H5Tset_fields(t, 15, 10, 5, 0, 10) >= 0 && H5Tset_size(t, 2) >= 0 && H5Tset_ebias(t, 15) >= 0)
        return t;
    return -1;
}

static hid_t complex_type(void)
{
    hid_t t = H5Tcreate(H5T_COMPOUND, 8);

    if (t >= 0 && H5Tinsert(t, "r", 0, H5T_IEEE_F32LE) >= 0 && H5Tinsert(t, "i", 4, H5T_IEEE_F32LE) >= 0)
        return t;
    return -1;
}

static hid_t opaque_type(enum lm_dtype d)
{
    const struct lm_dtype_info *info = lm_dtype_info(d);
    hid_t t = info->block_elems == 1 && info->kind != LM_KIND_QUANT ? H5Tcreate(H5T_OPAQUE, info->block_bytes) : -1;

    return t >= 0 && H5Tset_tag(t, info->name) >= 0 ? t : -1;
}

hid_t lmi_h5_keras_bf16(void)
{
    return H5Tcreate(H5T_OPAQUE, 2);
}

hid_t lmi_h5_type_of(enum lm_dtype d)
{
    switch (d) {
    case LM_F64: return H5Tcopy(H5T_IEEE_F64LE);
    case LM_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case LM_F16: return f16_type();
    case LM_BF16: return bf16_type();
    case LM_I64: return H5Tcopy(H5T_STD_I64LE);
    case LM_I32: return H5Tcopy(H5T_STD_I32LE);
    case LM_I16: return H5Tcopy(H5T_STD_I16LE);
    case LM_I8: return H5Tcopy(H5T_STD_I8LE);
    case LM_U64: return H5Tcopy(H5T_STD_U64LE);
    case LM_U32: return H5Tcopy(H5T_STD_U32LE);
    case LM_U16: return H5Tcopy(H5T_STD_U16LE);
    case LM_U8: return H5Tcopy(H5T_STD_U8LE);
    case LM_BOOL: return bool_type();
    case LM_C64: return complex_type();
    default: return opaque_type(d);
    }
}
