#!/usr/bin/env python3
"""Writes tests/fixtures/containers/: small files by the real libraries (torch,
numpy), odd variants of them, and beside each the values that it holds, as
safetensors. Needs torch, numpy, safetensors. The outputs are committed; run it
again only to change them: python3 tests/make_container_fixtures.py
(the files of the old PyTorch form and TorchScript differ from run to run: they
hold addresses)"""
import collections
import io
import json
import pathlib
import struct
import warnings
import zipfile
import zlib

import numpy as np
import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "fixtures" / "containers"
warnings.simplefilter("ignore")


def expect(name, tensors):
    """Plain copies: safetensors refuses shared and strided ones."""
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, OUT / (name + ".expected.safetensors"))


# ---- PyTorch

def numbers(*shape, dtype=torch.float32):
    n = int(np.prod(shape)) if shape else 1
    return (torch.arange(n, dtype=torch.float32) * 0.5 - 3).reshape(shape).to(dtype)


def tensors():
    base = numbers(6, 8)
    return collections.OrderedDict([
        ("plain", numbers(3, 4)),
        ("bf16", numbers(2, 5, dtype=torch.bfloat16)),
        ("f16", numbers(4, dtype=torch.float16)),
        ("f64", numbers(2, 2, dtype=torch.float64)),
        ("i64", torch.tensor([1, -2, 2**40])),
        ("i32", torch.tensor([[7], [-8]], dtype=torch.int32)),
        ("i16", torch.tensor([-300, 300], dtype=torch.int16)),
        ("i8", torch.tensor([-1, 2, 3], dtype=torch.int8)),
        ("u8", torch.tensor([0, 255], dtype=torch.uint8)),
        ("bool", torch.tensor([True, False, True])),
        ("c64", torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)),
        ("scalar", torch.tensor(2.5)),
        ("empty", torch.zeros(0, 3)),
        ("base", base),
        ("tied", base),
        ("transposed", base.t()),
        ("columns", base[:, 2:5]),
        ("every.second", base[::2, ::3]),
        ("later.rows", base[3:]),
        ("repeated", numbers(1, 4).expand(3, 4)),
        ("permuted", numbers(2, 3, 4).permute(2, 0, 1)),
        ("parameter", torch.nn.Parameter(numbers(2, 3))),
    ])


def wide():
    """Types that only the newer rebuild function knows."""
    return {"u16": torch.tensor([1, 65535], dtype=torch.uint16), "u32": torch.tensor([2**31], dtype=torch.uint32),
            "f8": numbers(4, dtype=torch.float8_e4m3fn), "f8e5": numbers(4, dtype=torch.float8_e5m2)}


def quantized():
    x = numbers(4, 3)
    scales, zeros = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    return {"per_tensor": torch.quantize_per_tensor(x, 0.05, 10, torch.quint8),
            "per_channel": torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8),
            "int32": torch.quantize_per_tensor(x, 0.001, -5, torch.qint32)}


def members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        return [(i.filename, z.read(i.filename)) for i in z.infolist()]


def rezip(name, parts, method):
    with zipfile.ZipFile(OUT / name, "w", method) as z:
        for path, data in parts:
            z.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), data, method)


def streaming_zip(parts):
    """As miniz writes when it cannot seek: sizes 0 before the data, a zip64
    field of 8 bytes, a descriptor with 64-bit sizes after them."""
    out, central = b"", b""
    for path, data in parts:
        path, at, crc = path.encode(), len(out), zlib.crc32(data)
        out += struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 8 | 0x800, 0, 0, 33, 0, 0, 0, len(path), 12)
        out += path + struct.pack("<HHQ", 1, 8, 0) + data + struct.pack("<IIQQ", 0x08074B50, crc, len(data), len(data))
        central += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 45, 45, 8 | 0x800, 0, 0, 33, crc, 0xFFFFFFFF, 0xFFFFFFFF,
                               len(path), 28, 0, 0, 0, 0, 0xFFFFFFFF)
        central += path + struct.pack("<HHQQQ", 1, 24, len(data), len(data), at)
    end = len(out) + len(central)
    return (out + central + struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, len(parts), len(parts), len(central), len(out))
            + struct.pack("<IIQI", 0x07064B50, 0, end, 1)
            + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


