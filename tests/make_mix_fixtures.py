#!/usr/bin/env python3
"""Make tests/fixtures/mixes.txt: which type llama-quantize gives every tensor.

    LLAMA_QUANTIZE=/path/llama-quantize python3 tests/make_mix_fixtures.py

Writes GGUF headers of made-up models (their data is a hole), runs
`llama-quantize --dry-run` with every file type, with and without importance,
and keeps a line for each: what was decided, counted by type, and the CRC-32 of
all lines "NAME TYPE\n" in the order in which the tensors are typed.
tests/test_policy.c builds the same tensors from the model's line.
"""
import os
import pathlib
import re
import struct
import subprocess
import tempfile
import zlib

OUT = pathlib.Path(__file__).resolve().parent / "fixtures" / "mixes.txt"
QUANTIZE = os.environ["LLAMA_QUANTIZE"]
VOCAB, D_HEAD = 64, 16
# name: architecture, layers, heads, key/value heads, experts, feed-forward, own output matrix
MODELS = {
    "llama-32": ("llama", 32, 16, 4, 0, 768, True),
    "llama-33-tied": ("llama", 33, 16, 16, 0, 768, False),
    "llama-7-narrow": ("llama", 7, 18, 2, 0, 160, True),
    "llama-80-70b": ("llama", 80, 16, 2, 0, 768, True),
    "llama-80-65b": ("llama", 80, 16, 16, 0, 768, True),
    "mixtral-32": ("llama", 32, 16, 4, 8, 768, True),
    "moe4-17": ("llama", 17, 16, 8, 4, 768, True),
    "moe16-24": ("llama", 24, 16, 8, 16, 768, False),
    "falcon-32": ("falcon", 32, 16, 1, 0, 1024, True),
    "gpt2-12": ("gpt2", 12, 16, 16, 0, 1024, False),
    "gpt2-48-xl": ("gpt2", 48, 20, 20, 0, 1280, False),
    "qwen2-80": ("qwen2", 80, 16, 8, 0, 768, True),
}
TYPES = """Q1_0 Q2_0 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K
IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4_MOE F16 BF16""".split()


def tensors(arch, n_layers, heads, kv, experts, ff, output):
    """[(name, ne)], innermost dimension first."""
    d = heads * D_HEAD
    t = [("token_embd.weight", [d, VOCAB]), ("output_norm.weight", [d])]
    if output:
        t.append(("output.weight", [d, VOCAB]))
    if arch == "gpt2":
        t.append(("position_embd.weight", [d, 32]))
    for i in range(n_layers):
        b = f"blk.{i}."
        t += [(b + "attn_norm.weight", [d]), (b + "ffn_norm.weight", [d])]
        if arch in ("falcon", "gpt2"):
            t.append((b + "attn_qkv.weight", [d, d + 2 * kv * D_HEAD]))
        else:
            t += [(b + "attn_q.weight", [d, d]), (b + "attn_k.weight", [d, kv * D_HEAD]),
                  (b + "attn_v.weight", [d, kv * D_HEAD])]
        t.append((b + "attn_output.weight", [d, d]))
        end, outer = ("_exps", [experts]) if experts else ("", [])
        if experts:
            t.append((b + "ffn_gate_inp.weight", [d, experts]))
        if arch not in ("falcon", "gpt2"):
            t.append((b + f"ffn_gate{end}.weight", [d, ff] + outer))
        t += [(b + f"ffn_up{end}.weight", [d, ff] + outer), (b + f"ffn_down{end}.weight", [ff, d] + outer)]
    return t


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def pair(key, v):
    if isinstance(v, str):
        return text(key) + struct.pack("<I", 8) + text(v)
    return text(key) + (struct.pack("<If", 6, v) if isinstance(v, float) else struct.pack("<II", 4, v))


