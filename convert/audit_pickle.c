/* What loading a pickle would import and call, read without doing any of it:
 * every opcode is walked, names are followed through the memo, nothing is
 * built. https://docs.python.org/3/library/pickletools.html */
#include <stdio.h>
#include <stdlib.h>

#include "convert/audit_parts.h"

enum { MAX_IMPORTS = 64, MAX_MEMO = 1 << 16, STACK = 4 };

/* How many bytes follow an opcode. */
enum arg { A_BAD = 0, A_NONE, A_1, A_2, A_4, A_8, A_LINE, A_LINES, A_LEN1, A_LEN4, A_LEN8 };

static const struct { char op; uint8_t arg; } ops[] = {
    {'(', A_NONE}, {'.', A_NONE}, {'0', A_NONE}, {'1', A_NONE}, {'2', A_NONE}, {'F', A_LINE}, {'I', A_LINE},
    {'J', A_4}, {'K', A_1}, {'L', A_LINE}, {'M', A_2}, {'N', A_NONE}, {'P', A_LINE}, {'Q', A_NONE}, {'R', A_NONE},
    {'S', A_LINE}, {'T', A_LEN4}, {'U', A_LEN1}, {'V', A_LINE}, {'X', A_LEN4}, {'a', A_NONE}, {'b', A_NONE},
    {'c', A_LINES}, {'d', A_NONE}, {'}', A_NONE}, {'e', A_NONE}, {'g', A_LINE}, {'h', A_1}, {'i', A_LINES},
    {'j', A_4}, {'l', A_NONE}, {']', A_NONE}, {'o', A_NONE}, {'p', A_LINE}, {'q', A_1}, {'r', A_4}, {'s', A_NONE},
    {'t', A_NONE}, {')', A_NONE}, {'u', A_NONE}, {'G', A_8}, {'\x80', A_1}, {'\x81', A_NONE}, {'\x82', A_1},
    {'\x83', A_2}, {'\x84', A_4}, {'\x85', A_NONE}, {'\x86', A_NONE}, {'\x87', A_NONE}, {'\x88', A_NONE},
    {'\x89', A_NONE}, {'\x8a', A_LEN1}, {'\x8b', A_LEN4}, {'B', A_LEN4}, {'C', A_LEN1}, {'\x8c', A_LEN1},
    {'\x8d', A_LEN8}, {'\x8e', A_LEN8}, {'\x8f', A_NONE}, {'\x90', A_NONE}, {'\x91', A_NONE}, {'\x92', A_NONE},
    {'\x93', A_NONE}, {'\x94', A_NONE}, {'\x95', A_8}, {'\x96', A_LEN8}, {'\x97', A_NONE}, {'\x98', A_NONE},
};

/* What tensors need; compared whole, never by prefix. */
static const char *const harmless[] = {
    "collections.OrderedDict", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter", "torch._tensor._rebuild_from_type_v2", "torch.Size", "torch.device",
    "torch.FloatStorage", "torch.DoubleStorage", "torch.HalfStorage", "torch.BFloat16Storage", "torch.LongStorage",
    "torch.IntStorage", "torch.ShortStorage", "torch.CharStorage", "torch.ByteStorage", "torch.BoolStorage",
    "torch.ComplexFloatStorage", "torch.storage.UntypedStorage", "torch.storage.TypedStorage", "torch.float32",
    "torch.float16", "torch.bfloat16", "torch.float64", "torch.int64", "torch.int32", "torch.bool",
    "torch.nn.parameter.Parameter", "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar",
    "_codecs.encode", "argparse.Namespace", NULL};

struct walk {
    struct lm_cursor c;
    struct lm_span last[STACK];  /* strings pushed, newest first */
    struct lm_span *memo;
    size_t n_memo;
    char imports[MAX_IMPORTS][160];
    size_t n_imports, n_calls;
    bool stopped, broken;
};

static void push(struct walk *w, struct lm_span s)
{
    memmove(w->last + 1, w->last, (STACK - 1) * sizeof *w->last);
    w->last[0] = s;
}

static struct lm_span line(struct walk *w)
{
    const uint8_t *from = w->c.all.data + w->c.pos;
    const uint8_t *end = memchr(from, '\n', lm_cur_left(&w->c));

    if (!end) {
        w->broken = true;
        return lm_span_str("");
    }
    struct lm_span s = lm_cur_bytes(&w->c, (uint64_t)(end - from));
    lm_cur_u8(&w->c);
    return s;
}

static void add_import(struct walk *w, struct lm_span module, struct lm_span name)
{
    char *to = w->imports[w->n_imports < MAX_IMPORTS ? w->n_imports : MAX_IMPORTS - 1];

    snprintf(to, sizeof w->imports[0], "%.*s.%.*s", (int)(module.size < 100 ? module.size : 100),
             (const char *)module.data, (int)(name.size < 50 ? name.size : 50), (const char *)name.data);
    w->n_imports += w->n_imports < MAX_IMPORTS;
    push(w, lm_span_str(""));
}

static void put_memo(struct walk *w, uint64_t at)
{
    if (at >= MAX_MEMO)
        return;
    w->memo[at] = w->last[0];
    w->n_memo = at + 1 > w->n_memo ? at + 1 : w->n_memo;
}

