#!/usr/bin/env python3
"""Make the IQ1, IQ2 and IQ3 files of tests/fixtures/quant/: known answers.

    GGML_LIB=/path/libggml-base.so python3 tests/make_iq_blocks.py

The library as for make_quant_blocks.py, whose rows are quantized here again.
iq.weights.f32: importance of a row of 512 elements.  For each type TYPE.weighted.bin:
input.f32 as rows of 512 (the last, odd 256 left out) with that importance; TYPE.bin: without, where ggml
allows it; TYPE.random.bin and .f32: random blocks and their values.
"""
import numpy as np

import make_quant_blocks as base

TYPES = {
    "IQ1_S": (19, 256, 50), "IQ1_M": (29, 256, 56), "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74),
    "IQ2_S": (22, 256, 82), "IQ3_XXS": (18, 256, 98), "IQ3_S": (21, 256, 110),
}
NEED_WEIGHTS = {"IQ1_S", "IQ2_XXS", "IQ2_XS"}
SCALE_BYTES = {"IQ1_M": (49, 51, 53, 55)}  # the others begin with an f16


def weights():
    rng = np.random.default_rng(11)
    w = np.exp(rng.standard_normal(512) * 1.5).astype(np.float32)
    w[40:48] = 0            # one point's elements do not matter
    w[96:128] = 0           # nor do a group's
    w[256:512:7] = 0
    w[300:308] = 1e6
    return w


def quantize(ggml, name, x, w):
    tid, elems, size = TYPES[name]
    out = np.zeros(x.size // elems * size, np.uint8)
    n = ggml.lib.ggml_quantize_chunk(tid, x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1],
                                     None if w is None else w.ctypes.data)
    assert n == out.size
    return out


def random_blocks(name):
    """Any bits, but scales that are small and finite."""
    rng = np.random.default_rng(TYPES[name][0])
    b = rng.integers(0, 256, (6, TYPES[name][2]), dtype=np.uint8)
    if name in SCALE_BYTES:
        b[:, SCALE_BYTES[name][3]] &= 0xbf
    else:
        b[:, 1] &= 0xbf
    b[-1] = 0xff            # the last point of every kind
    if name in SCALE_BYTES:
        b[-1, SCALE_BYTES[name][3]] = 0xaf
    else:
        b[-1, 1] = 0xa8
    return b.ravel()


def main():
    base.TYPES.update(TYPES)
    ggml = base.Ggml(base.LIB)
    x = np.ascontiguousarray(np.stack(list(base.rows().values())))
    pairs = x[:len(x) // 2 * 2].reshape(-1, 512)
    w = weights()
    base.write("iq.weights.f32", w)
    for name in TYPES:
        base.write(name + ".weighted.bin", quantize(ggml, name, pairs, w))
        if name not in NEED_WEIGHTS:
            base.write(name + ".bin", quantize(ggml, name, x, None))
        b = random_blocks(name)
        y = ggml.dequantize(name, b)
        assert np.isfinite(y).all()
        base.write(name + ".random.bin", b)
        base.write(name + ".random.f32", y)


if __name__ == "__main__":
    main()
