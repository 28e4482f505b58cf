"""Writes tests/fixtures/hdf5: HDF5 files of every layout, Keras 2 and 3, TensorFlow weights of Hugging Face's
layout and tiny models of keras-hub, each with the tensors it holds as safetensors.

    python3 tests/make_hdf5_fixtures.py [keras]

Needs numpy, h5py, ml_dtypes, safetensors and torch; with the argument also keras, keras_hub and tf_keras, for the
files that only they write. Deterministic but for the times and random names that Keras puts into its files.
Made with h5py 3.14.0 (HDF5 1.14.6), keras 3.15.1, keras_hub 0.32.0, tf_keras 2.21.0."""

import json
import os
import shutil
import sys
import zipfile

os.environ.setdefault("KERAS_BACKEND", "torch")
import h5py
import ml_dtypes
import numpy as np
import torch
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "hdf5")
rng = np.random.default_rng(7)


def values(shape, dtype="f4"):
    return (rng.standard_normal(shape) * 10).astype(dtype)


def expect(name, tensors):
    """tensors: name to numpy array; what the reader must find, byte for byte in little-endian order."""
    out = {}
    for k, v in tensors.items():
        v = np.asarray(v)
        if v.dtype == ml_dtypes.bfloat16:
            out[k] = torch.from_numpy(np.ascontiguousarray(v).view(np.int16).copy()).view(torch.bfloat16)
        else:
            out[k] = torch.from_numpy(np.array(v.astype(v.dtype.newbyteorder("=")), order="C", copy=True))
    save_file(out, os.path.join(OUT, name + ".expected.safetensors"))


# ---- plain HDF5


def every_layout(name, **how):
    global rng
    rng = np.random.default_rng(7)  # the same tensors in every file
    f = h5py.File(os.path.join(OUT, name), "w", **how)
    all_of = {}

    def put(path, data, **more):
        f.create_dataset(path, data=data, **more)
        all_of[path] = data

    for t in "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 >f2 >f4 >f8 >i2 >i4 >i8 >u2 >u4 >u8 c8 >c8".split():
        put("types/" + t.replace(">", "big_"), values((3, 4), t))
    put("types/bool", values((3, 4)) > 0)
    put("scalar", np.float32(3.25))
    put("vector", values(5))
    put("five_dims", values((2, 1, 3, 2, 2)))
    put("empty", np.zeros((0, 5), "f4"))
    big = values((31, 17))
    put("chunks/plain", big, chunks=(10, 7))
    put("chunks/one", big, chunks=big.shape)
    put("chunks/growing", big, chunks=(10, 7), maxshape=(None, 17))
    put("chunks/growing_twice", big, chunks=(10, 7), maxshape=(None, None))
    put("chunks/deflate", big, chunks=(10, 7), compression=6)
    put("chunks/shuffle", big, chunks=(10, 7), shuffle=True, compression=6)
    put("chunks/fletcher32", big, chunks=(10, 7), fletcher32=True)
    put("chunks/all", big, chunks=(10, 7), shuffle=True, compression=1, fletcher32=True)
    put("chunks/big_endian", big.astype(">f4"), chunks=(10, 7), compression=6)
    put("chunks/three_dims", values((7, 5, 6), "f2"), chunks=(2, 3, 4), compression=6)
    f.create_dataset("unwritten/contiguous", shape=(5, 5), dtype="f4", fillvalue=2.5)
    all_of["unwritten/contiguous"] = np.full((5, 5), 2.5, "f4")
    d = f.create_dataset("unwritten/chunks", shape=(5, 5), dtype="f4", chunks=(2, 2), fillvalue=-1)
    d[0, 0] = 7
    all_of["unwritten/chunks"] = d[()]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    data = values((4, 3))
    h5py.h5d.create(f.id, b"compact", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4, 3)), plist).write(
        h5py.h5s.ALL, h5py.h5s.ALL, data)
    all_of["compact"] = data
    bf16 = values((3, 4)).astype(ml_dtypes.bfloat16)
    f.create_dataset("bf16/keras", data=bf16.view("V2")).attrs["dtype"] = "bfloat16"
    f.create_dataset("bf16/raw", data=bf16.view("V2"))
    float16 = h5py.h5t.IEEE_F32LE.copy()
    float16.set_fields(15, 7, 8, 0, 7)
    float16.set_size(2)
    float16.set_ebias(127)
    d = h5py.h5d.create(f["bf16"].id, b"float", float16, h5py.h5s.create_simple((3, 4)))
    d.write(h5py.h5s.ALL, h5py.h5s.ALL, bf16.view("u2"), mtype=float16)
    for k in ("keras", "raw", "float"):
        all_of["bf16/" + k] = bf16
    all_of["hard_link"] = big
    f["hard_link"] = f["chunks/plain"]
    for i in range(20):
        put(f"many/{i:02d}/w", values(i % 5 + 1))
    f.attrs["text"] = "a text"
    f.attrs["texts"] = np.array([b"one", b"two"])
    f.attrs["number"] = 5
    f.attrs["numbers"] = np.arange(4, dtype="i2")
    f.attrs["real"] = 0.5
    f.close()
    expect("layouts", all_of)


