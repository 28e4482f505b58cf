#!/usr/bin/env python3
"""Make tests/fixtures/models/ and tests/fixtures/tokenizers/.

    python3 tests/make_fixtures.py [models] [tokenizers] [MODEL ...]

(both without arguments; MODEL as tiny-qwen2 makes that one).  Needs torch, transformers, safetensors, tokenizers
and sentencepiece; the tokenizer part also reads the texts and SentencePiece
models of a data folder ($LM_SHARED, default ../shared next to the
repository).  Every weight, id and text comes from a fixed seed, so a second
run writes the same bytes (given the same library versions).  The results are
committed: the C tests never run this script.

tests/fixtures/README.md says what each file holds.
"""
import json
import math
import os
import pathlib
import random
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "fixtures"
SHARED = pathlib.Path(os.environ.get("LM_SHARED", HERE.parent.parent / "shared"))


# ---------------------------------------------------------------- models ----
#
# name -> class, stored dtype, tokens in the reference, config arguments.
# "old_config" writes config.json the way transformers 4 did (rope_scaling and
# rope_theta at top level, torch_dtype), which is what most checkpoints have.

LLAMA = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, vocab_size=96,
             max_position_embeddings=128, rms_norm_eps=1e-5,
             bos_token_id=1, eos_token_id=2, pad_token_id=None,
             tie_word_embeddings=False)
# Wider heads, so that there are enough rotary frequencies to scale some and
# leave others alone; the "trained" context is 32, far below the 80 tokens.
SCALED = dict(LLAMA, num_attention_heads=2, num_key_value_heads=1)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=96, vocab_size=96,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
            bos_token_id=0, eos_token_id=0)

NEOX = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=96,
            max_position_embeddings=128, layer_norm_eps=1e-5, bos_token_id=0, eos_token_id=0,
            tie_word_embeddings=False)
FALCON = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=96,
              max_position_embeddings=128, bos_token_id=1, eos_token_id=2)
DEEPSEEK = dict(hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=24, qk_nope_head_dim=12,
                qk_rope_head_dim=8, v_head_dim=10, n_routed_experts=6, n_shared_experts=2,
                num_experts_per_tok=2, first_k_dense_replace=1, vocab_size=96, max_position_embeddings=256,
                rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)

