#!/usr/bin/env python3
"""Make tests/fixtures/tokenizers/{uni,word,char,hfuni,wp,wl}-NAME/ and their
cases-*.jsonl: small vocabularies of the kinds that are not BPE, with every
switch in them, and what the reference libraries make of hard texts.

    python3 tests/make_unigram_cases.py

Needs sentencepiece and tokenizers. Everything has a fixed seed; the results are
committed and the C tests never run this script.

A line: hex (the text), repeat (absent: 1), ids; of long texts n and fnv (FNV-1a
over the ids as little-endian u32) instead of ids. For tokenizer.json also
offsets, as bytes of the text.
"""
import io
import json
import math
import pathlib
import random

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

OUT = pathlib.Path(__file__).resolve().parent / "fixtures" / "tokenizers"
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE, WORD, CHAR = 1, 2, 3, 4
MARK = "\u2581"
CORPUS = """ala ma kota a kot ma alę zażółć gęślą jaźń in the beginning was the word and the word was with
the other gggg ggg gg aaa aa abab abcab cabab 日本語 日本 語 привет мир hello, world! 12 123 2024 don't
naïve café Å ﬁne ½ x  y   z""".split()
RULES = "ﬁ\tfi\n".replace("ﬁ", "FB01").replace("fi", "66 69") + "C5\t61\n41\t61\n9\t20\nA\t20\n3000\t20\n301\t\nBD\t31 2044 32\n61 30A\tE5\n"