def no_tensors():
    with h5py.File(os.path.join(OUT, "others.h5"), "w") as f:
        f["tensor"] = np.arange(6, dtype="f4").reshape(2, 3)
        f["text"] = "one"
        f["texts"] = np.array([b"ab", b"c"])
        f["variable_texts"] = ["x", "yy"]
        f["records"] = np.zeros(3, dtype=[("a", "f4"), ("b", "i4")])
        f["names"] = np.zeros(2, dtype=h5py.enum_dtype({"red": 0, "green": 1}, basetype="i4"))
        lists = f.create_dataset("lists", (2,), dtype=h5py.vlen_dtype("i4"))
        lists[0], lists[1] = [1, 2, 3], [4]
        f["raw"] = np.zeros(3, "V7")
        f["null"] = h5py.Empty("f4")
        f["reference"] = f["tensor"].ref
        f["type"] = np.dtype("f4")
        f["soft"] = h5py.SoftLink("/tensor")
        f.create_group("loop")["up"] = f["/"]
        f.create_group("empty_group")
        f["bits"] = np.zeros(2, "u1")
    expect("others.h5", {"bits": np.zeros(2, "u1"), "tensor": np.arange(6, dtype="f4").reshape(2, 3)})


def refused():
    def file(name):
        return h5py.File(os.path.join(OUT, name), "w")

    with file("external-link.h5") as f:
        f["good"] = np.arange(3, dtype="f4")
        f["bad"] = h5py.ExternalLink("/etc/hostname", "/x")
    with file("external-storage.h5") as f:
        f["good"] = np.arange(3, dtype="f4")
        f.create_dataset("bad", shape=(4,), dtype="u1", external=[("/etc/hostname", 0, 4)])
    with file("virtual.h5") as f:
        f["good"] = np.arange(3, dtype="f4")
        layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
        layout[:] = h5py.VirtualSource("others.h5", "tensor", shape=(4,))
        f.create_virtual_dataset("bad", layout)
    with file("lzf.h5") as f:
        f["good"] = np.arange(3, dtype="f4")
        f.create_dataset("bad", data=np.zeros(1000, "f4"), compression="lzf")
    with file("scaleoffset.h5") as f:
        f["good"] = np.arange(3, dtype="f4")
        f.create_dataset("bad", data=np.zeros(1000, "i4"), scaleoffset=4)


# ---- TensorFlow weights of Hugging Face, in the layout of transformers 4: it no longer exists to write them


def gpt2_tensors(n_layers=1, d=16, vocab=24, ctx=32):
    t = {"transformer.wte.weight": values((vocab, d)), "transformer.wpe.weight": values((ctx, d)),
         "transformer.ln_f.weight": values(d), "transformer.ln_f.bias": values(d)}
    for i in range(n_layers):
        h = f"transformer.h.{i}."
        for ln in ("ln_1", "ln_2"):
            t[h + ln + ".weight"], t[h + ln + ".bias"] = values(d), values(d)
        for name, a, b in (("attn.c_attn", d, 3 * d), ("attn.c_proj", d, d), ("mlp.c_fc", d, 4 * d), ("mlp.c_proj", 4 * d, d)):
            t[h + name + ".weight"], t[h + name + ".bias"] = values((a, b)), values(b)
    return t


def tf_name(hf):
    parts = hf.split(".")
    if parts[1] == "h":
        parts[1:3] = [f"h_._{parts[2]}"]
    if parts[-2].startswith("ln_"):
        parts[-1] = {"weight": "gamma", "bias": "beta"}[parts[-1]]
    if parts[-2] == "wpe":
        parts[-1] = "embeddings"
    return "/".join(parts) + ":0"


def tf_value(hf, v):
    return v.reshape(1, -1) if ".c_" in hf and hf.endswith(".bias") else v


