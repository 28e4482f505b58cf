#!/usr/bin/env python3
"""Writes tests/fixtures/packed/: small checkpoints quantized by the real
libraries, each a folder of config.json and model.safetensors, and beside them
expected.safetensors: what the library that wrote them makes of them in float32.
Needs torch, safetensors, transformers, compressed-tensors, bitsandbytes and the
sources of AutoGPTQ and AutoAWQ (their folders, unpacked; they need not install):

    make_packed_cases.py --autogptq FOLDER --autoawq FOLDER [--out FOLDER] [--random N]

--random N writes N random cases of each kind to --out instead, for comparing by
the thousand (lm-hash of the two files of a case must agree). The outputs are
committed; run it again only to change them."""
import argparse
import importlib.util
import json
import pathlib
import sys
import types
import warnings

import torch
from safetensors.torch import save_file

warnings.simplefilter("ignore")
here = pathlib.Path(__file__).parent


def load(path, name):
    """One file of a package, without the package."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Libraries:
    def __init__(self, autogptq, autoawq):
        self.gptq = load(pathlib.Path(autogptq) / "auto_gptq/nn_modules/qlinear/qlinear_cuda.py", "qlinear_cuda").QuantLinear
        awq = pathlib.Path(autoawq) / "awq"
        self.awq_packing = load(awq / "utils/packing_utils.py", "awq.utils.packing_utils")
        for name, members in {"awq": {}, "awq.utils": {}, "awq.utils.module": {"try_import": lambda n: (None, "")},
                              "awq.utils.utils": {"get_best_device": lambda: "cpu"}}.items():
            sys.modules[name] = types.ModuleType(name)
            for k, v in members.items():
                setattr(sys.modules[name], k, v)
        sys.modules["awq.utils.packing_utils"] = self.awq_packing
        self.awq = load(awq / "modules/linear/gemm.py", "awq.modules.linear.gemm").WQLinear_GEMM


def weights(g, out, inp, scale=0.5):
    w = torch.randn(out, inp, generator=g) * scale
    w[0, : inp // 2] *= 8  # an outlier row
    return w


# ---- GPTQ

def gptq(lib, g, bits, group, sym, desc_act, v2, out=32, inp=64, w=None):
    w = (weights(g, out, inp) if w is None else w).half()
    out, inp = w.shape
    size = inp if group < 0 else group
    n = -(-inp // size)
    q_max = 2**bits - 1
    scales, zeros = torch.zeros(out, n), torch.zeros(out, n)
    order = torch.arange(inp) // size
    if desc_act:
        order = order[torch.randperm(inp, generator=g)]
    for k in range(n):
        part = w[:, order == k].float()
        if sym:
            scales[:, k] = part.abs().amax(1) * 2 / q_max
            zeros[:, k] = 2 ** (bits - 1)
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scales[:, k] = (high - low) / q_max
            zeros[:, k] = torch.round(-low / scales[:, k]).clamp(1, q_max)
    linear = torch.nn.Linear(inp, out, bias=False, dtype=torch.float16)
    linear.weight.data = w
    m = lib.gptq(bits, group, inp, out, False, weight_dtype=torch.float16)
    # AutoGPTQ rounds without clamping: what it is given must lie on the grid.
    s, z = scales.half().float()[:, order], zeros[:, order]
    linear.weight.data = ((torch.round(w.float() / s + z).clamp(0, q_max) - z) * s).half()
    m.pack(linear, scales.half(), zeros.clone(), order.int())
    m.scales = m.scales.float()
    x = torch.eye(inp)
    m.autogptq_cuda_available = False
    dense = m(x).t().contiguous()
    qzeros = m.qzeros.clone()
    if v2:
        codes = lib.unpack_columns(qzeros, bits, out) + 1
        assert codes.max() < 2**bits
        qzeros = lib.pack_columns(codes, bits)
    t = {"m.q_proj.qweight": m.qweight, "m.q_proj.qzeros": qzeros, "m.q_proj.scales": m.scales.half(),
         "m.q_proj.g_idx": m.g_idx.int(), "m.norm.weight": torch.ones(4)}
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": desc_act, "sym": sym}
    if v2:
        config["checkpoint_format"] = "gptq_v2"
    return config, t, {"m.q_proj.weight": dense, "m.norm.weight": torch.ones(4)}


def unpack_columns(packed, bits, n):
    """Dense bit stream along the columns."""
    words = packed.numpy().astype("uint32").astype(object)
    out = []
    for row in words:
        whole = sum(int(w) << 32 * i for i, w in enumerate(row))
        out.append([whole >> bits * i & (2**bits - 1) for i in range(n)])
    return torch.tensor(out, dtype=torch.int64)


def pack_columns(codes, bits):
    rows = []
    for row in codes.tolist():
        whole = sum(c << bits * i for i, c in enumerate(row))
        words = [whole >> 32 * i & 0xFFFFFFFF for i in range(-(-len(row) * bits // 32))]
        rows.append([w - 2**32 if w >= 2**31 else w for w in words])
    return torch.tensor(rows, dtype=torch.int32)


# ---- AWQ

def awq(lib, g, group, out=32, inp=64, w=None):
    w = (weights(g, out, inp) if w is None else w).half()
    out, inp = w.shape
    size = inp if group < 0 else group
    part = w.float().reshape(out, -1, size)
    low, high = part.amin(2), part.amax(2)
    scales = ((high - low).clamp(min=1e-5) / 15).half()
    zeros = torch.round(-low / scales.float()).clamp(0, 15)
    q = torch.round(part / scales.float()[..., None] + zeros[..., None]).clamp(0, 15)
    linear = torch.nn.Linear(inp, out, bias=False, dtype=torch.float16)
    linear.weight.data = ((q - zeros[..., None]) * scales.float()[..., None]).reshape(out, inp).half()
    m = lib.awq.from_linear(linear, 4, size, scales=scales.t().contiguous(), zeros=zeros.t().contiguous())
    dense = lib.awq_packing.dequantize_gemm(m.qweight, m.qzeros, m.scales.float(), 4, size)
    t = {"m.q_proj.qweight": m.qweight.int(), "m.q_proj.qzeros": m.qzeros.int(), "m.q_proj.scales": m.scales,
         "m.norm.weight": torch.ones(4)}
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    return config, t, {"m.q_proj.weight": dense.t().contiguous(), "m.norm.weight": torch.ones(4)}


# ---- FP8

def fp8(lib, g, block, dtype=torch.float8_e4m3fn, scale_dtype=torch.float32, out=48, inp=64, w=None):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    w = weights(g, out, inp) if w is None else w
    out, inp = w.shape
    bm, bn = block or (out, inp)
    rows, cols = -(-out // bm), -(-inp // bn)
    padded = torch.zeros(rows * bm, cols * bn)
    padded[:out, :inp] = w
    tiles = padded.reshape(rows, bm, cols, bn)
    scale = (tiles.abs().amax((1, 3)) / torch.finfo(dtype).max).clamp(min=1e-8)
    if scale_dtype == torch.float8_e8m0fnu:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    scale = scale.to(scale_dtype)
    q = (tiles / scale.float()[:, None, :, None]).clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    q = q.reshape(rows * bm, cols * bn)[:out, :inp].to(dtype).contiguous()
    if out % bm == 0 and inp % bn == 0:
        dense = Fp8Dequantize(None)._dequantize_one(q, scale, output_dtype=torch.float32)
    else:  # transformers wants whole blocks, DeepSeek's kernel does not
        grid = scale.float().repeat_interleave(bm, 0).repeat_interleave(bn, 1)[:out, :inp]
        dense = q.float() * grid
    stored = scale if block else scale.reshape(())
    t = {"m.q_proj.weight": q, "m.q_proj.weight_scale_inv": stored, "m.q_proj.input_scale": torch.tensor(1.0),
         "m.norm.weight": torch.ones(4)}
    config = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(block) if block else None}
    return config, t, {"m.q_proj.weight": dense, "m.norm.weight": torch.ones(4)}


# ---- compressed-tensors

def compressed(lib, g, fmt, args, scale_dtype=torch.float32, out=32, inp=64, g_idx=False, w=None):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams
    w = weights(g, out, inp) if w is None else w
    out, inp = w.shape
    a = QuantizationArgs(**args)
    scheme = QuantizationScheme(targets=["Linear"], weights=a)
    c = BaseCompressor.get_value_from_registry(fmt)
    state = {"weight": w}
    if fmt in ("nvfp4-pack-quantized", "mxfp4-pack-quantized"):
        groups = w.reshape(out, -1, a.group_size)
        top = groups.abs().amax(2)
        if fmt.startswith("nvfp4"):
            total = (448.0 * 6.0 / w.abs().max()).reshape(1)
            state["weight_global_scale"] = total
            state["weight_scale"] = (top / 6 * total).clamp(max=448).to(torch.float8_e4m3fn).float()
        else:
            state["weight_scale"] = torch.exp2(torch.ceil(torch.log2(top.clamp(min=1e-20) / 6)))
    else:
        strategy = str(getattr(a.strategy, "value", a.strategy))
        if strategy == "group":
            low, high = (f(w.reshape(out, -1, a.group_size), 2) for f in (torch.amin, torch.amax))
        elif strategy == "channel":
            low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
        elif strategy == "block":
            bm, bn = a.block_structure
            rows, cols = -(-out // bm), -(-inp // bn)
            padded = torch.zeros(rows * bm, cols * bn)
            padded[:out, :inp] = w
            tiles = padded.reshape(rows, bm, cols, bn)
            low, high = tiles.amin((1, 3)), tiles.amax((1, 3))
        else:
            low, high = w.min().reshape(1), w.max().reshape(1)
        scale, zp = calculate_qparams(low, high, a)
        state["weight_scale"] = scale.to(scale_dtype)
        state["weight_zero_point"] = zp
        if g_idx:
            order = (torch.arange(inp) // a.group_size)[torch.randperm(inp, generator=g)]
            perm = torch.argsort(order, stable=True)
            state["weight"] = w[:, perm]
    packed = c.compress(state, scheme)
    plain = {k: v.float() if k == "weight_scale" and v.dtype in (torch.bfloat16, torch.float16) else v
             for k, v in packed.items()}
    if g_idx:  # compressed in the order of groups, stored in the model's
        q = c.decompress({**plain, "weight_scale": torch.ones_like(plain["weight_scale"])}, scheme)["weight"]
        back = torch.empty_like(q)
        back[:, perm] = q
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
        packed["weight_packed"] = pack_to_int32(back.to(torch.int8), a.num_bits)
        packed["weight_g_idx"] = order.int()
        dense = torch.empty_like(w)
        dense[:, perm] = c.decompress(plain, scheme)["weight"].float()
    elif fmt == "nvfp4-pack-quantized":  # the library's own decompress computes in bfloat16
        from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
        from compressed_tensors.quantization.lifecycle.forward import dequantize
        codes = unpack_fp4_from_uint8(packed["weight_packed"], out, inp).float()
        dense = dequantize(x_q=codes, scale=packed["weight_scale"].float(), args=a, global_scale=packed["weight_global_scale"],
                           dtype=torch.float32)
    else:
        dense = c.decompress(plain, scheme)["weight"].float()
    t = {f"m.q_proj.{k}": v.contiguous() for k, v in packed.items() if v is not None}
    t["m.norm.weight"] = torch.ones(4)
    config = {"quant_method": "compressed-tensors", "format": fmt, "ignore": ["lm_head"],
              "config_groups": {"group_0": {"targets": ["Linear"], "weights": json.loads(a.model_dump_json())}}}
    return config, t, {"m.q_proj.weight": dense.contiguous(), "m.norm.weight": torch.ones(4)}


def mixed(lib, g):
    """Two groups: one by a pattern, the others by class."""
    a, ta, ea = compressed(lib, g, "pack-quantized", dict(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32))
    b, tb, eb = compressed(lib, g, "naive-quantized", dict(num_bits=8, type="float", symmetric=True, strategy="channel"))
    t = dict(ta)
    t.update({k.replace("q_proj", "down_proj"): v for k, v in tb.items()})
    e = dict(ea)
    e.update({k.replace("q_proj", "down_proj"): v for k, v in eb.items()})
    first, second = a["config_groups"]["group_0"], b["config_groups"]["group_0"]
    second["targets"] = ["re:.*down_proj$"]
    first["format"], second["format"] = "pack-quantized", "naive-quantized"
    a["format"] = "mixed-precision"
    a["config_groups"] = {"group_0": first, "group_1": second}
    return a, t, e


# ---- bitsandbytes (0.50.2 decodes 4-bit matrices of fewer than 64 columns wrongly on a CPU with AVX-512: none here)

def bnb4(lib, g, kind, nested, block=64, out=30, inp=66, dtype=torch.float16, w=None):
    import bitsandbytes.functional as F
    w = (weights(g, out, inp) if w is None else w).to(dtype)
    q, state = F.quantize_4bit(w, blocksize=block, compress_statistics=nested, quant_type=kind)
    t = {"m.q_proj.weight": q}
    t.update({f"m.q_proj.weight.{k}": v for k, v in state.as_dict(packed=True).items()})
    absmax = state.absmax
    if nested:
        absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    state.dtype = torch.float32
    dense = F.dequantize_4bit(q, state)
    if kind == "fp4":  # its kernels disagree on the sign of a zero; its quant_map has one without
        dense = dense + 0.0
    t["m.norm.weight"] = torch.ones(4)
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind,
              "bnb_4bit_use_double_quant": nested}
    assert dense.dtype == torch.float32 and absmax.dtype == torch.float32
    return config, t, {"m.q_proj.weight": dense.contiguous(), "m.norm.weight": torch.ones(4)}


def bnb8(lib, g, out=24, inp=40):
    import bitsandbytes.functional as F
    w = weights(g, out, inp)
    q, scale, _ = F.int8_vectorwise_quant(w.half())
    dense = F.int8_vectorwise_dequant(q, scale).float()
    t = {"m.q_proj.weight": q, "m.q_proj.SCB": scale.float(), "m.q_proj.weight_format": torch.tensor(0, dtype=torch.uint8),
         "m.norm.weight": torch.ones(4)}
    return {"quant_method": "bitsandbytes", "load_in_8bit": True}, t, {"m.q_proj.weight": dense, "m.norm.weight": torch.ones(4)}


# ---- MXFP4 of gpt-oss

def mxfp4(lib, g, experts=2, rows=6, cols=64):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    blocks = torch.randint(0, 256, (experts, rows, cols // 32, 16), generator=g, dtype=torch.uint8)
    scales = torch.randint(110, 140, (experts, rows, cols // 32), generator=g, dtype=torch.uint8)
    dense = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).transpose(1, 2).contiguous()
    t = {"m.experts.gate_up_proj_blocks": blocks, "m.experts.gate_up_proj_scales": scales, "m.norm.weight": torch.ones(4)}
    return {"quant_method": "mxfp4"}, t, {"m.experts.gate_up_proj": dense, "m.norm.weight": torch.ones(4)}


def ct(bits, kind="int", strategy="group", size=None, symmetric=True, block=None):
    a = dict(num_bits=bits, type=kind, symmetric=symmetric, strategy=strategy)
    if size:
        a["group_size"] = size
    if block:
        a["block_structure"] = block
    return a


CASES = {
    "gptq4": lambda l, g: gptq(l, g, 4, 32, True, False, False),
    "gptq4_asym": lambda l, g: gptq(l, g, 4, 32, False, False, False),
    "gptq4_desc": lambda l, g: gptq(l, g, 4, 16, False, True, False),
    "gptq4_v2": lambda l, g: gptq(l, g, 4, 32, True, False, True),
    "gptq8": lambda l, g: gptq(l, g, 8, 32, True, False, False),
    "gptq8_row": lambda l, g: gptq(l, g, 8, -1, True, False, False),
    "gptq3": lambda l, g: gptq(l, g, 3, 32, True, False, False),
    "gptq2": lambda l, g: gptq(l, g, 2, 32, False, False, False),
    "awq": lambda l, g: awq(l, g, 32),
    "awq_row": lambda l, g: awq(l, g, -1),
    "fp8_tensor": lambda l, g: fp8(l, g, None),
    "fp8_block": lambda l, g: fp8(l, g, (16, 32)),
    "fp8_ragged": lambda l, g: fp8(l, g, (32, 48)),
    "fp8_e8m0": lambda l, g: fp8(l, g, (16, 16), scale_dtype=torch.float8_e8m0fnu),
    "fp8_e5m2": lambda l, g: fp8(l, g, (16, 32), dtype=torch.float8_e5m2),
    "ct_int4": lambda l, g: compressed(l, g, "pack-quantized", ct(4, size=32), torch.bfloat16),
    "ct_int4_asym": lambda l, g: compressed(l, g, "pack-quantized", ct(4, size=16, symmetric=False), torch.float16),
    "ct_int4_row": lambda l, g: compressed(l, g, "pack-quantized", ct(4, strategy="channel"), inp=52),
    "ct_int8_packed": lambda l, g: compressed(l, g, "pack-quantized", ct(8, size=32)),
    "ct_int3": lambda l, g: compressed(l, g, "pack-quantized", ct(3, size=32), inp=96),
    "ct_int6": lambda l, g: compressed(l, g, "pack-quantized", ct(6, size=16, symmetric=False), out=20),
    "ct_int4_g_idx": lambda l, g: compressed(l, g, "pack-quantized", ct(4, size=16), g_idx=True),
    "ct_int8": lambda l, g: compressed(l, g, "int-quantized", ct(8, strategy="channel"), torch.bfloat16),
    "ct_int8_asym": lambda l, g: compressed(l, g, "int-quantized", ct(8, strategy="channel", symmetric=False)),
    "ct_int8_group": lambda l, g: compressed(l, g, "int-quantized", ct(8, size=32), torch.float16),
    "ct_fp8": lambda l, g: compressed(l, g, "float-quantized", ct(8, "float", "channel"), torch.bfloat16),
    "ct_fp8_tensor": lambda l, g: compressed(l, g, "float-quantized", ct(8, "float", "tensor")),
    "ct_fp8_block": lambda l, g: compressed(l, g, "float-quantized", ct(8, "float", "block", block=[16, 32])),
    "ct_nvfp4": lambda l, g: compressed(l, g, "nvfp4-pack-quantized", ct(4, "float", "tensor_group", 16)),
    "ct_mxfp4": lambda l, g: compressed(l, g, "mxfp4-pack-quantized", ct(4, "float", "group", 32)),
    "ct_mixed": mixed,
    "bnb_nf4": lambda l, g: bnb4(l, g, "nf4", False),
    "bnb_nf4_nested": lambda l, g: bnb4(l, g, "nf4", True, out=270),
    "bnb_fp4": lambda l, g: bnb4(l, g, "fp4", False, dtype=torch.bfloat16),
    "bnb_int8": bnb8,
    "mxfp4": mxfp4,
}


# ---- whole models

MODELS = {
    "tiny-llama-gptq": ("tiny-llama-bias", lambda l, g, w: gptq(l, g, 4, 32, True, False, False, w=w)),
    "tiny-mistral-awq": ("tiny-mistral", lambda l, g, w: awq(l, g, 32, w=w)),
    "tiny-qwen3-fp8": ("tiny-qwen3", lambda l, g, w: fp8(l, g, (32, 32), w=w)),
    "tiny-llama-nf4": ("tiny-llama-tied", lambda l, g, w: bnb4(l, g, "nf4", False, w=w)),
    "tiny-llama-int4": ("tiny-llama-llama3", lambda l, g, w: compressed(
        l, g, "pack-quantized", ct(4, size=32), torch.float16, w=w)),
    "tiny-mistral-nvfp4": ("tiny-mistral", lambda l, g, w: compressed(
        l, g, "nvfp4-pack-quantized", ct(4, "float", "tensor_group", 16), w=w)),
    "tiny-gpt-oss-mxfp4": ("tiny-gpt-oss", None),
}
WIDER = {"tiny-llama-bias": dict(hidden_size=64, intermediate_size=96), "tiny-mistral": dict(hidden_size=64, intermediate_size=128, head_dim=16),
         "tiny-qwen3": dict(hidden_size=64, intermediate_size=80), "tiny-llama-tied": dict(hidden_size=64), "tiny-llama-llama3": dict(),
         "tiny-gpt-oss": dict(hidden_size=64, intermediate_size=32)}


def mxfp4_blocks(w):
    """[..., in] to blocks and scales, to nearest."""
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    tiles = w.reshape(*w.shape[:-1], -1, 32)
    e = torch.floor(torch.log2(tiles.abs().amax(-1).clamp(min=1e-30))) - 2
    x = tiles / torch.exp2(e)[..., None]
    code = (x.abs()[..., None] - levels).abs().argmin(-1) + 8 * (x < 0)
    return (code[..., 0::2] | code[..., 1::2] << 4).to(torch.uint8), (e + 127).to(torch.uint8)


def quantize_experts(tensors):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    stored, dense = {}, {}
    for k, v in tensors.items():
        if k.endswith(("gate_up_proj", "down_proj")) and v.dim() == 3:
            blocks, scales = mxfp4_blocks(v.float().transpose(1, 2).contiguous())
            stored[k + "_blocks"], stored[k + "_scales"] = blocks, scales
            dense[k] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        else:
            stored[k], dense[k] = v, v.float()
    return {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}, stored, dense


def quantize_linears(lib, g, make, tensors):
    stored, dense, config = {}, {}, None
    for k, v in tensors.items():
        if v.dim() == 2 and "_proj" in k:
            config, t, e = make(lib, g, v.float())
            stored.update({k.replace("weight", "") + n.removeprefix("m.q_proj."): x for n, x in t.items()
                           if n != "m.norm.weight" and not n.endswith("input_scale")})
            dense[k] = e["m.q_proj.weight"]
        else:
            stored[k], dense[k] = v, v.float()
    return config, stored, dense


def model(lib, folder, base, make, seed):
    """A tiny model of make_fixtures.py, wider, quantized, and its logits in float64 from the decoded weights."""
    import shutil
    import tempfile
    import transformers
    from safetensors.torch import load_file
    fixtures = load(here / "make_fixtures.py", "make_fixtures")
    family, dtype, _, args = fixtures.MODELS[base]
    args = {k: v for k, v in args.items() if k not in ("hub", "old_config", "experts")} | WIDER[base]
    cfg = getattr(transformers, family + "Config")(**args)
    made = getattr(transformers, family + "ForCausalLM")(cfg).eval()
    gen = torch.Generator().manual_seed(seed)
    fixtures.randomize(made, gen)
    ids = torch.randint(3, cfg.vocab_size, (24,), generator=gen)
    with tempfile.TemporaryDirectory() as tmp:
        plain = pathlib.Path(tmp) / base
        made.to(getattr(torch, dtype)).save_pretrained(plain)
        tensors = {k: v.clone() for k, v in load_file(plain / "model.safetensors").items()}
        config, stored, dense = quantize_linears(lib, gen, make, tensors) if make else quantize_experts(tensors)
        save_file(dense, plain / "model.safetensors", metadata={"format": "pt"})
        ref = fixtures.run_f64(fixtures.load_exact(plain), ids)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        json_config = json.loads((plain / "config.json").read_text())
        json_config["quantization_config"] = config
        (folder / "config.json").write_text(json.dumps(json_config, indent=2) + "\n")
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        save_file({"input_ids": ids, "logits": ref["logits"].contiguous()}, folder / "reference.safetensors")
        fixtures.plain_modes(folder)


def pick(g, *xs):
    return xs[int(torch.randint(0, len(xs), (1,), generator=g))]


RANDOM = {
    "gptq": lambda l, g: gptq(l, g, pick(g, 2, 3, 4, 8), pick(g, 32, 64, -1), pick(g, True, False), pick(g, True, False),
                              False, pick(g, 32, 64, 96), pick(g, 64, 128, 192)),
    "awq": lambda l, g: awq(l, g, pick(g, 16, 32, -1), pick(g, 32, 64, 96), pick(g, 32, 64, 96)),
    "fp8": lambda l, g: fp8(l, g, pick(g, None, (16, 16), (128, 128), (7, 9), (1, 32)),
                            pick(g, torch.float8_e4m3fn, torch.float8_e5m2), pick(g, torch.float32, torch.bfloat16),
                            pick(g, 16, 33, 130), pick(g, 32, 65, 200)),
    "ct": lambda l, g: compressed(l, g, "pack-quantized", ct(pick(g, 2, 3, 4, 5, 6, 7, 8), size=pick(g, 8, 16, 32),
                                                             symmetric=pick(g, True, False)),
                                  pick(g, torch.float32, torch.bfloat16, torch.float16), pick(g, 5, 32, 33), pick(g, 64, 96)),
    "ct_row": lambda l, g: compressed(l, g, "pack-quantized", ct(pick(g, 4, 8), strategy="channel", symmetric=pick(g, True, False)),
                                      pick(g, torch.float32, torch.float16), pick(g, 5, 32), pick(g, 7, 30, 64)),
    "ct_8": lambda l, g: compressed(l, g, "naive-quantized", ct(8, pick(g, "int", "float"), pick(g, "channel", "tensor")),
                                    pick(g, torch.float32, torch.bfloat16), pick(g, 5, 32), pick(g, 7, 64)),
    "ct_block": lambda l, g: compressed(l, g, "float-quantized", ct(8, "float", "block", block=pick(g, [16, 16], [32, 16])),
                                        out=pick(g, 32, 40), inp=pick(g, 64, 72)),
    "nvfp4": lambda l, g: compressed(l, g, "nvfp4-pack-quantized", ct(4, "float", "tensor_group", 16), out=pick(g, 3, 32)),
    "bnb": lambda l, g: bnb4(l, g, pick(g, "nf4", "fp4"), pick(g, True, False), pick(g, 64, 128), pick(g, 30, 100),
                             pick(g, 66, 128), pick(g, torch.float16, torch.bfloat16)),
    "bnb8": lambda l, g: bnb8(l, g, pick(g, 24, 33), pick(g, 40, 77)),
    "mxfp4": lambda l, g: mxfp4(l, g, pick(g, 1, 3), pick(g, 2, 6), pick(g, 32, 96)),
}


def write(folder, case):
    config, tensors, expected = case
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}, indent=1) + "\n")
    save_file(tensors, folder / "model.safetensors")
    (folder / "expected").mkdir(exist_ok=True)
    save_file(expected, folder / "expected" / "model.safetensors")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--autogptq", required=True)
    p.add_argument("--autoawq", required=True)
    p.add_argument("--out", type=pathlib.Path, default=here / "fixtures" / "packed")
    p.add_argument("--random", type=int, default=0)
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()
    lib = Libraries(o.autogptq, o.autoawq)
    lib.unpack_columns, lib.pack_columns = unpack_columns, pack_columns
    g = torch.Generator().manual_seed(o.seed)
    for i, (name, (base, make)) in enumerate(MODELS.items() if not o.random else ()):
        model(lib, o.out / "models" / name, base, make, 77 + i)
    for name, make in (RANDOM if o.random else CASES).items():
        for i in range(o.random or 1):
            try:
                case = make(lib, g)
            except RuntimeError as error:  # shapes that a library itself does not take
                if not o.random:
                    raise
                print(f"{name}-{i}: {error}", file=sys.stderr)
                continue
            write(o.out / (f"{name}-{i}" if o.random else name), case)


main()