MODELS = {
    "tiny-llama": ("Llama", "float32", 76, dict(LLAMA, vocab_size=80)),
    "tiny-llama-tied": ("Llama", "bfloat16", 80,
                        dict(LLAMA, tie_word_embeddings=True, head_dim=32)),
    "tiny-llama-bias": ("Llama", "float16", 80,
                        dict(LLAMA, intermediate_size=96, attention_bias=True,
                             mlp_bias=True, rms_norm_eps=1e-6)),
    "tiny-llama-linear": ("Llama", "bfloat16", 80, dict(
        SCALED, rope_parameters=dict(rope_type="linear", factor=4.0,
                                     rope_theta=10000.0))),
    "tiny-llama-llama3": ("Llama", "bfloat16", 80, dict(
        SCALED, old_config=True,
        rope_parameters=dict(rope_type="llama3", factor=8.0,
                             low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=32,
                             rope_theta=10000.0))),
    "tiny-llama-yarn": ("Llama", "bfloat16", 80, dict(
        SCALED, rope_parameters=dict(rope_type="yarn", factor=4.0,
                                     original_max_position_embeddings=32,
                                     rope_theta=10000.0))),
    "tiny-mistral": ("Mistral", "bfloat16", 80, dict(
        LLAMA, intermediate_size=96, sliding_window=None, old_config=True,
        head_dim=8, rope_parameters=dict(rope_type="default",
                                         rope_theta=1000000.0))),
    "tiny-gpt2": ("GPT2", "float16", 80, GPT2),
    "tiny-gpt2-hub": ("GPT2", "float32", 76, dict(
        GPT2, n_embd=16, n_head=2, n_positions=80, hub=True)),
    # ---- one or more of every other family; windows are shorter than the text
    "tiny-qwen2": ("Qwen2", "bfloat16", 80, dict(
        LLAMA, num_hidden_layers=3, use_sliding_window=True, sliding_window=24, max_window_layers=1,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    "tiny-qwen3": ("Qwen3", "bfloat16", 80, dict(
        LLAMA, head_dim=16, tie_word_embeddings=True, rms_norm_eps=1e-6)),
    "tiny-gemma": ("Gemma", "bfloat16", 80, dict(
        LLAMA, head_dim=16, num_key_value_heads=1, tie_word_embeddings=True)),
    "tiny-gemma2": ("Gemma2", "bfloat16", 80, dict(
        LLAMA, num_hidden_layers=3, head_dim=16, sliding_window=16, query_pre_attn_scalar=16,
        attn_logit_softcapping=5.0, final_logit_softcapping=8.0, tie_word_embeddings=True)),
    "tiny-gemma2-scalar": ("Gemma2", "float32", 80, dict(
        LLAMA, hidden_size=16, intermediate_size=32, head_dim=8, sliding_window=16, query_pre_attn_scalar=24,
        attn_logit_softcapping=None, final_logit_softcapping=None, tie_word_embeddings=True)),
    "tiny-gemma3": ("Gemma3", "bfloat16", 80, dict(
        LLAMA, intermediate_size=48, num_hidden_layers=7, head_dim=8, sliding_window=16, query_pre_attn_scalar=8,
        tie_word_embeddings=True, rope_parameters=dict(
            sliding_attention=dict(rope_type="default", rope_theta=100.0),
            full_attention=dict(rope_type="linear", factor=4.0, rope_theta=10000.0)))),
    "tiny-phi3": ("Phi3", "bfloat16", 80, dict(
        LLAMA, num_attention_heads=2, num_key_value_heads=1, original_max_position_embeddings=64,
        rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                             original_max_position_embeddings=64,
                             short_factor=[1.0, 1.0, 1.125, 1.25, 1.5, 1.5],
                             long_factor=[1.0, 1.25, 2.0, 3.5, 6.0, 8.0]))),
    "tiny-phi3-mini": ("Phi3", "bfloat16", 80, dict(
        LLAMA, num_key_value_heads=4, sliding_window=32)),
    "tiny-granite": ("Granite", "bfloat16", 80, dict(
        LLAMA, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, embedding_multiplier=6.0,
        attention_multiplier=0.25, residual_multiplier=0.5, logits_scaling=4.0)),
    "tiny-gptneox": ("GPTNeoX", "float16", 80, dict(
        NEOX, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5))),
    "tiny-gptneox-serial": ("GPTNeoX", "bfloat16", 80, dict(
        NEOX, use_parallel_residual=False,
        rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.25))),
    "tiny-olmo2": ("Olmo2", "bfloat16", 80, LLAMA),
    "tiny-olmo3": ("Olmo3", "bfloat16", 80, dict(
        LLAMA, num_hidden_layers=4, sliding_window=16, num_attention_heads=2, num_key_value_heads=1,
        rope_parameters=dict(rope_type="default", rope_theta=500000.0))),
    "tiny-falcon": ("Falcon", "bfloat16", 80, dict(FALCON)),
    "tiny-falcon-new": ("Falcon", "bfloat16", 80, dict(
        FALCON, new_decoder_architecture=True, num_kv_heads=2, tie_word_embeddings=False)),
    "tiny-falcon-rw": ("Falcon", "bfloat16", 80, dict(
        FALCON, alibi=True, multi_query=False, parallel_attn=False, bias=True, num_attention_heads=2)),
    "tiny-starcoder2": ("Starcoder2", "bfloat16", 80, dict(
        LLAMA, sliding_window=None, norm_epsilon=1e-5, use_bias=True, tie_word_embeddings=True,
        residual_dropout=0.0, embedding_dropout=0.0)),
    "tiny-starcoder2-window": ("Starcoder2", "float32", 80, dict(
        LLAMA, hidden_size=16, intermediate_size=48, sliding_window=24, norm_epsilon=1e-5, use_bias=False,
        residual_dropout=0.0, embedding_dropout=0.0)),
    "tiny-mistral-window": ("Mistral", "float32", 80, dict(
        LLAMA, hidden_size=16, intermediate_size=32, sliding_window=16, head_dim=8)),
    # ---- mixtures of experts; "fused" keeps the 3-D expert tensors of transformers 5
    "tiny-mixtral": ("Mixtral", "bfloat16", 80, dict(
        LLAMA, intermediate_size=48, num_local_experts=4, num_experts_per_tok=2, sliding_window=None,
        experts=("block_sparse_moe", "w1", "w3", "w2"))),
    "tiny-mixtral-fused": ("Mixtral", "float32", 80, dict(
        LLAMA, hidden_size=16, intermediate_size=32, num_local_experts=3, num_experts_per_tok=1, sliding_window=None)),
    "tiny-qwen3moe": ("Qwen3Moe", "bfloat16", 80, dict(
        LLAMA, head_dim=16, moe_intermediate_size=24, num_experts=6, num_experts_per_tok=3, norm_topk_prob=True,
        experts=("mlp", "gate_proj", "up_proj", "down_proj"))),
    "tiny-qwen2moe": ("Qwen2Moe", "bfloat16", 80, dict(
        LLAMA, moe_intermediate_size=24, shared_expert_intermediate_size=40, num_experts=5, num_experts_per_tok=2,
        experts=("mlp", "gate_proj", "up_proj", "down_proj"))),
    "tiny-qwen2moe-fused": ("Qwen2Moe", "float16", 80, dict(
        LLAMA, moe_intermediate_size=24, shared_expert_intermediate_size=24, num_experts=4, num_experts_per_tok=2)),
    "tiny-granitemoe": ("GraniteMoe", "bfloat16", 80, dict(
        LLAMA, intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, embedding_multiplier=6.0,
        attention_multiplier=0.25, residual_multiplier=0.5, logits_scaling=4.0, tie_word_embeddings=True)),
    "tiny-granitemoe-shared": ("GraniteMoeShared", "bfloat16", 80, dict(
        LLAMA, intermediate_size=24, shared_intermediate_size=32, num_local_experts=4, num_experts_per_tok=3,
        embedding_multiplier=6.0, attention_multiplier=0.25, residual_multiplier=0.5, logits_scaling=4.0)),
    "tiny-gpt-oss": ("GptOss", "bfloat16", 80, dict(
        LLAMA, intermediate_size=24, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=16,
        rope_parameters=dict(rope_type="yarn", factor=8.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
                             original_max_position_embeddings=32, rope_theta=150000.0))),
    "tiny-deepseek2": ("DeepseekV2", "bfloat16", 80, dict(
        DEEPSEEK, q_lora_rank=None, n_group=1, topk_group=1, topk_method="greedy", num_hidden_layers=3,
        first_k_dense_replace=1, routed_scaling_factor=1.0)),
    "tiny-deepseek2-groups": ("DeepseekV2", "bfloat16", 80, dict(
        DEEPSEEK, hidden_size=16, q_lora_rank=16, n_group=3, topk_group=1, topk_method="group_limited_greedy",
        routed_scaling_factor=4.0, rope_parameters=dict(
            rope_type="yarn", factor=8.0, original_max_position_embeddings=32, mscale=0.7, mscale_all_dim=0.7,
            beta_fast=32.0, beta_slow=1.0, rope_theta=10000.0))),
    "tiny-deepseek3": ("DeepseekV3", "bfloat16", 80, dict(
        DEEPSEEK, q_lora_rank=24, n_group=3, topk_group=2, norm_topk_prob=True, routed_scaling_factor=2.5,
        num_nextn_predict_layers=0, rope_parameters=dict(
            rope_type="yarn", factor=8.0, original_max_position_embeddings=32, mscale=1.0, mscale_all_dim=1.0,
            beta_fast=32.0, beta_slow=1.0, rope_theta=10000.0))),
    # the two magnitudes of YaRN apart; no groups, nothing normed
    "tiny-deepseek3-mscale": ("DeepseekV3", "float32", 80, dict(
        DEEPSEEK, hidden_size=16, q_lora_rank=16, n_group=1, topk_group=1, norm_topk_prob=False,
        routed_scaling_factor=1.5, num_nextn_predict_layers=0, rope_parameters=dict(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.6, mscale_all_dim=1.3,
            beta_fast=32.0, beta_slow=1.0, rope_theta=10000.0))),
    # only the full layers are scaled
    "tiny-olmo3-yarn": ("Olmo3", "float32", 80, dict(
        LLAMA, hidden_size=16, intermediate_size=32, num_hidden_layers=4, sliding_window=16, num_attention_heads=2,
        num_key_value_heads=1, rope_parameters=dict(
            full_attention=dict(rope_type="yarn", factor=8.0, attention_factor=1.2, beta_fast=32.0, beta_slow=1.0,
                                original_max_position_embeddings=32, rope_theta=500000.0),
            sliding_attention=dict(rope_type="default", rope_theta=500000.0)))),
}