def tf_gpt2():
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 4,
              "n_positions": 32, "vocab_size": 24, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    tensors = gpt2_tensors()
    one, many = os.path.join(OUT, "tf-gpt2"), os.path.join(OUT, "tf-gpt2-sharded")
    for folder in (one, many):
        os.makedirs(folder, exist_ok=True)
        json.dump(config, open(os.path.join(folder, "config.json"), "w"), indent=2)
    with h5py.File(os.path.join(one, "tf_model.h5"), "w") as f:
        f.attrs["layer_names"] = np.array([b"transformer"])
        f.attrs["backend"] = b"tensorflow"
        f.attrs["keras_version"] = b"2.15.0"
        g = f.create_group("transformer")
        names = ["tfgpt2lm_head_model/" + tf_name(k) for k in tensors]
        g.attrs["weight_names"] = np.array([n.encode() for n in names])
        for n, (k, v) in zip(names, tensors.items()):
            g[n] = tf_value(k, v)
    items, where = list(tensors.items()), {}
    for i, part in enumerate((items[:10], items[10:])):
        file = f"tf_model-{i + 1:05d}-of-00002.h5"
        with h5py.File(os.path.join(many, file), "w") as f:
            for k, v in part:
                f.create_dataset(tf_name(k), data=tf_value(k, v))
                where["tfgpt2lm_head_model/" + tf_name(k)] = file
            f.attrs["layer_names"] = np.array([tf_name(k).encode() for k, _ in part])
    json.dump({"metadata": {"total_size": 1}, "weight_map": where}, open(os.path.join(many, "tf_model.h5.index.json"), "w"),
              indent=2)
    expect("tf-gpt2", tensors)


def tf_kernels():
    """A Bert-like pair of names: kernels are turned, embeddings and norms are renamed."""
    folder = os.path.join(OUT, "tf-kernels")
    os.makedirs(folder, exist_ok=True)
    json.dump({"model_type": "bert"}, open(os.path.join(folder, "config.json"), "w"))
    dense, conv, emb = values((3, 5)), values((2, 3, 4, 5)), values((7, 3))
    with h5py.File(os.path.join(folder, "tf_model.h5"), "w") as f:
        f.attrs["layer_names0"] = np.array([b"bert"])
        f.attrs["layer_names1"] = np.array([b"cls", b"dropout"])
        g = f.create_group("bert")
        g.attrs["weight_names0"] = np.array([b"tf_bert/bert/embeddings/word_embeddings/embeddings:0"])
        g.attrs["weight_names1"] = np.array([b"tf_bert/bert/encoder/layer_._0/x___dense/kernel:0"])
        g["tf_bert/bert/embeddings/word_embeddings/embeddings:0"] = emb
        g["tf_bert/bert/encoder/layer_._0/x___dense/kernel:0"] = dense
        g = f.create_group("cls")
        g.attrs["weight_names"] = np.array([b"tf_bert/cls/conv/kernel:0", b"tf_bert/cls/norm/moving_mean:0"])
        g["tf_bert/cls/conv/kernel:0"] = conv
        g["tf_bert/cls/norm/moving_mean:0"] = emb[0]
        f.create_group("dropout").attrs["weight_names"] = np.array([], "S1")
    expect("tf-kernels", {"bert.embeddings.word_embeddings.weight": emb, "bert.encoder.layer.0.dense.weight": dense.T,
                          "cls.conv.weight": conv.transpose(3, 2, 0, 1), "cls.norm.running_mean": emb[0]})


# ---- what only Keras writes


def deflate(source, to):
    with zipfile.ZipFile(source) as a:
        members = {x: a.read(x) for x in a.namelist()}
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as b:
        for x, data in members.items():
            b.writestr(x, data)


def keras_files():
    import keras
    import tf_keras

    keras.utils.set_random_seed(3)
    m = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(5), keras.layers.BatchNormalization(),
                          keras.layers.Dense(3, dtype="bfloat16")])
    names = ["dense/vars/0", "dense/vars/1"] + [f"batch_normalization/vars/{i}" for i in range(4)] + [
        "dense_1/vars/0", "dense_1/vars/1"]
    want = {}
    for v, n in zip([w for layer in m.layers for w in layer.weights], names):
        x = keras.ops.convert_to_numpy(keras.ops.cast(v, "float32"))
        v.assign(values(x.shape))
        x = keras.ops.convert_to_numpy(keras.ops.cast(v, "float32"))
        want["layers/" + n] = x.astype(ml_dtypes.bfloat16) if "bfloat16" in str(v.dtype) else x
    m.save_weights(os.path.join(OUT, "keras3.weights.h5"))
    expect("keras3.weights.h5", want)
    m.save(os.path.join(OUT, "keras3.keras"))
    deflate(os.path.join(OUT, "keras3.keras"), os.path.join(OUT, "keras3-deflated.keras"))
    old = tf_keras.Sequential([tf_keras.layers.Dense(5, input_shape=(3,), name="first"), tf_keras.layers.BatchNormalization(),
                               tf_keras.layers.Dense(2, name="last")])
    old.compile("adam", "mse")
    old.fit(np.zeros((4, 3)), np.zeros((4, 2)), verbose=0)
    old.save(os.path.join(OUT, "keras2-whole.h5"))
    old.save_weights(os.path.join(OUT, "keras2-weights.h5"))
    expect("keras2", {f"{w.name.split('/')[0]}/{w.name}": w.numpy() for w in old.weights})


