#!/usr/bin/env python3
"""Make tests/fixtures/quant/: known answers for storage types.

    python3 tests/make_quant_blocks.py

Needs numpy, torch and a ggml built with -ffp-contract=off and no FMA
($GGML_LIB: the path of libggml-base.so; contraction
changes up to 30 % of the K-quant blocks).  Deterministic; the results are
committed, so the C tests never run this.  tests/fixtures/README.md says what
each file holds.
"""
import ctypes
import os
import pathlib

import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parent / "fixtures" / "quant"
LIB = os.environ["GGML_LIB"]
ROW = 256
# name -> (ggml id, elements per block, bytes per block)
TYPES = {
    "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210), "IQ4_NL": (20, 32, 18), "IQ4_XS": (23, 256, 136),
    "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66), "MXFP4": (39, 32, 17),
    "NVFP4": (40, 64, 36), "Q1_0": (41, 128, 18), "Q2_0": (42, 64, 18),
}
# Types that importance makes a difference to.
WEIGHTED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


def bf16(x):
    return torch.from_numpy(np.asarray(x, np.float32)).bfloat16().float().numpy()


def f16(x):
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


def rows():
    """{name: 256 floats}; the order is the order in input.f32."""
    rng = np.random.default_rng(20240607)

    def g():
        return rng.standard_normal(ROW).astype(np.float32)

    i = np.arange(ROW)
    r = {}
    r["gaussian"] = g()
    r["gaussian_small"] = g() * np.float32(0.02)
    r["gaussian_bf16"] = bf16(g() * 0.02)
    r["gaussian_bf16_2"] = bf16(g())
    r["gaussian_f16"] = f16(g() * 0.05)
    r["uniform"] = rng.uniform(-1, 1, ROW)
    r["uniform_offset"] = rng.uniform(3, 3.5, ROW)
    r["positive"] = np.abs(g())
    r["negative"] = -np.abs(g())
    r["zero"] = np.zeros(ROW)
    r["minus_zero"] = np.full(ROW, -0.0)
    r["constant"] = np.full(ROW, 0.7)
    r["constant_negative"] = np.full(ROW, -1.25)
    r["alternating"] = np.where(i % 2, -0.5, 0.5)
    r["alternating_uneven"] = np.where(i % 2, -1.0, 0.75)
    r["one_outlier"] = np.where(i == 100, 1000.0, g() * 0.01)
    r["outlier_per_group"] = np.where(i % 16 == 5, 8.0 * np.where(i % 32 == 5, 1, -1), g() * 0.1)
    r["heavy_tails"] = rng.standard_t(2, ROW)
    r["laplace"] = rng.laplace(0, 0.1, ROW)
    r["log_uniform"] = np.exp(rng.uniform(-20, 5, ROW)) * rng.choice([-1, 1], ROW)
    # x / scale lands exactly on k + 1/2 in the simple types: maximum 8, 16
    # and 127 steps, the rest half steps.
    r["ties_4bit"] = np.where(i % 32 == 0, -8.0, (i % 16) - 7.5)
    r["ties_5bit"] = np.where(i % 32 == 0, -16.0, (i % 32) - 15.5)
    r["ties_8bit"] = np.where(i % 32 == 0, 127.0, (i % 253) - 126.5)
    r["same_magnitude_max"] = np.where(i % 32 == 3, 1.0, np.where(i % 32 == 20, -1.0, g() * 0.2))
    r["integers"] = rng.integers(-7, 8, ROW)
    r["ramp"] = (i - 128) / 128
    r["one_hot"] = np.where(i == 255, 1.0, 0.0)
    r["half_zero"] = np.where(i < 128, 0.0, g())
    r["sparse"] = np.where(rng.random(ROW) < 0.9, 0.0, g())
    r["mixed_scales"] = g() * np.float32(10.0) ** (i // 32 - 4)
    r["f16_subnormal_scale"] = g() * 1e-6
    r["tiny"] = g() * 1e-9
    r["below_group_max_eps"] = g() * 1e-16
    # Nothing smaller or larger: from there on ggml divides by a scale that is
    # 0 or infinite and converts the result to int, which C leaves undefined.
    # (Checked: ggml built with UBSan and asserts runs clean on these rows.)
    r["f32_subnormal"] = np.where(i < 128, 1, -1) * np.where(
        i % 16 == 9, 2.0 ** -100, rng.integers(0, 9, ROW) * 2.0 ** -149)
    r["f32_small_normal"] = g() * np.float32(2.0 ** -116)
    r["large"] = g() * 1e4
    r["near_f16_max"] = np.clip(g() * 3e4, -60000, 60000)
    return {k: np.asarray(v, np.float32) for k, v in r.items()}


class Ggml:
    class Traits(ctypes.Structure):
        _fields_ = [("type_name", ctypes.c_char_p), ("blck_size", ctypes.c_int64),
                    ("blck_size_interleave", ctypes.c_int64), ("type_size", ctypes.c_size_t),
                    ("is_quantized", ctypes.c_bool), ("to_float", ctypes.c_void_p),
                    ("from_float_ref", ctypes.c_void_p)]

    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
            ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
        self.lib.ggml_get_type_traits.restype = ctypes.POINTER(self.Traits)

    def quantize(self, name, x, weights=None):
        """What llama-quantize stores for rows x, columns weighing `weights`."""
        tid, elems, size = TYPES[name]
        out = np.zeros(x.size // elems * size, np.uint8)
        n = self.lib.ggml_quantize_chunk(tid, x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1],
                                         None if weights is None else weights.ctypes.data)
        assert n == out.size
        return out

    def dequantize(self, name, q):
        tid, elems, size = TYPES[name]
        t = self.lib.ggml_get_type_traits(tid).contents
        assert (t.type_name.decode().upper(), t.blck_size, t.type_size) == (name, elems, size)
        out = np.zeros(q.size // size * elems, np.float32)
        fn = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(t.to_float)
        fn(q.ctypes.data, out.ctypes.data, out.size)
        return out


def write(name, array):
    (OUT / name).write_bytes(np.ascontiguousarray(array).tobytes())


def column_weights():
    """[ROW]: uneven as mean squares of activations are, some 0, some large."""
    rng = np.random.default_rng(77)
    w = rng.chisquare(1, ROW) * 0.01
    w[rng.random(ROW) < 0.1] = 0
    w[[3, 100, 101]] = 50
    w[192:208] = 0
    return w.astype(np.float32)


def make_blocks():
    named = rows()
    x = np.ascontiguousarray(np.stack(list(named.values())))
    assert np.isfinite(x).all()
    write("input.f32", x)
    (OUT / "input.names").write_text("".join(k + "\n" for k in named))
    ggml = Ggml(LIB)
    weights = column_weights()
    write("weights.f32", weights)
    for name in WEIGHTED:
        write(name + ".weighted.bin", ggml.quantize(name, x, weights))
        if TYPES[name][1] == 256:
            continue
        # rows four times as long, for what depends on the whole row
        long_rows = np.ascontiguousarray(x[: len(x) // 4 * 4].reshape(-1, 4 * ROW))
        write(name + ".long.bin", ggml.quantize(name, long_rows, np.tile(weights, 4)))
    for name in TYPES:
        q = ggml.quantize(name, x)
        y = ggml.dequantize(name, q)
        write(name + ".bin", q)
        write(name + ".f32", y)
        y = y.reshape(x.shape)
        err = [((y[i] - x[i]) ** 2).sum() / max((x[i] ** 2).sum(), 1e-300) for i in range(2)]
        assert np.isfinite(y).all()
        print(f"{name}: {q.size} bytes, NMSE of Gaussian rows {err[0]:.2e} {err[1]:.2e}")


def f32_corners():
    """Bit patterns where rounding to 16 or 8 bits goes wrong."""
    rng = np.random.default_rng(7)
    b = []

    def add(*bits):
        b.extend(int(v) & 0xffffffff for v in bits)

    def around(value):
        v = int(np.float32(value).view(np.uint32))
        add(v - 1, v, v + 1)

    add(0, 1, 2, 0x007fffff, 0x00800000, 0x00800001, 0x7f7fffff, 0x7f7f7fff, 0x7f7f8000,
        0x7f7f8001, 0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff, 0x7f80ffff, 0x7fa00000,
        0x7fc12345, 0x7f802000, 0x7f801fff, 0x00008000, 0x00018000, 0x0000ffff, 0x00007fff)
    for e in range(0, 256, 5):                      # bf16 ties, down and up, at many exponents
        add(e << 23 | 0x8000, e << 23 | 0x18000, e << 23 | 0x7fff, e << 23 | 0x8001,
            e << 23 | 0x7f8000, e << 23 | 0x7fffff)
    for e in range(-16, 17):                        # f16 ties likewise
        for m in (0x1000, 0x3000, 0x0fff, 0x1001, 0x7ff000, 0x7fefff, 0x7fffff, 0):
            add((e + 127) << 23 | m)
    for k in (*range(0, 12), 1022, 1023, 1024):     # f16 subnormals and their midpoints
        around(k * 2.0 ** -24)
        around((k + 0.5) * 2.0 ** -24)
    for v in (65504, 65519.996, 65520, 65536, 1e5, 2.0 ** -14, 2.0 ** -15,
              448, 464, 479.99, 480, 57344, 61439, 61440, 2.0 ** -9, 2.0 ** -10, 2.0 ** -16,
              2.0 ** -17, 1.5 * 2.0 ** -10, 240, 17, 18, 19, 1 / 3, 0.1):
        around(v)
    b += [v ^ 0x80000000 for v in b]
    b += rng.integers(0, 2 ** 32, 400, dtype=np.uint64).tolist()
    b += (rng.standard_normal(300) * 10.0 ** rng.integers(-9, 6, 300)).astype(np.float32).view(np.uint32).tolist()
    b = np.array(b, np.uint64).astype(np.uint32)
    return b[np.sort(np.unique(b, return_index=True)[1])]


def make_conversions():
    bits = f32_corners()
    x = torch.from_numpy(bits.view(np.float32))
    write("round.f32", bits)
    nan = torch.isnan(x).numpy()
    # NaNs as ggml's portable code writes them: bf16 keeps the top bits and is
    # made quiet, f16 is sign | 0x7e00 (the F16C instruction keeps the payload:
    # a test should accept every quiet NaN of that sign).
    q_bf16 = (bits >> 16).astype(np.uint16) | 0x40
    q_f16 = ((bits >> 16 & 0x8000) | 0x7e00).astype(np.uint16)
    t = x.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    write("round.bf16", np.where(nan, q_bf16, t))
    t = x.to(torch.float16).view(torch.int16).numpy().view(np.uint16)
    n = bits.view(np.float32)
    with np.errstate(all="ignore"):
        assert (t == n.astype(np.float16).view(np.uint16))[~nan].all()
    write("round.f16", np.where(nan, q_f16, t))
    for name, dt in (("f8_e4m3", torch.float8_e4m3fn), ("f8_e5m2", torch.float8_e5m2)):
        codes = torch.arange(256, dtype=torch.uint8).view(dt).float()
        write(name + ".f32", codes.numpy())
        write("round." + name, x.to(dt).view(torch.uint8).numpy())
    print(f"{bits.size} rounding cases, {nan.sum()} NaN")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    make_blocks()
    make_conversions()