def is_router(name):
    return name.endswith(("mlp.gate.weight", "router.weight", "router.layer.weight", "moe.gate.weight"))


def randomize(model, gen):
    """Give every parameter values that matter: matrices that keep the scale of
    their input, norms around 1, biases away from 0."""
    import torch
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=gen, dtype=torch.float64)
        if "norm" in name or ".ln_" in name:
            # Gemma's norms multiply by 1 + weight.
            mean = 0.0 if name.endswith("bias") or model.config.model_type.startswith("gemma") else 1.0
            r = r * 0.2 + mean
        elif name.endswith("bias"):
            r = r * 0.2
        elif "embed" in name or "wte" in name or "wpe" in name:
            r = r * 0.5
        elif name.endswith("sinks"):
            r = r * 0.5 + 1.0
        else:
            # Conv1D of GPT-2 stores [in, out], Linear [out, in].
            conv1d = ("attn.c_" in name or "mlp.c_" in name) and model.config.model_type == "gpt2"
            fan_in = p.shape[0 if conv1d else -1]
            if model.config.model_type == "gpt_oss" and p.dim() == 3:  # [experts, in, out]; reach the clamps
                fan_in, r = p.shape[1], r * (4.0 if "gate_up" in name else 1.0)
            r = r * (3.0 if is_router(name) else 1.2) / math.sqrt(fan_in)
        p.data.copy_(r)
    for name, b in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            b.copy_(torch.randn(b.shape, generator=gen, dtype=torch.float64) * 0.3)


