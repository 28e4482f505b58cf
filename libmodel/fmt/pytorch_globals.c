/* The names of Python that a file of tensors may mention, and what each makes
 * here. All others are refused by the pickle reader, by name. */
#include "libmodel/fmt/pytorch.h"

enum { TYPE = 0xff, UNKNOWN_TYPE = 0xfe, UNTYPED = 0xff, IS_STORAGE = 0x100, IS_DTYPE = 0x200, IS_SCHEME = 0x400,
       QUANTIZED = 0x800 };

static int wrong(struct lmi_unpickler *u, const struct lmi_pk_global *g, const char *what)
{
    return lmi_pk_fail(u, LM_MALFORMED, "%s.%s: %s", g->module, g->name, what);
}

/* ---- inert things */

static int make_object(struct lmi_unpickler *u, const struct lmi_pk_global *g, const struct lmi_pk_list *args,
                       struct lmi_pk *out)
{
    (void)g;
    (void)args;
    *out = lmi_pk_list_of(u, LMI_PK_OBJECT);
    return out->kind == LMI_PK_NONE ? -1 : 0;
}

/* Of the first argument what it is: torch.Size((2, 3)), torch.device('cpu'),
 * _codecs.encode('…', 'latin1'), torch.jit's typed lists. */
static int take_first(struct lmi_unpickler *u, const struct lmi_pk_global *g, const struct lmi_pk_list *args,
                      struct lmi_pk *out)
{
    if (args->n == 0)
        return wrong(u, g, "called without arguments");
    *out = args->items[0];
    return 0;
}

/* OrderedDict() or OrderedDict([[key, value], …]). */
static int make_dict(struct lmi_unpickler *u, const struct lmi_pk_global *g, const struct lmi_pk_list *args,
                     struct lmi_pk *out)
{
    *out = lmi_pk_list_of(u, LMI_PK_DICT);
    if (out->kind == LMI_PK_NONE)
        return -1;
    if (args->n == 0)
        return 0;
    if (args->items[0].kind != LMI_PK_LIST && args->items[0].kind != LMI_PK_TUPLE)
        return wrong(u, g, "its argument is no list of pairs");
    const struct lmi_pk_list *pairs = args->items[0].list;
    for (uint32_t i = 0; i < pairs->n; i++) {
        const struct lmi_pk *p = &pairs->items[i];
        if ((p->kind != LMI_PK_LIST && p->kind != LMI_PK_TUPLE) || p->list->n != 2)
            return wrong(u, g, "its argument is no list of pairs");
        if (lmi_pk_append(u, out->list, p->list->items, 2) < 0)
            return -1;
    }
    return 0;
}

/* defaultdict(factory): the factory is only a name here. */
static int make_default_dict(struct lmi_unpickler *u, const struct lmi_pk_global *g, const struct lmi_pk_list *args,
                             struct lmi_pk *out)
{
    static const struct lmi_pk_list none;
    (void)args;
    return make_dict(u, g, &none, out);
}

/* ---- storages */

static int storage_dtype(const struct lmi_pk *cls, int *dtype)
{
    if (cls->kind != LMI_PK_GLOBAL || !(cls->global->value & IS_STORAGE))
        return -1;
    int v = cls->global->value & TYPE;
    *dtype = v == UNTYPED ? -1 : v;
    return v == UNKNOWN_TYPE ? 1 : 0;
}

static int as_u64(const struct lmi_pk *v, uint64_t *out)
{
    if (v->kind != LMI_PK_INT || v->i < 0)
        return -1;
    *out = (uint64_t)v->i;
    return 0;
}

/* (view key, offset, size): a part of the record. */
static int take_view(struct lmi_torch_storage *s, const struct lmi_pk *view)
{
    uint64_t size, end;

    if (view->kind == LMI_PK_NONE)
        return 0;
    if (view->kind != LMI_PK_TUPLE || view->list->n != 3 || as_u64(&view->list->items[1], &s->view_offset) < 0 ||
        as_u64(&view->list->items[2], &size) < 0)
        return -1;
    return lm_add_u64(s->view_offset, size, &end) && end <= s->n_elems ? 0 : -1;
}

