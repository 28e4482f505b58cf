#!/usr/bin/env python3
"""The digests of lm-hash once more, from README.md ("The canonical form of lm-hash") alone.

tests/hash_reference.py [--write] [MODEL...]

MODEL is a folder with config.json and safetensors. Prints the digest of each;
with --write (over every folder of tests/fixtures/models and the sample) into
tests/fixtures/digests.txt, with which tests/test_hash.c compares.
Needs NumPy; reads safetensors by itself. Nothing here knows libmodel.
"""
import hashlib
import json
import re
import struct
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
LEAF = 1 << 18


# ---- the README's table

def read_table():
    text = (ROOT / "README.md").read_text()
    block = text[text.index("<code>lm-hash --names</code>"):]
    block = block[block.index("```text\n") + 8:]
    families, rows = {}, []
    for line in block[:block.index("```")].splitlines():
        words = line.split()
        if words[0] == "=":
            for model_type in words[2:]:
                families[model_type] = words[1].rstrip(":")
        else:
            rows.append((words[0], words[1], words[2], words[3:]))
    return families, rows


def pattern_of(name):
    lead = re.match(r"model\.|transformer\.|gpt_neox\.", name)
    text = re.escape(name).replace(r"\#", "#")
    if lead:
        cut = len(re.escape(lead.group()))
        text = f"(?:{text[:cut]})?{text[cut:]}"
    return re.compile(text.replace("#", "(?P<layer>[0-9]+)").replace("@", "(?P<expert>[0-9]+)"))


# ---- safetensors: numbers as float64 when they are floating-point, which holds all of them exactly

def f8(raw, exponent_bits, mantissa_bits, bias, finite_only):
    raw = raw.astype(np.int64)
    sign = np.where(raw >> 7, -1.0, 1.0)
    e, m = raw >> mantissa_bits & (1 << exponent_bits) - 1, raw & (1 << mantissa_bits) - 1
    value = np.where(e == 0, m * 2.0 ** (1 - bias - mantissa_bits), (1 + m / 2.0 ** mantissa_bits) * 2.0 ** (e - bias))
    if finite_only:
        value = np.where(raw & 127 == 127, np.nan, value)
    else:
        value = np.where(e == 31, np.where(m == 0, np.inf, np.nan), value)
    return np.copysign(value, sign)


def numbers(kind, raw):
    if kind == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if kind in ("F16", "F32", "F64"):
        return np.frombuffer(raw, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[kind]).astype(np.float64)
    if kind == "F8_E4M3":
        return f8(np.frombuffer(raw, np.uint8), 4, 3, 7, True)
    if kind == "F8_E5M2":
        return f8(np.frombuffer(raw, np.uint8), 5, 2, 15, False)
    return None


INTEGERS = {"I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8", "BOOL": "u1"}