def float64_everywhere():
    """Inside, whatever asks for float32 gets float64: norms, rotary tables and
    routers of transformers go through float32 whatever the model's dtype is."""
    import torch
    from torch.overrides import TorchFunctionMode

    def swap(x):
        return torch.float64 if x is torch.float32 else x

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = {k: swap(v) for k, v in (kwargs or {}).items()}
            if func is torch.Tensor.float:
                func = torch.Tensor.double
            return func(*map(swap, args), **kwargs)
    return Mode()


def load_exact(folder):
    """The model in float64 with all that it computes when it is made (rotary
    frequencies, the scale of embeddings) in float64 too."""
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_default_dtype(torch.float64)
    try:
        with float64_everywhere():
            # Falcon's eager attention adds ALiBi twice in this version.
            m = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float64, experts_implementation="eager",
                attn_implementation="sdpa" if "falcon" in folder.name else "eager").eval()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, t in [*m.named_buffers(), *m.named_parameters()]:
        assert t.dtype in (torch.float64, torch.int64, torch.bool), (name, t.dtype)
    return m


def first(x):
    return x[0] if isinstance(x, (tuple, list)) else x


def run_f64(model, ids):
    """logits and the residual stream before every layer and after the last,
    before the final norm (transformers' own last hidden state is after it)."""
    import torch
    hidden = []
    base = model.base_model
    layers = base.layers if hasattr(base, "layers") else base.h
    hooks = [layers[0].register_forward_pre_hook(
        lambda m, a, k: hidden.append(a[0] if a else k["hidden_states"]), with_kwargs=True)]
    hooks += [l.register_forward_hook(lambda m, a, o: hidden.append(first(o))) for l in layers]
    with torch.no_grad(), float64_everywhere():
        logits = model(ids[None], use_cache=False).logits[0]
    for h in hooks:
        h.remove()
    out = {"logits": logits}
    for i, h in enumerate(hidden):
        out[f"hidden_states.{i}"] = h[0]
    assert all(t.dtype == torch.float64 for t in out.values())
    assert len(hidden) == len(layers) + 1
    return out


