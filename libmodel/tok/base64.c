#include "libmodel/tok/base64.h"

static int digit(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int64_t lmi_base64_decode(struct lm_span t, uint8_t *out)
{
    size_t n = 0, padding = 0;

    if (t.size % 4 != 0)
        return -1;
    while (padding < 2 && padding < t.size && t.data[t.size - 1 - padding] == '=')
        padding++;
    for (size_t i = 0; i < t.size; i += 4) {
        size_t pad = i + 4 == t.size ? padding : 0;
        int a = digit(t.data[i]), b = digit(t.data[i + 1]);
        int c = pad > 1 ? 0 : digit(t.data[i + 2]), d = pad > 0 ? 0 : digit(t.data[i + 3]);
        if ((a | b | c | d) < 0)
            return -1;
        uint32_t v = (uint32_t)a << 18 | (uint32_t)b << 12 | (uint32_t)c << 6 | (uint32_t)d;
        for (size_t k = 0; k < 3 - pad; k++)
            out[n++] = (uint8_t)(v >> (16 - 8 * k));
    }
    return (int64_t)n;
}

void lmi_base64_encode(struct lm_span s, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < s.size; i += 3) {
        size_t left = s.size - i;
        uint32_t v = (uint32_t)s.data[i] << 16 | (left > 1 ? (uint32_t)s.data[i + 1] << 8 : 0) |
                     (left > 2 ? s.data[i + 2] : 0u);
        *out++ = digits[v >> 18];
        *out++ = digits[v >> 12 & 63];
        *out++ = left > 1 ? digits[v >> 6 & 63] : '=';
        *out++ = left > 2 ? digits[v & 63] : '=';
    }
}