def turned(kernel, lead):
    n = int(np.prod(kernel.shape[:lead]))
    return np.ascontiguousarray(kernel.reshape(n, -1).T)


def hub_llama(m):
    """By the definition of the layers, variable by variable, not by paths."""
    x = {"model.embed_tokens.weight": m.token_embedding.embeddings, "lm_head.weight": m.token_embedding.reverse_embeddings,
         "model.norm.weight": m.layer_norm.scale}
    x = {k: np_of(v) for k, v in x.items()}
    x["lm_head.weight"] = x["lm_head.weight"].T
    for i, layer in enumerate(m.transformer_layers):
        p, a = f"model.layers.{i}.", layer._self_attention_layer
        x[p + "input_layernorm.weight"] = np_of(layer._self_attention_layernorm.scale)
        x[p + "post_attention_layernorm.weight"] = np_of(layer._feedforward_layernorm.scale)
        for q in ("query", "key", "value"):
            x[p + f"self_attn.{q[0]}_proj.weight"] = turned(np_of(getattr(a, f"_{q}_dense").kernel), 1)
        x[p + "self_attn.o_proj.weight"] = turned(np_of(a._output_dense.kernel), 2)
        for name, dense in (("gate", "gate"), ("up", "intermediate"), ("down", "output")):
            x[p + f"mlp.{name}_proj.weight"] = np_of(getattr(layer, f"_feedforward_{dense}_dense").kernel).T
    return x


def hub_gpt2(m):
    x = {"transformer.wte.weight": np_of(m.token_embedding.embeddings),
         "transformer.wpe.weight": np_of(m.position_embedding.position_embeddings),
         "transformer.ln_f.weight": np_of(m.layer_norm.gamma), "transformer.ln_f.bias": np_of(m.layer_norm.beta)}
    for i, layer in enumerate(m.transformer_layers):
        p, a = f"transformer.h.{i}.", layer._self_attention_layer
        d = x["transformer.wte.weight"].shape[1]
        qkv = [getattr(a, "query_dense", None) or a._query_dense, getattr(a, "key_dense", None) or a._key_dense,
               getattr(a, "value_dense", None) or a._value_dense]
        out = getattr(a, "output_dense", None) or a._output_dense
        x[p + "attn.c_attn.weight"] = np.concatenate([np_of(q.kernel).reshape(d, -1) for q in qkv], 1)
        x[p + "attn.c_attn.bias"] = np.concatenate([np_of(q.bias).ravel() for q in qkv])
        x[p + "attn.c_proj.weight"] = np_of(out.kernel).reshape(-1, d)
        x[p + "attn.c_proj.bias"] = np_of(out.bias)
        for ln, n in (("ln_1", layer._self_attention_layer_norm), ("ln_2", layer._feedforward_layer_norm)):
            x[p + ln + ".weight"], x[p + ln + ".bias"] = np_of(n.gamma), np_of(n.beta)
        for name, n in (("mlp.c_fc", layer._feedforward_intermediate_dense), ("mlp.c_proj", layer._feedforward_output_dense)):
            x[p + name + ".weight"], x[p + name + ".bias"] = np_of(n.kernel), np_of(n.bias)
    return x