def old_config(path, dtype):
    """Rewrite config.json as transformers 4 wrote it."""
    c = json.loads(path.read_text())
    rope = dict(c.pop("rope_parameters"))
    c["rope_theta"] = rope.pop("rope_theta")
    c["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    c.pop("dtype", None)
    c["torch_dtype"] = dtype
    c["transformers_version"] = "4.45.0"
    path.write_text(json.dumps(dict(sorted(c.items())), indent=2) + "\n")


def hub_gpt2(path, ctx):
    """Names without 'transformer.' and the causal masks as parameters."""
    import torch
    from safetensors.torch import load_file, save_file
    t = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    mask = torch.tril(torch.ones(ctx, ctx)).view(1, 1, ctx, ctx)
    for layer in {k.split(".")[1] for k in t if k.startswith("h.")}:
        t[f"h.{layer}.attn.bias"] = mask.clone()
    save_file(t, path, metadata={"format": "pt"})


def check_reload(folder, ids, ref):
    """What transformers computes from the finished folder, in plain float32,
    is the reference up to float32 noise."""
    import torch
    from transformers import AutoModelForCausalLM
    m = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = m(ids[None]).logits[0]
    diff = (logits.double() - ref["logits"]).abs().max().item()
    assert diff < 2e-5 * ref["logits"].abs().max(), (folder, diff)
    top2 = ref["logits"].topk(2).values
    print(f"{folder.name}: logits std {ref['logits'].std():.2f}, "
          f"float32 differs by {diff:.1e}, "
          f"least top-1 margin {(top2[:, 0] - top2[:, 1]).min():.3f}, "
          f"{sum(f.stat().st_size for f in folder.iterdir()) / 1024:.0f} KB")


def spell_experts(path, model_type, names):
    """names: (block, gate, up, down) for one 2-D tensor an expert, as older
    checkpoints have them; None: the 3-D tensors of transformers 5, where a
    family has both."""
    import torch
    from safetensors.torch import load_file, save_file
    t, out = load_file(path), {}
    tops = {k.split(".experts.")[0] for k in t if ".experts." in k}
    if not tops or model_type == "gpt_oss":
        return
    for k, v in t.items():
        if ".experts." not in k:
            out[k] = v
    for top in tops:
        mine = {k.split(".experts.")[1]: v for k, v in t.items() if k.startswith(top + ".experts.")}
        gate, up, down = stacked(mine)
        if names or model_type.startswith("deepseek"):
            block, *w = names or (top.split(".")[-1], "gate_proj", "up_proj", "down_proj")
            base = top.rsplit(".", 1)[0] + "." + block
            for e in range(gate.shape[0]):
                for n, x in zip(w, (gate, up, down)):
                    out[f"{base}.experts.{e}.{n}.weight"] = x[e].clone()
        else:
            out[top.replace("block_sparse_moe", "mlp") + ".experts.gate_up_proj"] = torch.cat((gate, up), 1)
            out[top.replace("block_sparse_moe", "mlp") + ".experts.down_proj"] = down
    if not names:
        out = {k.replace("block_sparse_moe.gate", "mlp.gate"): v for k, v in out.items()}
    save_file({k: v.contiguous() for k, v in out.items()}, path, metadata={"format": "pt"})


def stacked(experts):
    """gate, up and down [experts, out, in] of one layer, however they are spelled."""
    import torch
    if "gate_up_proj" in experts:
        gate, up = experts["gate_up_proj"].chunk(2, 1)
        return gate, up, experts["down_proj"]
    n = 1 + max(int(k.split(".")[0]) for k in experts)

    def stack(*names):
        return torch.stack([next(experts[f"{e}.{x}.weight"] for x in names if f"{e}.{x}.weight" in experts)
                            for e in range(n)])
    return stack("w1", "gate_proj"), stack("w3", "up_proj"), stack("w2", "down_proj")


def save_reference(path, ids, ref):
    """Logits as they are, hidden states rounded once."""
    from safetensors.torch import save_file
    t = {k: (v if k == "logits" else v.float()).contiguous() for k, v in ref.items()}
    save_file({"input_ids": ids} | t, path)
    path.chmod(0o644)


def make_model(name, seed):
    import torch
    import transformers
    from safetensors.torch import save_file
    family, dtype, n, args = MODELS[name]
    args = dict(args)
    hub, old = args.pop("hub", False), args.pop("old_config", False)
    experts = args.pop("experts", None)
    cfg = getattr(transformers, family + ("TextConfig" if family == "Gemma3" else "Config"))(**args)
    cls = getattr(transformers, family + ("LMHeadModel" if family == "GPT2" else "ForCausalLM"))
    model = cls(cfg).eval()
    gen = torch.Generator().manual_seed(seed)
    randomize(model, gen)
    ids = torch.randint(3, cfg.vocab_size, (n,), generator=gen)

    folder = OUT / "models" / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if old:
        old_config(folder / "config.json", dtype)
    if hub:
        hub_gpt2(folder / "model.safetensors", cfg.n_positions)
    spell_experts(folder / "model.safetensors", cfg.model_type, experts)

    model = load_exact(folder)
    ref = run_f64(model, ids)
    save_reference(folder / "reference.safetensors", ids, ref)
    if family == "Phi3" and cfg.rope_parameters["rope_type"] == "longrope":
        short = ids[:48]  # within the original context: the other set of factors
        save_reference(folder / "reference-short.safetensors", short, run_f64(model, short))
    plain_modes(folder)
    check_reload(folder, ids, ref)


def plain_modes(folder):
    """safetensors makes its files 0600."""
    for f in folder.iterdir():
        f.chmod(0o644)


def make_sharded():
    """tiny-llama in three shards, otherwise the same."""
    import torch
    from transformers import LlamaForCausalLM
    src, dst = OUT / "models/tiny-llama", OUT / "models/tiny-llama-sharded"
    shutil.rmtree(dst, ignore_errors=True)
    m = LlamaForCausalLM.from_pretrained(src, dtype=torch.float32)
    m.save_pretrained(dst, max_shard_size=36000)
    (dst / "generation_config.json").unlink(missing_ok=True)
    for f in ("config.json", "reference.safetensors"):
        shutil.copyfile(src / f, dst / f)
    plain_modes(dst)
    print("tiny-llama-sharded:", *sorted(f.name for f in dst.iterdir()))


def make_models():
    for i, name in enumerate(MODELS):
        make_model(name, 1000 + i)
    make_sharded()


# ------------------------------------------------------------ tokenizers ----

SPLIT = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}%s| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
         "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")

# Whole words put into the vocabulary without the merges that would reach them:
# ignore_merges finds them, plain BPE must not.
UNREACHABLE = [" Wokulski", " Zagłoba", " perpendicular", " źdźbło", " 2024", "\n\n\n\n", " 日本語", " ..."]


def byte_to_unicode():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for b in range(256):
        if b in keep:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return table


