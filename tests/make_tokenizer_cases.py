#!/usr/bin/env python3
"""Make tests/fixtures/tokenizers/{spm-*,hf-*}/ and cases-{spm-*,hf-*,pre}.jsonl:
small tokenizers with every rule in them, and what the reference libraries make
of hard texts.

    python3 tests/make_tokenizer_cases.py

Needs sentencepiece and tokenizers, and tests/fixtures/tokenizers/llama3 (from
make_fixtures.py), whose vocabulary the pre-tokenizer cases use. Everything has
a fixed seed; the results are committed and the C tests never run this script.

cases-spm-NAME.jsonl   hex (the text), ids
cases-hf-NAME.jsonl    text, ids (added tokens in it recognised), ids_plain (special ones are text)
cases-pre.jsonl        pre (a name of tokenizer.ggml.pre), text, ids with llama3's pieces and merges
"""
import io
import json
import pathlib
import random

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import Tokenizer

OUT = pathlib.Path(__file__).resolve().parent / "fixtures" / "tokenizers"
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def write_lines(name, rows):
    (OUT / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    print(f"{name}: {len(rows)} cases")


# ----------------------------------------------------------- SentencePiece ----

def charsmap(rules):
    """Compiled by the trainer itself, which wants a corpus for it."""
    path, model = OUT / "rules.tsv", io.BytesIO()
    path.write_text(rules)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ala ma kota i psa a pies ma ale"] * 20), model_writer=model, model_type="bpe",
        vocab_size=30, normalization_rule_tsv=str(path), hard_vocab_limit=False, minloglevel=2)
    path.unlink()
    proto = pb.ModelProto()
    proto.ParseFromString(model.getvalue())
    return proto.normalizer_spec.precompiled_charsmap


def model(pieces, byte_fallback, **normalizer):
    m = pb.ModelProto()

    def add(text, score, kind):
        p = m.pieces.add()
        p.piece, p.score, p.type = text, score, kind
    add("<unk>", 0, UNKNOWN)
    add("<s>", 0, CONTROL)
    add("</s>", 0, CONTROL)
    if byte_fallback:
        for b in range(256):
            add(f"<0x{b:02X}>", 0, BYTE)
    for i, p in enumerate(pieces):
        text, score, kind = (p, -i, NORMAL) if isinstance(p, str) else p
        add(text, score, kind)
    m.trainer_spec.model_type = 2
    m.trainer_spec.byte_fallback = byte_fallback
    m.normalizer_spec.name = "fixture"
    for k, v in normalizer.items():
        setattr(m.normalizer_spec, k, v)
    return m.SerializeToString()