def write_lines(name, rows):
    (OUT / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    print(f"{name}: {len(rows)} cases")


def fnv(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        for b in i.to_bytes(4, "little"):
            h = (h ^ b) * 0x100000001B3 % 2**64
    return f"{h:016x}"


# ------------------------------------------------------------ vocabularies ----

def charsmap():
    """Compiled by the trainer itself, which wants a corpus for it."""
    path, model = OUT / "rules.tsv", io.BytesIO()
    path.write_text(RULES)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ala ma kota i psa a pies ma ale"] * 20), model_writer=model, model_type="bpe",
        vocab_size=30, normalization_rule_tsv=str(path), hard_vocab_limit=False, minloglevel=2)
    path.unlink()
    proto = pb.ModelProto()
    proto.ParseFromString(model.getvalue())
    return proto.normalizer_spec.precompiled_charsmap


def substrings(rng, suffix, n):
    """Characters and parts of words, with scores that tie and nearly tie."""
    words = [w + MARK if suffix else MARK + w for w in CORPUS]
    chars = sorted(set("".join(words)) - set("ź½"))
    parts = sorted({w[i:j] for w in words for i in range(len(w)) for j in range(i + 2, min(len(w), i + 6) + 1)})
    rng.shuffle(parts)
    pieces = {c: -6 - rng.randrange(0, 8) / 2 for c in chars}
    for p in sorted(parts[:n]):
        pieces[p] = sum(pieces.get(c, -9) for c in p) / 2 + rng.choice([0, 0, 0.5, rng.random(), -rng.random()])
    return pieces


def model(kind, seed, user=(), unused=0, byte_fallback=False, suffix=False, unk=True, rules=b"", control=(), extra=(), **spec):
    rng = random.Random(seed)
    m = pb.ModelProto()

    def add(text, score, type_):
        p = m.pieces.add()
        p.piece, p.score, p.type = text, score, type_
    if unk:
        add("<unk>", 0, UNKNOWN)
    add("<s>", 0, CONTROL)
    add("</s>", 0, CONTROL)
    for c in control:
        add(c, 0, CONTROL)
    for u in user:
        add(u, 0, USER)
    if byte_fallback:
        for b in range(256):
            add(f"<0x{b:02X}>", 0, BYTE)
    pieces = substrings(rng, suffix, 0 if kind == CHAR else 150)
    if kind == WORD:
        pieces = {MARK + w: -float(i) for i, w in enumerate(CORPUS[::2])} | {MARK: -3.0}
    pieces |= {e: -7.25 for e in extra}
    for u in user:
        pieces.pop(u, None)
    kinds = {p: UNUSED for p in rng.sample(sorted(pieces), unused)}
    for text, score in pieces.items():
        add(text, score, kinds.get(text, NORMAL))
    t = m.trainer_spec
    t.model_type, t.vocab_size, t.byte_fallback, t.treat_whitespace_as_suffix = kind, len(m.pieces), byte_fallback, suffix
    m.normalizer_spec.name, m.normalizer_spec.precompiled_charsmap = "identity", rules
    for k, v in spec.items():
        setattr(m.normalizer_spec, k, v)
    return m.SerializeToString()


MODELS = {
    "uni-plain": dict(kind=UNIGRAM, seed=1),
    "uni-rules": dict(kind=UNIGRAM, seed=2, rules=True, control=("<ctl>", "ctrl")),
    "uni-bytes": dict(kind=UNIGRAM, seed=3, byte_fallback=True, remove_extra_whitespaces=False, extra=(MARK * 2, MARK * 3)),
    "uni-no-unk": dict(kind=UNIGRAM, seed=4, byte_fallback=True, unk=False),
    "uni-user": dict(kind=UNIGRAM, seed=5, user=("<sep>", "the", "ab", "ęś", MARK + "ma", "A", "x y"), unused=25, rules=True),
    "uni-suffix": dict(kind=UNIGRAM, seed=6, suffix=True),
    "uni-across": dict(kind=UNIGRAM, seed=7, extra=("a" + MARK + "a", "ma" + MARK, "a" + MARK + "kot"), add_dummy_prefix=False),
    "uni-spaces": dict(kind=UNIGRAM, seed=8, escape_whitespaces=False, remove_extra_whitespaces=False, extra=(" a", "  ")),
    "word-plain": dict(kind=WORD, seed=9, user=("<sep>",), unused=3),
    "word-bytes": dict(kind=WORD, seed=10, byte_fallback=True, remove_extra_whitespaces=False),
    "char-plain": dict(kind=CHAR, seed=11, user=("<sep>", "ab", "语"), rules=True),
    "char-bytes": dict(kind=CHAR, seed=12, byte_fallback=True, suffix=True, unused=4),
}


# ------------------------------------------------------------------- texts ----

def hard_text(rng):
    out = []
    for _ in range(rng.choice([1, 2, 4, 8, 20])):
        k = rng.random()
        if k < 0.5:
            out.append(rng.choice(CORPUS)[: rng.choice([1, 2, 9])])
        elif k < 0.65:
            out.append(" " * rng.choice([1, 1, 2, 3]))
        elif k < 0.75:
            out.append(rng.choice("agbx") * rng.choice([2, 3, 5, 9]))
        elif k < 0.85:
            out.append(chr(rng.choice([rng.randrange(0x20, 0x17F), rng.randrange(0x300, 0x500), rng.randrange(0x1F600, 0x1F640)])))
        else:
            out.append(rng.choice([MARK, "\t", "\n", "\u3000", "\u0301", "ﬁ", "½", "Å", "A\u030a", "<sep>", "<s>", "<unk>",
                                   "<0x41>", "\0", "x y", "ctrl", "\ufffd", "the", "##s", "[CLS]", "[UNK]", "don't", ".", ",", "!"]))
    return "".join(out)


def spoil(rng, data):
    data = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(0x80, 0x100)
    return bytes(data)


def texts(seed, n, invalid):
    rng = random.Random(seed)
    for i in range(n):
        data = hard_text(rng).encode()
        yield spoil(rng, data) if invalid and i % 10 == 9 else data


# Sums past 100000, where the library starts them anew, and past a float's precision.
LONG = [(" ".join(CORPUS).encode() + b" ", 120), (b"gg", 4000), ("aab ".encode(), 6000), ("zażółć日本".encode(), 1500)]


def spm_cases(name, data):
    sp = sentencepiece.SentencePieceProcessor(model_proto=data)
    rows = [{"hex": t.hex(), "ids": sp.encode(t)} for t in texts(name, 120, True)]
    for t, repeat in LONG:
        ids = sp.encode(t * repeat)
        rows.append({"hex": t.hex(), "repeat": repeat, "n": len(ids), "fnv": fnv(ids)})
    write_lines(f"cases-{name}.jsonl", rows)


# ------------------------------------------------------- tokenizer.json ----

def hf_unigram(seed, byte_fallback, normalizer, pre):
    pieces = substrings(random.Random(seed), False, 150)
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    vocab += [(f"<0x{b:02X}>", 0.0) for b in range(256)] if byte_fallback else []
    vocab += [(p, s / math.pi) for p, s in pieces.items()]
    t = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=byte_fallback))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre, decoders.Metaspace()
    t.add_special_tokens(["<s>", "</s>"])
    return t


BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_pieces(seed, prefix):
    rng = random.Random(seed)
    words = [w.lower() for w in CORPUS]
    vocab = list(BERT) + sorted(set("".join(words)))[::2] + sorted(set(",.!'0123456789") - set("".join(sorted(set("".join(words)))[::2])))
    starts = {w[:j] for w in words for j in range(2, 6)}
    inside = {prefix + w[i:j] for w in words for i in range(1, len(w)) for j in range(i + 1, min(i + 4, len(w)) + 1)}
    vocab += [p for p in sorted(starts | inside) if rng.random() < 0.8 and p not in vocab]
    return {p: i for i, p in enumerate(vocab)}


def word_piece(seed, normalizer, pre, prefix="##", limit=100):
    t = Tokenizer(models.WordPiece(word_pieces(seed, prefix), unk_token="[UNK]", continuing_subword_prefix=prefix,
                                   max_input_chars_per_word=limit))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre, decoders.WordPiece(prefix)
    t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    t.add_special_tokens(BERT)
    return t


def word_level():
    vocab = {"[UNK]": 0, "[PAD]": 1} | {w: i + 2 for i, w in enumerate(dict.fromkeys(CORPUS[:-6]))}
    t = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.add_special_tokens(["[UNK]", "[PAD]"])
    t.add_tokens([AddedToken("gg", single_word=True)])
    return t


N, P = normalizers, pre_tokenizers
HF = {
    "hfuni-meta": lambda: hf_unigram(21, False, N.Sequence([N.NFKC(), N.Replace(Regex(" {2,}"), " ")]), P.Metaspace()),
    "hfuni-bytes": lambda: hf_unigram(22, True, None, P.Metaspace(split=False, prepend_scheme="first")),
    "wp-bert": lambda: word_piece(31, N.BertNormalizer(), P.BertPreTokenizer()),
    "wp-cased": lambda: word_piece(32, N.BertNormalizer(lowercase=False), P.BertPreTokenizer()),
    "wp-prefix": lambda: word_piece(33, N.NFC(), P.WhitespaceSplit(), "@@", 7),
    "wl-words": word_level,
}


def byte_offsets(text, spans):
    at = [0]
    for ch in text:
        at.append(at[-1] + len(ch.encode()))
    return [[at[a], at[b]] for a, b in spans]


def hf_cases(name, t):
    rows = []
    for data in texts(name, 120, False):
        text = data.decode()
        e = t.encode(text, add_special_tokens=False)
        rows.append({"hex": data.hex(), "ids": e.ids, "offsets": byte_offsets(text, e.offsets), "decoded": t.decode(e.ids)})
    for data, repeat in LONG:
        ids = t.encode((data * repeat).decode(), add_special_tokens=False).ids
        rows.append({"hex": data.hex(), "repeat": repeat, "n": len(ids), "fnv": fnv(ids)})
    write_lines(f"cases-{name}.jsonl", rows)


def main():
    rules = charsmap()
    for name, options in MODELS.items():
        data = model(**options | ({"rules": rules} if options.get("rules") else {}))
        (OUT / name).mkdir(exist_ok=True)
        (OUT / name / "tokenizer.model").write_bytes(data)
        spm_cases(name, data)
    for name, make in HF.items():
        t = make()
        (OUT / name).mkdir(exist_ok=True)
        t.save(str(OUT / name / "tokenizer.json"), pretty=False)
        hf_cases(name, t)
    # The same vocabulary as BERT's own files have it.
    bert = OUT / "wp-txt"
    bert.mkdir(exist_ok=True)
    (bert / "vocab.txt").write_text("".join(p + "\n" for p in word_pieces(31, "##")))
    (bert / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}\n')
    rwkv = OUT / "rwkv"
    rwkv.mkdir(exist_ok=True)
    lines = [repr(chr(b)) if b < 128 else repr(bytes([b])) for b in range(256)]
    lines += [repr(w) for w in sorted({w[:j] for w in CORPUS for j in range(2, 8)}) if len(w.encode()) > 1] + ["' the'", "'\\n\\n'", '"don\'t"']
    lines = list(dict.fromkeys(lines))
    size = [len(v.encode() if isinstance(v, str) else v) for v in map(eval, lines)]
    (rwkv / "rwkv_vocab_v20230424.txt").write_text("".join(f"{i + 1} {l} {n}\n" for i, (l, n) in enumerate(zip(lines, size))))


main()