/* ('storage', class, key, place, number of elements[, view]) */
int lmi_torch_persistent(struct lmi_unpickler *u, const struct lmi_pk *id, struct lmi_pk *out)
{
    const struct lmi_pk *a = id->kind == LMI_PK_TUPLE ? id->list->items : NULL;
    uint32_t n = a ? id->list->n : 0;
    int dtype;

    if (n < 5 || n > 6 || !lmi_pk_is(&a[0], "storage") || a[2].kind != LMI_PK_STR)
        return lmi_pk_fail(u, LM_MALFORMED, "a persistent id is not that of a storage");
    int known = storage_dtype(&a[1], &dtype);
    if (known < 0)
        return lmi_pk_fail(u, LM_MALFORMED, "the class of a storage is no storage class");
    if (known > 0)
        return lmi_pk_fail(u, LM_UNSUPPORTED, "storages of torch.%s are not read", a[1].global->name);
    struct lmi_torch_storage *s = lm_arena_alloc(u->arena, sizeof *s);
    if (!s)
        return lmi_nomem(u->e);
    s->key = lmi_pk_text(&a[2]);
    s->dtype = dtype;
    unsigned size = dtype < 0 ? 1 : lm_dtype_info((enum lm_dtype)dtype)->block_bytes;
    if (as_u64(&a[4], &s->n_elems) < 0 || !lm_mul_u64(s->n_elems, size, &s->n_bytes) || (n == 6 && take_view(s, &a[5]) < 0))
        return lmi_pk_fail(u, LM_MALFORMED, "the size of storage '%.*s' makes no sense", LMI_SHOW(s->key));
    *out = (struct lmi_pk){.kind = LMI_PK_DATA, .tag = LMI_TORCH_STORAGE, .data = s};
    return 0;
}

/* ---- tensors */

static const struct lmi_torch_tensor *as_tensor(const struct lmi_pk *v)
{
    return v->kind == LMI_PK_DATA && v->tag == LMI_TORCH_TENSOR ? v->data : NULL;
}

static int take_dims(uint64_t *dims, const struct lmi_pk *v)
{
    for (uint32_t i = 0; i < v->list->n; i++)
        if (as_u64(&v->list->items[i], &dims[i]) < 0)
            return -1;
    return 0;
}

static bool is_sequence(const struct lmi_pk *v)
{
    return v->kind == LMI_PK_TUPLE || v->kind == LMI_PK_LIST;
}

/* (storage, offset, size, stride, …); dtype -1: the storage's. */
static struct lmi_torch_tensor *new_tensor(struct lmi_unpickler *u, const struct lmi_pk_global *g,
                                           const struct lmi_pk_list *args, int dtype)
{
    const struct lmi_pk *a = args->items;

    if (args->n < 4 || a[0].kind != LMI_PK_DATA || a[0].tag != LMI_TORCH_STORAGE || !is_sequence(&a[2]) ||
        !is_sequence(&a[3]) || a[2].list->n != a[3].list->n)
        return wrong(u, g, "its arguments are not a storage, an offset, a size and a stride"), NULL;
    if (a[2].list->n > LM_MAX_DIMS)
        return lmi_pk_fail(u, LM_LIMIT, "a tensor of %u dimensions, at most %d are handled", a[2].list->n, LM_MAX_DIMS), NULL;
    uint32_t n = a[2].list->n;
    struct lmi_torch_tensor *t = lm_arena_alloc(u->arena, sizeof *t + 2 * n * sizeof t->dims[0]);
    if (!t)
        return lmi_nomem(u->e), NULL;
    t->storage = a[0].data;
    t->n_dims = n;
    if (as_u64(&a[1], &t->offset) < 0 || take_dims(t->dims, &a[2]) < 0 || take_dims(t->dims + n, &a[3]) < 0)
        return wrong(u, g, "a negative size, stride or offset"), NULL;
    if (dtype < 0)
        dtype = t->storage->dtype;
    if (dtype < 0)
        return wrong(u, g, "an untyped storage without a type"), NULL;
    t->dtype = (enum lm_dtype)dtype;
    if (!lm_add_u64(t->offset, t->storage->view_offset, &t->offset))
        return wrong(u, g, "the offset overflows"), NULL;
    return t;
}

static int deliver(struct lmi_pk *out, const struct lmi_torch_tensor *t)
{
    *out = (struct lmi_pk){.kind = LMI_PK_DATA, .tag = LMI_TORCH_TENSOR, .data = t};
    return t ? 0 : -1;
}

static int rebuild_tensor(struct lmi_unpickler *u, const struct lmi_pk_global *g, const struct lmi_pk_list *args,
                          struct lmi_pk *out)
{
    return deliver(out, new_tensor(u, g, args, -1));
}

/* (storage, offset, size, stride, requires_grad, hooks, dtype[, metadata]) */
static int rebuild_tensor_v3(struct lmi_unpickler *u, const struct lmi_pk_global *g, const struct lmi_pk_list *args,
                             struct lmi_pk *out)
{
    const struct lmi_pk *type = args->n > 6 ? &args->items[6] : NULL;