def read_folder(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name.startswith("reference"):
            continue
        data = path.read_bytes()
        n = struct.unpack("<Q", data[:8])[0]
        for name, t in json.loads(data[8:8 + n]).items():
            if name == "__metadata__":
                continue
            a, b = t["data_offsets"]
            raw = data[8 + n + a:8 + n + b]
            values = numbers(t["dtype"], raw)
            kind = "float" if values is not None else t["dtype"]
            if values is None:
                values = np.frombuffer(raw, INTEGERS[t["dtype"]])
            tensors[name] = (kind, values.reshape(t["shape"]))
    return tensors


# ---- rule 2

def config_of(folder):
    c = json.loads((folder / "config.json").read_text())
    for ours, names in {"heads": ("num_attention_heads", "n_head"), "width": ("hidden_size", "n_embd"),
                        "layers": ("num_hidden_layers", "n_layer")}.items():
        c[ours] = next((c[n] for n in names if n in c), 0)
    c["kv_heads"] = c.get("num_key_value_heads") or c["heads"]
    return c


def rope(h, heads):
    d = h.shape[0] // heads
    return h.reshape(heads, 2, d // 2, -1).swapaxes(1, 2).reshape(h.shape)


def qkv(h, c, family):
    n = c["heads"]
    k = n
    if family == "falcon":
        k = c["num_kv_heads"] if c.get("new_decoder_architecture") else 1 if c.get("multi_query", True) else n
    d = c["width"] // n
    x = h.reshape(k, n // k + 2, d, -1)
    parts = [x[:, :-2].reshape(n * d, -1), x[:, -2].reshape(k * d, -1), x[:, -1].reshape(k * d, -1)]
    return np.concatenate(parts).reshape(h.shape)


def plus_one(h):
    with np.errstate(over="ignore"):
        return (h.astype(np.float32) + np.float32(1)).astype(np.float64)


def mla(h, c):
    n, v = c["qk_nope_head_dim"], c["v_head_dim"]
    x = h.reshape(c["heads"], n + v, c["kv_lora_rank"])
    return x[:, :n].swapaxes(1, 2), x[:, n:]


def place(how, h, c, family):
    half = h.shape[-2] // 2 if h.ndim > 1 else 0
    return {
        "as-is": lambda: h, "stacked": lambda: h, "transposed": lambda: h.T,
        "rope-q": lambda: rope(h, c["heads"]), "rope-k": lambda: rope(h, c["kv_heads"]),
        "plus-one": lambda: plus_one(h), "qkv": lambda: qkv(h, c, family),
        "half-1": lambda: h[..., :half, :], "half-2": lambda: h[..., half:, :],
        "even": lambda: h[..., 0::2], "odd": lambda: h[..., 1::2], "turned": lambda: h.swapaxes(1, 2),
        "even-turned": lambda: h[..., 0::2].swapaxes(1, 2), "odd-turned": lambda: h[..., 1::2].swapaxes(1, 2),
        "mla-k": lambda: mla(h, c)[0], "mla-v": lambda: mla(h, c)[1],
    }[how]()


def canonical(folder):
    families, rows = read_table()
    c = config_of(folder)
    family = families[c["model_type"]]
    rows = [(pattern_of(hf), gguf, how) for hf, gguf, how, only in rows if not only or family in only]
    out, experts, counted = {}, {}, {}
    for name, (kind, h) in read_folder(folder).items():
        known = False
        for pattern, gguf, how in rows:
            m = pattern.fullmatch(name)
            if not m or int(m.groupdict().get("layer") or 0) >= c["layers"]:
                continue
            known = True
            to = name if gguf == "-" else gguf.replace("#", m.groupdict().get("layer") or "")
            counted[to] = how != "not-counted"
            if how == "stacked":
                experts.setdefault(to, {})[int(m["expert"])] = h
            else:
                out[to] = (kind, h if how == "not-counted" else place(how, h, c, family))
        if not known:
            out[name], counted[name] = (kind, h), True
    for to, parts in experts.items():
        out[to] = ("float", np.stack([parts[e] for e in range(len(parts))]))
    return out, counted


# ---- rules 3 to 7

def encode(kind, x):
    if kind != "float":
        return kind, x.tobytes()
    nan = np.isnan(x)
    bits = x.view(np.uint64)
    with np.errstate(over="ignore", invalid="ignore"):
        single = x.astype(np.float32)
        half = x.astype(np.float16)
    def holds(y):
        return np.all((y.astype(np.float64).view(np.uint64) == bits) | nan)
    if holds(single):
        word = single.view(np.uint32)
        if np.all((word & 0xffff == 0) | nan):
            return "BF16", np.where(nan, 0x7fc0, word >> 16).astype("<u2").tobytes()
        if holds(half):
            return "F16", np.where(nan, 0x7e00, half.view(np.uint16)).astype("<u2").tobytes()
        return "F32", np.where(nan, 0x7fc00000, word).astype("<u4").tobytes()
    return "F64", np.where(nan, np.uint64(0x7ff8000000000000), bits).astype("<u8").tobytes()


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def tensor_digest(kind, g):
    flat = np.ascontiguousarray(g).reshape(-1)
    leaves = []
    for i in range(0, flat.size, LEAF):
        name, raw = encode(kind, flat[i:i + LEAF])
        leaves.append(sha(b"lm-hash 1 leaf\0", name.encode(), b"\0", raw))
    dims = [n for n in g.shape if n != 1]
    return sha(b"lm-hash 1 tensor\0", struct.pack(f"<{len(dims) + 1}Q", len(dims), *dims), *leaves)


def model_digest(folder):
    tensors, counted = canonical(folder)
    digests = {name: tensor_digest(*t) for name, t in tensors.items()}
    text = b""
    for name in sorted(digests, key=str.encode):
        tied = name == "output.weight" and digests[name] == digests.get("token_embd.weight")
        if counted[name] and not tied:
            text += struct.pack("<Q", len(name.encode())) + name.encode() + digests[name]
    return sha(b"lm-hash 1 model\0", text).hex()


def main():
    arguments = sys.argv[1:]
    write = "--write" in arguments
    folders = [Path(a) for a in arguments if a != "--write"]
    if not folders:
        folders = sorted((ROOT / "tests/fixtures/models").iterdir()) + [ROOT / "samples/polish-5m"]
    lines = [f"{model_digest(f)}  {f.resolve().relative_to(ROOT)}\n" for f in folders]
    if write:
        (ROOT / "tests/fixtures/digests.txt").write_text("".join(lines))
    sys.stdout.writelines(lines)


main()