def training_text():
    """About 400 KB: lines from the middle of every sample text."""
    lines = []
    for f in sorted((SHARED / "data/text").glob("*.txt")):
        text = f.read_text(encoding="utf-8").splitlines()
        lines += text[len(text) // 2:][:600]
    return [l[:400] for l in lines]


def train_bpe(pre, normalizer=None, ignore_merges=False):
    """A byte-level BPE of 600 tokens, UNREACHABLE words included."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre, decoders.ByteLevel()
    if normalizer is not None:
        tok.normalizer = normalizer
    tok.train_from_iterator(training_text(), trainers.BpeTrainer(
        vocab_size=600 - len(UNREACHABLE), show_progress=False, max_token_length=12,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    spec = json.loads(tok.to_str())
    table = byte_to_unicode()
    for word in UNREACHABLE:
        text = "".join(table[b] for b in word.encode())
        assert text not in spec["model"]["vocab"]
        spec["model"]["vocab"][text] = len(spec["model"]["vocab"])
    spec["model"]["ignore_merges"] = ignore_merges
    return Tokenizer.from_str(json.dumps(spec))


def added(content, special=True, **flags):
    from tokenizers import AddedToken
    return AddedToken(content, special=special, normalized=False, **flags)


def make_gpt2():
    """GPT-2: own regex in ByteLevel; also as vocab.json and merges.txt.
    tokenizer.json has its merges as "a b" strings, the form before 0.20."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    tok = train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.add_special_tokens([added("<|endoftext|>")])
    spec = json.loads(tok.to_str())
    spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
    assert Tokenizer.from_str(json.dumps(spec)).get_vocab() == tok.get_vocab()
    folder = save_tokenizer("gpt2", spec, dict(
        tokenizer_class="GPT2Tokenizer", add_prefix_space=False, model_max_length=1024,
        bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"))
    vocab = dict(spec["model"]["vocab"]) | {"<|endoftext|>": tok.token_to_id("<|endoftext|>")}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(
        m + "\n" for m in spec["model"]["merges"]), encoding="utf-8")
    return tok


def split_then_bytes(digits):
    from tokenizers import Regex, pre_tokenizers
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT % digits), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def make_llama3():
    from tokenizers import processors
    tok = train_bpe(split_then_bytes("{1,3}"), ignore_merges=True)
    tok.add_special_tokens([added(s) for s in (
        "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")])
    tok.add_tokens([added("<think>", special=False)])
    bos = tok.token_to_id("<|begin_of_text|>")
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                      pair="<|begin_of_text|> $A <|begin_of_text|> $B",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    save_tokenizer("llama3", json.loads(tok.to_str()), dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>", model_max_length=131072, clean_up_tokenization_spaces=True))
    return tok


def make_qwen2():
    from tokenizers import normalizers, processors
    tok = train_bpe(split_then_bytes(""), normalizer=normalizers.NFC())
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.add_special_tokens([added(s) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tok.add_tokens([added("<tool_call>", special=False)])
    save_tokenizer("qwen2", json.loads(tok.to_str()), dict(
        tokenizer_class="Qwen2Tokenizer", bos_token=None, eos_token="<|im_end|>",
        pad_token="<|endoftext|>", unk_token=None, model_max_length=32768,
        clean_up_tokenization_spaces=False, add_prefix_space=False))
    return tok


def save_tokenizer(name, spec, config):
    folder = OUT / "tokenizers" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in (("tokenizer.json", spec), ("tokenizer_config.json", config)):
        (folder / file).write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return folder


def texts():
    """Texts that tokenizers get wrong, no two alike."""
    t = ["", " ", "  ", "   ", "    ", " " * 7, " " * 16, " " * 33, "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\n\n\n\n",
         "\r\n", "\r\n\r\n", "\r", " \n", "\n ", " \n ", "  \n\n  ", "\t\n", "\n\t", " \t \n \t ", "a", " a", "  a", "   a", "a ", "a  ",
         "a   ", " a ", "a b", "a  b", "a   b", "a\nb", "a\n b", "a \nb", "a\n\nb", "a\r\nb", "a\tb", "a \t b", "\ta", "a\t",
         "Hello", "Hello world", " Hello world", "Hello  world", "Hello, world!", "Hello world ", "HELLO WORLD", "hElLo",
         "Hello, y'all! How are you?", "it's", "It'S", "IT'S", "I'm", "I'M", "we'll WE'LL We'Ll", "they've THEY'VE", "you're YOU'RE",
         "don't DON'T", "he'd HE'D", "o'clock 'tis rock'n'roll", "'s", "'S 's", " 's", "''s", "'re're", "x'll'd've", "’s it’s",
         "0", "1", "12", "123", "1234", "12345", "1234567890", " 1 22 333 4444", "3.14159", "1,000,000.50", "-42", "+7", "0x1F",
         "1e-10", "2024-01-31", "12:34:56", "a1b2c3", "v2.0.1", "½ ² ³ Ⅷ ① 一二三", "٠١٢٣٤", "१२३४", "１２３",
         "Zażółć gęślą jaźń", "ZAŻÓŁĆ GĘŚLĄ JAŹŃ", "W Szczebrzeszynie chrząszcz brzmi w trzcinie.",
         "— Nie wiem, panie Wokulski… — rzekł Rzecki.", "„Cytat” «inny» ‚mały’", "Łódź, Kraków", " Wokulski", "Wokulski", " Zagłoba Zagłoba", "źdźbło źdźbło",
         "Za\u0301z\u0307o\u0301\u0142c\u0301", "e\u0301 \u00e9", "A\u030a \u00c5 \u212b", "q\u0307\u0323 q\u0323\u0307", "\u0301", " \u0301a", "a\u0301\u0302\u0303\u0304b",
         "ﬁ ﬂ ﬀ", "\u1100\u1161\u11a8 각", "ΑΒΓ αβγς ΆΈΉ", "Съешь ещё этих мягких французских булок", "ЙЁ и\u0306е\u0308",
         "日本語", " 日本語", "日本語のテキストです。", "我爱北京天安门", "中文 and English 混合", "한국어 텍스트입니다", "カタカナ ひらがな ｶﾀｶﾅ", "、。！？「」", "𠮷野家 𝔘𝔫𝔦",
         "مرحبا بالعالم", "السَّلامُ عَلَيْكُم", "שָׁלוֹם עולם", "नमस्ते दुनिया", "क्षत्रिय", "สวัสดีชาวโลก", "ไม่เป็นไร", "বাংলা தமிழ் తెలుగు", "ქართული հայերեն አማርኛ",
         "😀", " 😀", "😀😀😀", "👍🏽", "👨‍👩‍👧‍👦", "🇵🇱🇯🇵", "❤️ ☺️ ✈︎", "1️⃣", "a😀b", "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
         "\u2581", "\u2581\u2581", " \u2581", "\u2581a", "a\u2581b", "\u2581Hello\u2581world", "Hello\u2581 world",
         "\u00a0", "a\u00a0b", "\u00a0\u00a0a", " \u00a0 ", "\u3000", "a\u3000b", "\u2003a\u2009b", "\u200b", "a\u200bb", "\u200d", "a\u200db",
         "\u200e\u200f", "\u202eabc\u202c", "\u2028a\u2029b", "\u0085", "a\u0085b", "\x0b\x0c", "\x1c\x1d\x1e\x1f", "\u1680", "\u180e", "\ufeff", "\ufeffHello", "a\ufeffb",
         "\x00", "a\x00b", "\x00\x00", " \x00 ", "\x01\x02\x03", "\x7f", "\x80\x9f", "\u00ad", "\ufffd", "\ufffd\ufffd", "\ufffe", "\uffff", "\ue000", "\ud7ff", "\U0010ffff", "\U000e0001", "\U0001f9ff\U0001fa00",
         "!", "!!", "!!!", "...", " ...", "....", "?!?!", "-----", "=====", "#####", "***", "___", "~~~", "(((", ")))", "[]{}<>", "@#$%^&*", "\"'`", "\\", "\\n", "/", "//", "://", "|", "||", "a.b.c", "a-b_c", "foo@bar.com",
         "https://example.com/a?b=c&d=e#f", "C:\\Windows\\System32", "/usr/lib/x86_64-linux-gnu",
         "int main(void)\n{\n    return 0;\n}\n", "def f(x):\n\tif x > 0:\n\t\treturn x ** 2\n\n\treturn None", "for (i = 0; i < n; i++) { a[i] += b[i]; }",
         "<html><body class=\"x\">text</body></html>", "{\"key\": [1, 2.5, null, true]}", "x = y  # comment\n\n\n\nz", "a;\n\n  b;\n", "  indented\n    more\n  less", "end.\n\n\n", "end. \n\n \n", "tab\tsep\tvalues\n1\t2\t3",
         "<s>", "</s>", "<unk>", "<s>Hello</s>", "<0x0A>", "<0x41>", "<|endoftext|>", "Hello<|endoftext|>world", "a <|endoftext|> b", "<|endoftext|><|endoftext|>",
         "<|begin_of_text|>Hi", "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<|im_start|>user\nHi<|im_end|>\n", "<think>so</think>", "a<think>b <think> c", "<tool_call>\n{}\n</tool_call>",
         "<|endoftext", "<|endoftext|", "<| endoftext |>", "<|ENDOFTEXT|>", "<<|endoftext|>>", "<|im_end|><|im_", "[INST] Hi [/INST]", "<think", "A\u030a<|im_end|>e\u0301",
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abababababababab", "thethethethe", "ининининин", "łłłłłłłł", "perpendicular perpendicularity", "antidisestablishmentarianism",
         "donaudampfschifffahrtsgesellschaftskapitän", "CamelCaseAndSNAKE_CASE_and_kebab-case", "word" * 40, "a " * 40, " the and of to in", "The quick brown fox jumps over the lazy dog.",
         "\u01c5\u01c8 \u1fbc", "\u02b0\u02b1 ªº", "İstanbul ıIiİ", "straße STRASSE ẞ", "\u017fs'\u017f '\u017f", "\u212a'\u212a", "𝟘𝟙𝟚𝟛𝟜 𝒜𝓑", "\u0661\u0662\u0663\u0664", "x²+y³=z⁴", "€100 £50 ¥7 ₿", "√2 ≈ 1.414 ∑∏∫ → ⇒", "…", "a…b", "–—―", "\u2019\u2018", "°C ©®™", "♠♣♥♦", "\u0e33\u0e49", "\u0cc6\u0cc2\u0cd5"]
    t.append("mixed \u2014 zażółć\r\n\r\n\t 1234567 it'S  \u00a0 end ")
    rng = random.Random(4)
    pool = list("aZł '\n\t.1") + ["ó", "'s", " the", "\u0301", "漢", "😀", "  ", "\r\n", "\u2581", "\u00a0", "<", "|>", "99", "-", "\u200d"]
    t += ["".join(rng.choice(pool) for _ in range(rng.randint(5, 30))) for _ in range(40)]
    assert len(set(t)) == len(t), sorted(x for x in set(t) if t.count(x) > 1)
    return t


def write_lines(name, rows):
    """One JSON object a line, ASCII only (everything else is \\u escaped)."""
    text = "".join(json.dumps(r, separators=(",", ":")) + "\n" for r in rows)
    (OUT / "tokenizers" / name).write_text(text)
    print(f"tokenizers/{name}: {len(rows)} cases")


def random_ids(n_vocab, seed):
    """Id sequences nobody encodes to: broken UTF-8, specials, lone bytes."""
    rng = random.Random(seed)
    return [[rng.randrange(n_vocab) for _ in range(rng.randint(1, 12))] for _ in range(40)]


def hf_cases(name, tok):
    rows = []
    for text in texts():
        tok.encode_special_tokens = False
        ids = tok.encode(text, add_special_tokens=False).ids
        row = dict(text=text, ids=ids, ids_bos=tok.encode(text).ids,
                   decoded=tok.decode(ids, skip_special_tokens=False))
        tok.encode_special_tokens = True
        row["ids_plain"] = tok.encode(text, add_special_tokens=False).ids
        tok.encode_special_tokens = False
        rows.append(row)
    write_lines(f"cases-{name}.jsonl", rows)
    write_lines(f"decode-{name}.jsonl",
                [dict(ids=ids, decoded=tok.decode(ids, skip_special_tokens=False))
                 for ids in random_ids(tok.get_vocab_size(), 11)])


def sentencepiece_cases(name, path):
    import sentencepiece
    sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
    rows = []
    for text in texts():
        ids = sp.encode(text)
        rows.append(dict(text=text, ids=ids, decoded=sp.decode(ids)))
    write_lines(f"cases-{name}.jsonl", rows)
    # Byte strings that are not UTF-8, hexadecimal.
    bad = [b"\xff", b"a\xffb", b"\xc3", b"\xc3(", b"\xe2\x96", b"\xe2\x96a", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
           b"\xf0\x9f\x98", b"\x80\x80", b" \xfe\xfe ", b"\xef\xbf", b"caf\xe9 latin1", b"\xf8\x88\x80\x80\x80"]
    rows = []
    for b in bad:
        ids = sp.encode(b)
        rows.append(dict(hex=b.hex(), ids=ids, decoded=sp.decode(ids)))
    write_lines(f"invalid-{name}.jsonl", rows)
    write_lines(f"decode-{name}.jsonl", [dict(ids=ids, decoded=sp.decode(ids))
                                         for ids in random_ids(sp.vocab_size(), 12)])


def make_tokenizers():
    for name in ("gpt2", "llama3", "qwen2"):  # the folder holds other scripts' fixtures too
        shutil.rmtree(OUT / "tokenizers" / name, ignore_errors=True)
    hf_cases("gpt2", make_gpt2())
    hf_cases("llama3", make_llama3())
    hf_cases("qwen2", make_qwen2())
    sentencepiece_cases("sample", SHARED / "sample-model/tokenizer.model")
    sentencepiece_cases("mistral", SHARED / "data/tokenizers/mistral-v1.tokenizer.model")


def main(args):
    known = {"models": make_models, "tokenizers": make_tokenizers}
    for a in args or known:
        if a in MODELS:
            make_model(a, 1000 + list(MODELS).index(a))
            continue
        if a not in known:
            sys.exit(__doc__)
        known[a]()


if __name__ == "__main__":
    main(sys.argv[1:])