    if (!type || type->kind != LMI_PK_GLOBAL || !(type->global->value & IS_DTYPE))
        return wrong(u, g, "its seventh argument is no dtype");
    if ((type->global->value & TYPE) == UNKNOWN_TYPE)
        return lmi_pk_fail(u, LM_UNSUPPORTED, "tensors of torch.%s are not read", type->global->name);
    return deliver(out, new_tensor(u, g, args, type->global->value & TYPE));
}

/* (tensor, requires_grad, hooks[, state]) */
static int rebuild_parameter(struct lmi_unpickler *u, const struct lmi_pk_global *g, const struct lmi_pk_list *args,
                             struct lmi_pk *out)
{
    if (args->n == 0 || !as_tensor(&args->items[0]))
        return wrong(u, g, "its first argument is no tensor");
    *out = args->items[0];
    return 0;
}

static int take_quantizer(struct lmi_torch_tensor *t, const struct lmi_pk *q)
{
    const struct lmi_pk *a = q->kind == LMI_PK_TUPLE ? q->list->items : NULL;
    uint32_t n = a ? q->list->n : 0;
    uint64_t axis;

    if (n < 3 || a[0].kind != LMI_PK_GLOBAL || !(a[0].global->value & IS_SCHEME))
        return -1;
    t->quant = (enum lmi_view_quant)(a[0].global->value & TYPE);
    if (t->quant == LMI_QUANT_TENSOR) {
        if (n != 3 || a[1].kind != LMI_PK_FLOAT || a[2].kind != LMI_PK_INT)
            return -1;
        t->scale = a[1].f;
        t->zero = a[2].i;
        return 0;
    }
    t->scales = as_tensor(&a[1]);
    t->zeros = as_tensor(&a[2]);
    if (n != 4 || !t->scales || !t->zeros || t->scales->quant || t->zeros->quant || as_u64(&a[3], &axis) < 0 ||
        axis >= t->n_dims)
        return -1;
    t->axis = (unsigned)axis;
    return 0;
}

/* (storage, offset, size, stride, (scheme, scale, zero point[, axis]), …) */
static int rebuild_qtensor(struct lmi_unpickler *u, const struct lmi_pk_global *g, const struct lmi_pk_list *args,
                           struct lmi_pk *out)
{
    struct lmi_torch_tensor *t = new_tensor(u, g, args, -1);

    if (!t)
        return -1;
    if (args->n < 5 || take_quantizer(t, &args->items[4]) < 0)
        return wrong(u, g, "its quantizer is not a scheme with scale and zero point");
    return deliver(out, t);
}

static int refuse_kind(struct lmi_unpickler *u, const struct lmi_pk_global *g, const struct lmi_pk_list *args,
                       struct lmi_pk *out)
{
    (void)args;
    (void)out;
    return lmi_pk_fail(u, LM_UNSUPPORTED, "a tensor made by %s.%s (sparse, nested, meta or of a subclass) has no plain "
                       "bytes; save the model with dense tensors", g->module, g->name);
}

/* ---- the list */

#define STORAGE(name, type) {"torch", name "Storage", NULL, IS_STORAGE | type}, \
                            {"torch.cuda", name "Storage", NULL, IS_STORAGE | type}
#define DTYPE_NAME(name, type) {"torch", name, NULL, IS_DTYPE | type}
#define REBUILD(name, how) {"torch._utils", name, how, 0}