def swap_records(parts, widths):
    """The same file as a big-endian machine writes it."""
    out = []
    for path, data in parts:
        key = path.split("/data/")[-1] if "/data/" in path else None
        if key in widths and widths[key] > 1:
            data = np.frombuffer(data, f"<u{widths[key]}").byteswap().tobytes()
        out.append((path, b"big" if path.endswith("/byteorder") else data))
    return out


def zip_bytes(obj, **options):
    buffer = io.BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


def make_torch():
    plain = tensors()
    data = zip_bytes(plain)
    (OUT / "plain.pt").write_bytes(data)
    expect("plain.pt", plain)
    rezip("deflated.pt", members(data), zipfile.ZIP_DEFLATED)
    expect("deflated.pt", plain)
    (OUT / "streaming.pt").write_bytes(streaming_zip(members(data)))
    expect("streaming.pt", plain)
    (OUT / "protocol4.pt").write_bytes(zip_bytes(plain, pickle_protocol=4))
    expect("protocol4.pt", plain)
    torch.save(plain, OUT / "legacy.pt", _use_new_zipfile_serialization=False)
    expect("legacy.pt", plain)
    big = {"f32": numbers(2, 3), "f64": numbers(3, dtype=torch.float64), "bf16": numbers(5, dtype=torch.bfloat16).flip(0),
           "strided": numbers(4, 4).t(), "u8": torch.tensor([1, 2], dtype=torch.uint8)}
    rezip("big.pt", swap_records(members(zip_bytes(big)), {"0": 4, "1": 8, "2": 2, "3": 4}), zipfile.ZIP_STORED)
    expect("big.pt", big)
    (OUT / "wide.pt").write_bytes(zip_bytes(wide()))
    expect("wide.pt", wide())
    q = quantized()
    (OUT / "quantized.pt").write_bytes(zip_bytes(q))
    expect("quantized.pt", {k: v.dequantize() for k, v in q.items()})
    few = {"a": numbers(2, 3).t(), "b": numbers(3, dtype=torch.bfloat16)}
    parts = [(n, d) for n, d in members(zip_bytes(few)) if not n.split("/")[1].startswith(".")]
    (OUT / "small.pt").write_bytes(streaming_zip(parts))
    rezip("small-deflated.pt", parts, zipfile.ZIP_DEFLATED)
    torch.save(few, OUT / "small-legacy.pt", _use_new_zipfile_serialization=False)
    # Nobody asks for these, but torch.save takes any protocol.
    for protocol in (3, 4, 5):
        torch.save(few, OUT / f"small-legacy-{protocol}.pt", _use_new_zipfile_serialization=False, pickle_protocol=protocol)
        expect(f"small-legacy-{protocol}.pt", few)
    for name in ("small.pt", "small-deflated.pt", "small-legacy.pt"):
        expect(name, few)
    make_checkpoint()
    make_script()
    make_shards(plain)


def make_checkpoint():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2, bias=False))
    optimizer = torch.optim.AdamW(model.parameters())
    model(numbers(2, 4)).sum().backward()
    optimizer.step()
    torch.save({"epoch": 7, "loss": 0.25, "model_state_dict": model.state_dict(), "optimizer": optimizer.state_dict(),
                "args": __import__("argparse").Namespace(lr=1e-3, name="x")}, OUT / "checkpoint.pt")
    expect("checkpoint.pt", model.state_dict())


class Scripted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 2)
        self.blocks = torch.nn.ModuleList([torch.nn.LayerNorm(2), torch.nn.LayerNorm(2)])
        self.register_buffer("table", torch.arange(3))

    def forward(self, x):
        x = self.first(x)
        for b in self.blocks:
            x = b(x)
        return x


def make_script():
    torch.manual_seed(2)
    m = Scripted()
    torch.jit.script(m).save(str(OUT / "script.pt"))
    expect("script.pt", m.state_dict())


def make_shards(plain):
    names, folder = list(plain), OUT / "sharded-bin"
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for i, part in enumerate((names[:10], names[10:])):
        file = f"pytorch_model-{i + 1:05d}-of-00002.bin"
        torch.save(collections.OrderedDict((k, plain[k]) for k in part), folder / file)
        weight_map.update({k: file for k in part})
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")


# ---- NumPy

