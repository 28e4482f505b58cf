#!/usr/bin/env python3
"""Decoding quantized checkpoints, against the libraries that wrote them.

    peer_packed.py BUILD FOLDER [--layers N] [--keep]

Makes one checkpoint a method in FOLDER (N matrices of 4096 x 11008, random
codes), decodes it with the library's own functions to float16 in memory (and then
saves that, which is the same work), and converts it with BUILD/lm-convert to safetensors of F16 on the disk; both on the
same cores, each three times, the median counts. Needs torch, safetensors,
compressed-tensors, bitsandbytes, transformers; AutoGPTQ's arithmetic is written
out here (its module wants packages of its own)."""
import argparse
import json
import pathlib
import statistics
import subprocess
import time

import torch
from safetensors import safe_open
from safetensors.torch import save_file

OUT, IN = 4096, 11008


def codes(*shape):
    return torch.randint(-2**31, 2**31, shape, dtype=torch.int64).to(torch.int32)


def half(*shape):
    return (torch.rand(shape) * 0.02 + 0.001).half()


def gptq():
    t = {"qweight": codes(IN // 8, OUT), "qzeros": torch.full((IN // 128, OUT // 8), 0x77777777, dtype=torch.int32),
         "scales": half(IN // 128, OUT), "g_idx": (torch.arange(IN) // 128).int()}
    return {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, t


def gptq_peer(t):
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    zeros = ((t["qzeros"][:, :, None] >> shifts) & 15).to(torch.int8).reshape(t["scales"].shape) + 1
    w = ((t["qweight"][:, None, :] >> shifts[None, :, None]) & 15).to(torch.int8).reshape(-1, OUT)
    g = t["g_idx"].long()
    return (t["scales"][g] * (w - zeros[g])).t().contiguous()


def awq():
    t = {"qweight": codes(IN, OUT // 8), "qzeros": codes(IN // 128, OUT // 8), "scales": half(IN // 128, OUT)}
    return {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}, t


def awq_peer(t):
    shifts = torch.arange(0, 32, 4)
    order = torch.arange(OUT).view(-1, 8)[:, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(-1)
    w = (t["qweight"][:, :, None] >> shifts).to(torch.int8).view(IN, -1)[:, order] & 15
    z = (t["qzeros"][:, :, None] >> shifts).to(torch.int8).view(IN // 128, -1)[:, order] & 15
    w = (w - z.repeat_interleave(128, 0)) * t["scales"].repeat_interleave(128, 0)
    return w.t().contiguous()


def fp8():
    w = (torch.randn(OUT, IN) * 50).clamp(-448, 448).to(torch.float8_e4m3fn)
    return ({"quant_method": "fp8", "weight_block_size": [128, 128]},
            {"weight": w, "weight_scale_inv": torch.rand(OUT // 128, IN // 128) * 1e-4})


def fp8_peer(t):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    return Fp8Dequantize(None)._dequantize_one(t["weight"], t["weight_scale_inv"], torch.float16)


ARGS = dict(num_bits=4, type="int", symmetric=True, strategy="group", group_size=128)


def ct():
    t = {"weight_packed": codes(OUT, IN // 8), "weight_scale": half(OUT, IN // 128), "weight_shape": torch.tensor([OUT, IN])}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": ARGS}}}, t


def ct_peer(t):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**ARGS))
    return BaseCompressor.get_value_from_registry("pack-quantized").decompress(t, scheme)["weight"]


def nf4():
    import bitsandbytes.functional as F
    q, s = F.quantize_4bit(torch.randn(OUT, IN).half() * 0.02, quant_type="nf4", compress_statistics=True)
    t = {"weight": q} | {f"weight.{k}": v for k, v in s.as_dict(packed=True).items()}
    return {"quant_method": "bitsandbytes", "load_in_4bit": True}, t


def nf4_peer(t):
    import bitsandbytes.functional as F
    state = F.QuantState.from_dict({k.removeprefix("weight."): v for k, v in t.items() if k != "weight"}, device="cpu")
    return F.dequantize_4bit(t["weight"], state)


METHODS = {"gptq": (gptq, gptq_peer), "awq": (awq, awq_peer), "fp8": (fp8, fp8_peer), "int4": (ct, ct_peer), "nf4": (nf4, nf4_peer)}


def make(folder, maker, n):
    config, tensors = maker()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"torch_dtype": "float16", "quantization_config": config}))
    save_file({f"m.layers.{i}.up_proj.{k}": v.clone() for i in range(n) for k, v in tensors.items()}, folder / "model.safetensors")


def peer(folder, decode, n):
    begin, out = time.perf_counter(), []
    with safe_open(folder / "model.safetensors", "pt") as f:
        for i in range(n):
            prefix = f"m.layers.{i}.up_proj."
            t = {k.removeprefix(prefix): f.get_tensor(k) for k in f.keys() if k.startswith(prefix)}
            out.append(decode(t).half())
    decoded = time.perf_counter() - begin
    save_file({str(i): t for i, t in enumerate(out)}, folder / "peer.safetensors")
    (folder / "peer.safetensors").unlink()
    return decoded, time.perf_counter() - begin


def ours(build, folder):
    begin = time.perf_counter()
    subprocess.run([f"{build}/lm-convert", "--force", str(folder), str(folder / "out.safetensors")], check=True, capture_output=True)
    return time.perf_counter() - begin


def main():
    p = argparse.ArgumentParser()
    p.add_argument("build")
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--keep", action="store_true", help="leave the checkpoints for bench_packed")
    o = p.parse_args()
    torch.manual_seed(1)
    weights = o.layers * OUT * IN
    print(f"{weights / 1e6:.0f} M weights a method, {torch.get_num_threads()} threads; library: decoded in memory; lm-convert: F16 on the disk")
    print(f"{'method':8} {'decode s':>9} {'and save s':>11} {'lm-convert s':>13} {'ratios':>12} {'M weights/s':>12}")
    for name, (maker, decode) in METHODS.items():
        folder = o.folder / name
        make(folder, maker, o.layers)
        with torch.no_grad():
            runs = [peer(folder, decode, o.layers) for _ in range(3)]
        a, saved = (statistics.median(x) for x in zip(*runs))
        b = statistics.median(ours(o.build, folder) for _ in range(3))
        (folder / "out.safetensors").unlink()
        if not o.keep:
            (folder / "model.safetensors").unlink()
        print(f"{name:8} {a:9.2f} {saved:11.2f} {b:13.2f} {a / b:6.2f}{saved / b:6.2f} {weights / b / 1e6:12.0f}", flush=True)


main()