const struct lmi_pk_global lmi_torch_globals[] = {
    {"collections", "OrderedDict", make_dict, 0},
    {"collections", "defaultdict", make_default_dict, 0},
    REBUILD("_rebuild_tensor_v2", rebuild_tensor),
    REBUILD("_rebuild_tensor", rebuild_tensor),
    REBUILD("_rebuild_parameter", rebuild_parameter),
    REBUILD("_rebuild_parameter_with_state", rebuild_parameter),
    REBUILD("_rebuild_qtensor", rebuild_qtensor),
    REBUILD("_rebuild_tensor_v3", rebuild_tensor_v3),
    REBUILD("_rebuild_sparse_tensor", refuse_kind),
    REBUILD("_rebuild_sparse_csr_tensor", refuse_kind),
    REBUILD("_rebuild_nested_tensor", refuse_kind),
    REBUILD("_rebuild_meta_tensor_no_storage", refuse_kind),
    REBUILD("_rebuild_wrapper_subclass", refuse_kind),
    REBUILD("_rebuild_device_tensor_from_numpy", refuse_kind),
    {"torch._tensor", "_rebuild_from_type_v2", refuse_kind, 0},
    STORAGE("Double", LM_F64), STORAGE("Float", LM_F32), STORAGE("Half", LM_F16), STORAGE("BFloat16", LM_BF16),
    STORAGE("Long", LM_I64), STORAGE("Int", LM_I32), STORAGE("Short", LM_I16), STORAGE("Char", LM_I8),
    STORAGE("Byte", LM_U8), STORAGE("Bool", LM_BOOL), STORAGE("ComplexFloat", LM_C64),
    STORAGE("ComplexDouble", UNKNOWN_TYPE),
    {"torch", "QInt8Storage", NULL, IS_STORAGE | QUANTIZED | LM_I8},
    {"torch", "QUInt8Storage", NULL, IS_STORAGE | QUANTIZED | LM_U8},
    {"torch", "QInt32Storage", NULL, IS_STORAGE | QUANTIZED | LM_I32},
    {"torch", "QUInt4x2Storage", NULL, IS_STORAGE | UNKNOWN_TYPE},
    {"torch", "QUInt2x4Storage", NULL, IS_STORAGE | UNKNOWN_TYPE},
    {"torch", "UntypedStorage", NULL, IS_STORAGE | UNTYPED},
    {"torch.storage", "UntypedStorage", NULL, IS_STORAGE | UNTYPED},
    {"torch.storage", "_UntypedStorage", NULL, IS_STORAGE | UNTYPED},
    DTYPE_NAME("float64", LM_F64), DTYPE_NAME("float32", LM_F32), DTYPE_NAME("float16", LM_F16),
    DTYPE_NAME("bfloat16", LM_BF16), DTYPE_NAME("int64", LM_I64), DTYPE_NAME("int32", LM_I32),
    DTYPE_NAME("int16", LM_I16), DTYPE_NAME("int8", LM_I8), DTYPE_NAME("uint8", LM_U8), DTYPE_NAME("bool", LM_BOOL),
    DTYPE_NAME("uint16", LM_U16), DTYPE_NAME("uint32", LM_U32), DTYPE_NAME("uint64", LM_U64),
    DTYPE_NAME("complex64", LM_C64), DTYPE_NAME("complex128", UNKNOWN_TYPE), DTYPE_NAME("complex32", UNKNOWN_TYPE),
    DTYPE_NAME("float8_e4m3fn", LM_F8_E4M3), DTYPE_NAME("float8_e5m2", LM_F8_E5M2),
    DTYPE_NAME("float8_e4m3fnuz", LM_F8_E4M3FNUZ), DTYPE_NAME("float8_e5m2fnuz", LM_F8_E5M2FNUZ),
    DTYPE_NAME("float8_e8m0fnu", LM_F8_E8M0), DTYPE_NAME("qint8", LM_I8), DTYPE_NAME("quint8", LM_U8),
    DTYPE_NAME("qint32", LM_I32), DTYPE_NAME("float4_e2m1fn_x2", UNKNOWN_TYPE),
    {"torch", "per_tensor_affine", NULL, IS_SCHEME | LMI_QUANT_TENSOR},
    {"torch", "per_channel_affine", NULL, IS_SCHEME | LMI_QUANT_CHANNEL},
    {"torch", "per_channel_affine_float_qparams", NULL, 0},
    {"torch", "Size", take_first, 0},
    {"torch", "device", take_first, 0},
    {"torch.serialization", "_get_layout", take_first, 0},
    {"torch.torch_version", "TorchVersion", take_first, 0},
    {"torch.jit._pickle", "build_intlist", take_first, 0},
    {"torch.jit._pickle", "build_doublelist", take_first, 0},
    {"torch.jit._pickle", "build_boollist", take_first, 0},
    {"torch.jit._pickle", "build_tensorlist", take_first, 0},
    {"torch.jit._pickle", "restore_type_tag", take_first, 0},
    {"argparse", "Namespace", make_object, 0},
    {"numpy", "dtype", make_object, 0},
    {"numpy", "ndarray", NULL, 0},
    {"numpy.core.multiarray", "scalar", make_object, 0},
    {"numpy.core.multiarray", "_reconstruct", make_object, 0},
    {"numpy._core.multiarray", "scalar", make_object, 0},
    {"numpy._core.multiarray", "_reconstruct", make_object, 0},
    {"_codecs", "encode", take_first, 0},
    {"builtins", "set", make_object, 0},
    {"__builtin__", "set", make_object, 0},
    {"builtins", "complex", make_object, 0},
    {"builtins", "int", NULL, 0},
    {"builtins", "float", NULL, 0},
    {"builtins", "list", NULL, 0},
    {"builtins", "dict", NULL, 0},
    {"__builtin__", "dict", NULL, 0},
};
const size_t lmi_torch_n_globals = sizeof lmi_torch_globals / sizeof lmi_torch_globals[0];

const struct lmi_pk_global lmi_torch_script = {"__torch__", "*", make_object, 0};