def hub_gemma(m):
    x = {"model.embed_tokens.weight": np_of(m.token_embedding.embeddings), "model.norm.weight": np_of(m.layer_norm.scale)}
    for i, layer in enumerate(m.transformer_layers):
        p, a = f"model.layers.{i}.", layer.attention
        two = layer.use_post_ffw_norm
        x[p + "input_layernorm.weight"] = np_of(layer.pre_attention_norm.scale)
        x[p + ("pre_feedforward_layernorm" if two else "post_attention_layernorm") + ".weight"] = np_of(layer.pre_ffw_norm.scale)
        if two:
            x[p + "post_attention_layernorm.weight"] = np_of(layer.post_attention_norm.scale)
            x[p + "post_feedforward_layernorm.weight"] = np_of(layer.post_ffw_norm.scale)
        for q in ("query", "key", "value"):
            k = np_of(getattr(a, f"{q}_dense").kernel)
            x[p + f"self_attn.{q[0]}_proj.weight"] = k.transpose(0, 2, 1).reshape(-1, k.shape[1])
        x[p + "self_attn.o_proj.weight"] = turned(np_of(a.output_dense.kernel), 2)
        for name, dense in (("gate", "gating_ffw"), ("up", "gating_ffw_2"), ("down", "ffw_linear")):
            x[p + f"mlp.{name}_proj.weight"] = np_of(getattr(layer, dense).kernel).T
    return x


def np_of(v):
    import keras

    return keras.ops.convert_to_numpy(v)


def hub_models():
    import keras
    import keras_hub

    small = dict(vocabulary_size=24, num_query_heads=4, num_key_value_heads=2, hidden_dim=16)
    models = {
        "hub-mistral": (keras_hub.models.MistralBackbone, hub_llama, dict(small, num_layers=2, intermediate_dim=24,
                        sliding_window=6, head_dim=6, rope_scaling_factor=2.0)),
        "hub-llama": (keras_hub.models.LlamaBackbone, hub_llama, dict(small, num_layers=1, intermediate_dim=24)),
        "hub-llama3": (keras_hub.models.Llama3Backbone, hub_llama, dict(small, num_layers=1, intermediate_dim=24,
                       rope_max_wavelength=500000, rope_frequency_adjustment_factor=8.0, rope_low_freq_factor=1.0,
                       rope_high_freq_factor=4.0, rope_pretraining_sequence_length=16)),
        "hub-gpt2": (keras_hub.models.GPT2Backbone, hub_gpt2, dict(vocabulary_size=24, num_layers=1, num_heads=4,
                     hidden_dim=16, intermediate_dim=24, max_sequence_length=32)),
        "hub-gemma": (keras_hub.models.GemmaBackbone, hub_gemma, dict(small, num_layers=1, intermediate_dim=48, head_dim=4)),
        "hub-gemma2": (keras_hub.models.GemmaBackbone, hub_gemma, dict(small, num_layers=2, intermediate_dim=48, head_dim=4,
                       use_post_ffw_norm=True, use_post_attention_norm=True, final_logit_soft_cap=30.0,
                       attention_logit_soft_cap=50.0, sliding_window_size=6, use_sliding_window_attention=True)),
    }
    ids = np.array([[1, 5, 7, 9, 11, 2, 3, 23, 20, 13, 8, 6]])
    for name, (cls, of, settings) in models.items():
        keras.utils.set_random_seed(11)
        m = cls(**settings)
        for v in m.weights:
            v.assign(np_of(v) + rng.standard_normal(v.shape).astype("f4") * 0.2)
        folder = os.path.join(OUT, name)
        shutil.rmtree(folder, ignore_errors=True)
        m.save_to_preset(folder)
        hidden = m({"token_ids": ids, "padding_mask": np.ones_like(ids)})
        logits = np_of(m.token_embedding(hidden, reverse=True))[0]
        expect(name, of(m))
        save_file({"input_ids": torch.from_numpy(ids[0]), "logits": torch.from_numpy(np.ascontiguousarray(logits))},
                  os.path.join(OUT, name + ".reference.safetensors"))
        if name == "hub-mistral":
            m.save(os.path.join(OUT, "hub-mistral.keras"))
            deflate(os.path.join(OUT, "hub-mistral.keras"), os.path.join(OUT, "hub-mistral.keras"))
        if name == "hub-llama":
            sharded = os.path.join(OUT, "hub-llama-sharded")
            shutil.rmtree(sharded, ignore_errors=True)
            os.makedirs(sharded)
            m.save_weights(os.path.join(sharded, "model.weights.json"), max_shard_size=0.00001)
            shutil.copy(os.path.join(folder, "config.json"), sharded)


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    every_layout("layouts.h5")
    every_layout("layouts-v110.h5", libver=("v110", "v110"))  # the newest that HDF5 1.10 reads
    every_layout("layouts-user-block.h5", userblock_size=1024)
    no_tensors()
    refused()
    tf_gpt2()
    tf_kernels()
    if "keras" in sys.argv[1:]:
        keras_files()
        hub_models()