static struct lm_span argument(struct walk *w, enum arg a, uint64_t *number)
{
    *number = 0;
    switch (a) {
    case A_1: *number = lm_cur_u8(&w->c); break;
    case A_2: *number = lm_cur_u16(&w->c); break;
    case A_4: *number = lm_cur_u32(&w->c); break;
    case A_8: *number = lm_cur_u64(&w->c); break;
    case A_LINE: return line(w);
    case A_LEN1: return lm_cur_bytes(&w->c, lm_cur_u8(&w->c));
    case A_LEN4: return lm_cur_bytes(&w->c, lm_cur_u32(&w->c));
    case A_LEN8: return lm_cur_bytes(&w->c, lm_cur_u64(&w->c));
    default: break;
    }
    return lm_span_str("");
}

static uint64_t decimal(struct lm_span s)
{
    uint64_t v = 0;

    for (size_t i = 0; i < s.size && i < 9 && s.data[i] >= '0' && s.data[i] <= '9'; i++)
        v = v * 10 + (uint64_t)(s.data[i] - '0');
    return v;
}

static void step(struct walk *w)
{
    uint8_t op = lm_cur_u8(&w->c);
    enum arg a = A_BAD;
    uint64_t number;

    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if ((uint8_t)ops[i].op == op)
            a = (enum arg)ops[i].arg;
    w->broken |= a == A_BAD || w->c.failed;
    if (w->broken)
        return;
    if (a == A_LINES) {
        struct lm_span module = line(w), name = line(w);
        add_import(w, module, name);
        w->n_calls += op == 'i';
        return;
    }
    struct lm_span s = argument(w, a, &number);
    w->broken |= w->c.failed;
    switch (op) {
    case '.': w->stopped = true; break;
    case 'S': case 'T': case 'U': case 'V': case 'X': case 0x8c: case 0x8d: push(w, s); break;
    case 0x93: add_import(w, w->last[1], w->last[0]); break;
    case 'R': case 'o': case 0x81: case 0x92: w->n_calls++; break;
    case 'q': case 'r': put_memo(w, number); break;
    case 'p': put_memo(w, decimal(s)); break;
    case 0x94: put_memo(w, w->n_memo); break;
    case 'h': case 'j': push(w, number < w->n_memo ? w->memo[number] : lm_span_str("")); break;
    case 'g': push(w, decimal(s) < w->n_memo ? w->memo[decimal(s)] : lm_span_str("")); break;
    default: break;
    }
}

static bool is_harmless(const char *name)
{
    for (size_t i = 0; harmless[i]; i++)
        if (strcmp(harmless[i], name) == 0)
            return true;
    return false;
}

static void report(struct lm_audit *a, const char *path, const struct walk *w)
{
    for (size_t i = 0; i < w->n_imports; i++)
        if (!is_harmless(w->imports[i]))
            lmc_found(a, LM_RULE_pickle_code, path, "it imports %s; %zu calls follow from it", w->imports[i], w->n_calls);
    /* The length that begins a safetensors file may look like a pickle, which then soon breaks. */
    if (w->broken && !(a->m && lmc_is_safetensors(lm_model_format(a->m))))
        lmc_found(a, LM_RULE_pickle_code, path, "the pickle is broken at byte %zu: a scanner stops there, a loader may not",
                  w->c.pos);
}

static void walk(struct lm_audit *a, const char *path, struct lm_span stream)
{
    struct walk *w = calloc(1, sizeof *w);

    if (w)
        w->memo = calloc(MAX_MEMO, sizeof *w->memo);
    if (!w || !w->memo) {
        a->failed = true;
        free(w);
        return;
    }
    w->c = lm_cursor_of(stream);
    while (!w->stopped && !w->broken)
        step(w);
    report(a, path, w);
    free(w->memo);
    free(w);
}

/* The stored member of a zip that ends in .pkl; a pickle ends by itself. */
static bool zip_pickle(struct lm_span f, struct lm_span *out)
{
    static const char magic[4] = {'P', 'K', 3, 4};
    size_t pos = 0;

    while (pos < f.size) {
        const uint8_t *at = memmem(f.data + pos, f.size - pos, magic, 4);
        if (!at || (size_t)(f.data + f.size - at) < 30)
            return false;
        size_t left = (size_t)(f.data + f.size - at), n_name = lm_load_u16le(at + 26), n_extra = lm_load_u16le(at + 28);
        if (left >= 30 + n_name + n_extra && n_name > 4 && memcmp(at + 30 + n_name - 4, ".pkl", 4) == 0 &&
            lm_load_u16le(at + 8) == 0) {
            *out = lm_span_of(at + 30 + n_name + n_extra, left - 30 - n_name - n_extra);
            return true;
        }
        pos = (size_t)(at - f.data) + 4;
    }
    return false;
}

bool lmc_audit_pickle(struct lm_audit *a, const char *path, struct lm_span f)
{
    struct lm_span stream = f;
    bool zip = f.size > 4 && memcmp(f.data, "PK\3\4", 4) == 0;
    bool bare = f.size > 2 && f.data[0] == 0x80 && f.data[1] >= 1 && f.data[1] <= 5;

    if (zip ? !zip_pickle(f, &stream) : !bare)
        return false;
    walk(a, path, stream);
    return true;
}