def write_gguf(path, arch, n_layers, heads, kv, experts, ff, all_tensors):
    keys = {"general.architecture": arch, f"{arch}.block_count": n_layers, f"{arch}.context_length": 32,
            f"{arch}.embedding_length": heads * D_HEAD, f"{arch}.feed_forward_length": ff,
            f"{arch}.attention.head_count": heads, f"{arch}.attention.head_count_kv": kv,
            f"{arch}.attention.layer_norm_rms_epsilon": 1e-5, f"{arch}.attention.layer_norm_epsilon": 1e-5,
            f"{arch}.rope.dimension_count": D_HEAD}
    if experts:
        keys |= {f"{arch}.expert_count": experts, f"{arch}.expert_used_count": 2}
    head, at = b"", 0
    for name, ne in all_tensors:
        head += text(name) + struct.pack("<I", len(ne)) + struct.pack(f"<{len(ne)}Q", *ne) + struct.pack("<IQ", 0, at)
        n = 4
        for x in ne:
            n *= x
        at += (n + 31) // 32 * 32
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(all_tensors), len(keys)) + \
        b"".join(pair(k, v) for k, v in keys.items()) + head
    with open(path, "wb") as f:
        f.write(head)
        f.truncate((len(head) + 31) // 32 * 32 + at)


def write_importance(path, all_tensors):
    entries = [(n, ne[0] * (ne[2] if len(ne) > 2 else 1)) for n, ne in all_tensors if len(ne) > 1]
    with open(path, "wb") as f:
        f.write(struct.pack("<i", len(entries)))
        for name, n in entries:
            f.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, n) + struct.pack("<f", 1) * n)


def layer(name):
    m = re.match(r"blk\.(\d+)\.", name)
    return int(m[1]) if m else -1


def decide(gguf, ftype, importance):
    """{name: type}; None when llama-quantize has no answer."""
    r = subprocess.run([QUANTIZE, "--dry-run", *(["--imatrix", importance] if importance else []), gguf, ftype],
                       capture_output=True, text=True)
    out = r.stdout + r.stderr
    if r.returncode != 0:
        assert "no tensor type fallback" in out, out[-2000:]
        return None
    line = r"^\[ *\d+/ *\d+\] (\S+) +- \[.*?\], type = +(\S+), size = .*?(?:-> .*?\((\S+)\))?$"
    return {m[1]: (m[3] or m[2]).upper() for m in re.finditer(line, out, re.M)}


def main():
    lines = ["# made by tests/make_mix_fixtures.py",
             "# model NAME ARCH LAYERS HEADS KV-HEADS EXPERTS FEED-FORWARD OWN-OUTPUT",
             "# MODEL FTYPE IMPORTANCE CRC-32 TYPE:N ..."]
    with tempfile.TemporaryDirectory() as tmp:
        gguf, importance = tmp + "/m.gguf", tmp + "/m.dat"
        for name, (arch, n_layers, heads, kv, experts, ff, output) in MODELS.items():
            t = tensors(arch, n_layers, heads, kv, experts, ff, output)
            write_gguf(gguf, arch, n_layers, heads, kv, experts, ff, t)
            write_importance(importance, t)
            lines.append(f"model {name} {arch} {n_layers} {heads} {kv} {experts} {ff} {int(output)}")
            for ftype in TYPES:
                for known in (0, 1):
                    types = decide(gguf, ftype, importance if known else None)
                    if types is None:
                        continue
                    assert set(types) == {n for n, _ in t}
                    order = sorted(types, key=lambda n: (layer(n), n))
                    crc = zlib.crc32("".join(f"{n} {types[n]}\n" for n in order).encode())
                    count = {}
                    for n in order:
                        count[types[n]] = count.get(types[n], 0) + 1
                    lines.append(f"{name} {ftype} {known} {crc:08x} " + " ".join(f"{k}:{v}" for k, v in sorted(count.items())))
    OUT.write_text("\n".join(lines) + "\n")
    print(len(lines), "lines")


if __name__ == "__main__":
    main()