MERGES = ["ab", "▁a", "bc", "▁ab", "abc", "▁▁", "▁abc", "cab", "de", "▁de", "cd", "bcd", "e▁", "de▁a"]
CHARS = list("▁abcde")
SPM = {
    # Longest match first, never merged across; one holds spaces.
    "spm-user": (model([*MERGES, *CHARS, ("bcd▁", 0, USER), ("a▁b", 0, USER), ("cc", 0, USER), ("<x>", 0, USER)],
                       True, add_dummy_prefix=True, remove_extra_whitespaces=False), "abcde  ▁x<>"),
    # Unused pieces are steps of merges and are taken apart again; equal scores go left to right.
    "spm-unused": (model([(p, -(i // 3), UNUSED if i % 3 == 1 else NORMAL) for i, p in enumerate(MERGES)] + CHARS[:-1]
                         + [("e", 0, UNUSED)], True, add_dummy_prefix=True, remove_extra_whitespaces=False), "abcde "),
    # No byte pieces: neighbours that are unknown become one.
    "spm-unknown": (model([*MERGES, *CHARS], False, add_dummy_prefix=False, remove_extra_whitespaces=True),
                    "abcde  xżé"),
    # Rules that grow, shrink, vanish and give spaces.
    "spm-rules": (model([*MERGES, *CHARS], True, add_dummy_prefix=True, remove_extra_whitespaces=True,
                        precompiled_charsmap=charsmap("61 61\t62\nE9\t65\n5F\t\n2D\t20\nBD\t61 20 62\n3000\t20\n")),
                  "abcde  _-é½\u3000a"),
    # Spaces stay spaces; U+2581 is a letter like any other.
    "spm-plain": (model([p.replace("▁", " ") for p in MERGES + CHARS] + ["▁"], True, add_dummy_prefix=True,
                        remove_extra_whitespaces=False, escape_whitespaces=False), "abcde  ▁x"),
}


def spm_cases(name, data, alphabet):
    (OUT / name).mkdir(exist_ok=True)
    (OUT / name / "tokenizer.model").write_bytes(data)
    sp = sentencepiece.SentencePieceProcessor(model_proto=data)
    rand, rows = random.Random(name), []
    for n in [0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 30, 40, 60, 80, 100, 150, 300] * 2:
        b = "".join(rand.choice(alphabet) for _ in range(n)).encode()
        if rand.random() < 0.15:
            at = rand.randint(0, len(b))
            b = b[:at] + rand.choice([b"\xff", b"\xe2\x96", b"\xc3", b"\x80"]) + b[at:]
        rows.append(dict(hex=b.hex(), ids=sp.encode(b)))
    write_lines(f"cases-{name}.jsonl", rows)


# ------------------------------------------------------------ tokenizer.json ----

def added(i, content, special=False, **flags):
    return dict(id=i, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False,
                special=special) | flags


def spm_style(normalizer, pre):
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *CHARS, *MERGES]
    pairs = [[p[:i], p[i:]] for p in MERGES for i in range(1, len(p)) if p[:i] in vocab and p[i:] in vocab]
    n = len(vocab)
    return dict(
        version="1.0", truncation=None, padding=None,
        added_tokens=[added(0, "<unk>", True), added(1, "<s>", True), added(2, "</s>", True), added(n, "<tool>"),
                      added(n + 1, "<norm>", normalized=True)],
        normalizer=normalizer, pre_tokenizer=pre,
        post_processor=dict(type="TemplateProcessing",
                            single=[dict(SpecialToken=dict(id="<s>", type_id=0)), dict(Sequence=dict(id="A", type_id=0))],
                            pair=[dict(Sequence=dict(id="A", type_id=0)), dict(Sequence=dict(id="B", type_id=1))],
                            special_tokens={"<s>": dict(id="<s>", ids=[1], tokens=["<s>"])}),
        decoder=None,
        model=dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None, end_of_word_suffix=None,
                   fuse_unk=True, byte_fallback=True, ignore_merges=False, vocab={t: i for i, t in enumerate(vocab)},
                   merges=pairs))


def llama3():
    return json.loads((OUT / "llama3" / "tokenizer.json").read_text(encoding="utf-8"))


def with_flags():
    """A byte-level vocabulary with every kind of added token, NFC and a prefix space."""
    spec = llama3()
    spec["normalizer"] = dict(type="NFC")
    spec["pre_tokenizer"] = dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True)
    spec["post_processor"], spec["model"]["ignore_merges"] = None, False
    n = 1 + max(t["id"] for t in spec["added_tokens"])
    spec["added_tokens"] += [added(n, "<left>", lstrip=True), added(n + 1, "<right>", rstrip=True),
                             added(n + 2, "word", single_word=True), added(n + 3, "cafe\u0301", normalized=True),
                             added(n + 4, "<end>", True, lstrip=True, rstrip=True)]
    return spec


REPLACE = dict(type="Replace", pattern=dict(String=" "), content="▁")
HF = {
    "hf-prepend": (spm_style(dict(type="Sequence", normalizers=[dict(type="Prepend", prepend="▁"), REPLACE]), None),
                   ["a", "b", "c", "d", "e", " ", "  ", "▁", "ż", "<s>", "<tool>", "<norm>", " <norm>", "abc", " abc", "de a"]),
    "hf-metaspace": (spm_style(None, dict(type="Metaspace", replacement="▁", prepend_scheme="first", split=False)),
                     ["a", "b", "c", "d", "e", " ", "  ", "▁", "ż", "<s>", "<tool>", "<norm>", "abc", " abc", "de a"]),
    "hf-flags": (with_flags(), ["<left>", " <left>", "<right>", "<right>  ", "word", "_word", " word ", "caf\u00e9", "cafe\u0301",
                                "<end>", "\t<end>\n", "e\u0301", "\u1112\u1161\u11ab", " ", "dzień", "'s", "12", "<|eot_id|>",
                                "\u212b", "q\u0323\u0307"]),
}