def arrays():
    f = np.arange(12, dtype=np.float32).reshape(3, 4)
    return {"plain": f, "half": f.astype(np.float16), "double": f.astype(np.float64), "i8": np.int8([-1, 2]),
            "u16": np.uint16([1, 65535]), "i64": np.int64([[2**40]]), "bool": np.array([True, False]),
            "c64": np.complex64([1 + 2j]), "scalar": np.float32(2.5), "empty": np.zeros((0, 3), np.float32),
            "fortran": np.asfortranarray(f), "layers/0/kernel": f[1:], "big": f.astype(">f4"),
            "big.fortran": np.asfortranarray(f.astype(">f8")), "big.i16": np.arange(3, dtype=">i2"),
            "cube": np.asfortranarray(np.arange(24, dtype=np.int32).reshape(2, 3, 4))}


def make_numpy():
    a = arrays()
    bf16 = torch.tensor([1.5, -2, 3e10], dtype=torch.bfloat16)
    stored = dict(a, bf16=bf16.view(torch.int16).numpy().view("V2"))
    expected = {k: torch.from_numpy(np.array(v.astype(v.dtype.newbyteorder("=")), order="C")) for k, v in a.items()}
    expected["bf16"] = bf16
    for name, save in (("stored.npz", np.savez), ("deflated.npz", np.savez_compressed)):
        save(OUT / name, **stored)
        expect(name, expected)
    for name, key in (("plain.npy", "plain"), ("fortran.npy", "big.fortran")):
        np.save(OUT / name, a[key])
        expect(name, {name[:-4]: expected[key]})


# ---- Meta's releases and Mistral's own form

D, HEADS, KV, FF, V, LAYERS = 8, 4, 2, 12, 20, 2
GGUF = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output", "attention.wq": "attn_q",
        "attention.wk": "attn_k", "attention.wv": "attn_v", "attention.wo": "attn_output", "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down", "feed_forward.w3": "ffn_up", "attention_norm": "attn_norm", "ffn_norm": "ffn_norm"}


def meta_weights():
    torch.manual_seed(3)
    shapes = {"attention.wq": (D, D), "attention.wk": (D // HEADS * KV, D), "attention.wv": (D // HEADS * KV, D),
              "attention.wo": (D, D), "feed_forward.w1": (FF, D), "feed_forward.w2": (D, FF), "feed_forward.w3": (FF, D),
              "attention_norm": (D,), "ffn_norm": (D,)}
    out = {"tok_embeddings.weight": torch.randn(V, D), "norm.weight": torch.randn(D), "output.weight": torch.randn(V, D)}
    for i in range(LAYERS):
        out.update({f"layers.{i}.{k}.weight": torch.randn(s) for k, s in shapes.items()})
    return {k: v.to(torch.bfloat16) for k, v in out.items()}


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if not stem.startswith("layers."):
        return GGUF[stem] + ".weight"
    _, layer, rest = stem.split(".", 2)
    return f"blk.{layer}.{GGUF[rest]}.weight"


def cut(name, x, i, n, embedding):
    stem = name.removesuffix(".weight").split(".")[-1]
    if "norm" in name:
        return x.clone()
    if stem in ("wk", "wv") and n > KV:  # each head is in several shards
        i, n = i * KV // n, KV
    dim = embedding if stem == "tok_embeddings" else 1 if stem in ("wo", "w2") else 0
    return x.chunk(n, dim)[i].clone()


def make_meta():
    weights = meta_weights()
    params = {"dim": D, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": KV, "norm_eps": 1e-5, "vocab_size": -1}
    for name, n, embedding, more in (("meta-2", 2, 1, {}), ("meta-4", 4, 0, {"rope_theta": 500000.0}),
                                     ("meta-scaled", 1, 0, {"rope_theta": 500000.0, "use_scaled_rope": True})):
        folder = OUT / name
        folder.mkdir(exist_ok=True)
        (folder / "params.json").write_text(json.dumps({**params, **more}))
        for i in range(n):
            part = {k: cut(k, v, i, n, embedding) for k, v in weights.items()}
            part["rope.freqs"] = torch.ones(1)
            torch.save(part, folder / f"consolidated.{i:02d}.pth")
    folder = OUT / "mistral-native"
    folder.mkdir(exist_ok=True)
    mistral = {"dim": D, "n_layers": LAYERS, "head_dim": D // HEADS, "hidden_dim": FF, "n_heads": HEADS, "n_kv_heads": KV,
               "norm_eps": 1e-5, "vocab_size": V, "rope_theta": 1e6}
    (folder / "params.json").write_text(json.dumps(mistral))
    save_file(weights, folder / "consolidated.safetensors")
    expect("meta", {gguf_name(k): v for k, v in weights.items()})


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    make_torch()
    make_numpy()
    make_meta()