def hf_cases(name, spec, words):
    (OUT / name).mkdir(exist_ok=True)
    path = OUT / name / "tokenizer.json"
    path.write_text(json.dumps(spec, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    tok, rand, rows = Tokenizer.from_file(str(path)), random.Random(name), []
    for n in [0, *range(1, 13)] * 5:
        text, row = "".join(rand.choice(words) for _ in range(n)), {}
        for key, plain in (("ids", False), ("ids_plain", True)):
            tok.encode_special_tokens = plain
            row[key] = tok.encode(text, add_special_tokens=False).ids
        rows.append(dict(text=text, **row))
    write_lines(f"cases-{name}.jsonl", rows)


# --------------------------------------------------------- pre-tokenizers ----

C = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD, LEAD = r"|[^\r\n\p{L}\p{N}]?\p{L}+|", r"[^\r\n\p{L}\p{N}]?"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TAIL2 = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PRE = {
    "gpt-2": [GPT2], "starcoder": [r"\p{N}", GPT2], "smaug-bpe": [C + WORD + r"\p{N}{1,3}" + TAIL],
    "llama-bpe": [C + WORD + r"\p{N}{1,3}" + TAIL], "qwen2": [C + WORD + r"\p{N}" + TAIL],
    "qwen35": [C + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "gpt-4o": [LEAD + UPPER + "*" + LOWER + "+" + C + "?|" + LEAD + UPPER + "+" + LOWER + "*" + C + r"?|\p{N}{1,3}" + TAIL2],
    "tekken": [LEAD + UPPER + "*" + LOWER + "+|" + LEAD + UPPER + "+" + LOWER + r"*|\p{N}" + TAIL2],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
                    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
                    r"|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "bloom": [r" ?[^(\s|.,!?…。，、।۔،)]+"], "viking": [r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"],
    "bailingmoe": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    "seed-coder": [C + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "minicpm5": [r"\p{N}{1,3}", C + WORD + r"\p{N}+" + TAIL],
    "laguna": [r"[^\n]+|[\n]+", C + WORD + r"\p{N}" + TAIL],
}
KIMI_UPPER, KIMI_LOWER = UPPER[:-1] + r"&&[^\p{Han}]]", LOWER[:-1] + r"&&[^\p{Han}]]"
CJK3 = "[一-龥\u3040-ゟ゠-ヿ]+"
DEEPSEEK_LETTERS = "\\s?" + (
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-"
    "\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943]+")
PRE |= {
    "kimi-k2": [r"[\p{Han}]+|" + LEAD + KIMI_UPPER + "*" + KIMI_LOWER + "+" + C + "?|" + LEAD + KIMI_UPPER + "+" + KIMI_LOWER + "*" + C
                + r"?|\p{N}{1,3}" + TAIL],
    "youtu": ["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ゠-ヿ]+",
              LEAD + UPPER + "*" + LOWER + "+" + C + "?|" + LEAD + UPPER + "+" + LOWER + "*" + C + r"?|\p{N}" + TAIL2],
    "afmoe": [r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
              "[一-鿿㐀-䶿\uf900-\ufaff\u3040-ゟ゠-ヿ･-ﾟ⼀-\u2fdfเ-\u0e7f\u0e80-\u0effក-\u17ffက-႟ꩠ-ꩿꧠ-\ua9ff가-\ud7afᄀ-ᇿ]+", PRE["deepseek-v3"][2]],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", PRE["gpt-4o"][0]],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "exaone-moe": [C + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"],
    "chameleon": ["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2],
    "deepseek-llm": ["[\r\n]", DEEPSEEK_LETTERS, r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", "[一-龥\u0800-一가-\ud7ff]+", r"\p{N}+"],
    "jais-2": [C + WORD + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + "".join(r"|\s{%d}(?!\S)" % (1 << k) for k in range(9, 1, -1))
               + r"|\s{1,2}(?!\S)|\s{1}"],
    "spark2_5": [r"\p{N}{1,3}", CJK3, r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
                 r"""| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+""", r"\p{N}"],
    "ufakzeka": [r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL],
}
WHOLE = {"llama-bpe", "tekken", "minicpm5", "kimi-k2", "youtu"}
WORDS = ["dzień", " Wokulski", "Żaba", "naŚwiecie", "HTMLparser", "'s", "'S", "'\u017f", "'LL", " the", "and", "12345", "3.14", "٣٤", "½", " ",
         "   ", "\n", "\r\n", " \n ", "\t", "\u00a0", "\u3000", "\u180e", "e\u0301", "漢字ひら", "ー", "각", "नमस्ते", "🦙", "\u200d", "!?", "...", "/", "_x",
         "$+", "`", "<|", "(a)", "\u01c5", "\u02b0"]


def pre_cases():
    rows = []
    for name, steps in PRE.items():
        spec = llama3()
        spec["pre_tokenizer"] = dict(type="Sequence", pretokenizers=[
            dict(type="Split", pattern=dict(Regex=s), behavior="Isolated", invert=False) for s in steps]
            + [dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)])
        spec["model"]["ignore_merges"] = name in WHOLE
        spec["added_tokens"] = []
        tok, rand = Tokenizer.from_str(json.dumps(spec)), random.Random(name)
        for n in (1, 2, 3, 5, 8, 12, 20, 30):
            text = "".join(rand.choice(WORDS) for _ in range(n))
            rows.append(dict(pre=name, text=text, ids=tok.encode(text, add_special_tokens=False).ids))
    write_lines("cases-pre.jsonl", rows)


def main():
    for name, (data, alphabet) in SPM.items():
        spm_cases(name, data, alphabet)
    for name, (spec, words) in HF.items():
        hf_cases(name, spec, words)
    pre_cases()


main()
