#!/usr/bin/env python3
"""Make tests/fixtures/tokenizers/cases-pipeline.jsonl and cases-ranks.jsonl.

    python3 tests/make_pipeline_cases.py

Needs tokenizers, tiktoken and mistral_common. Every stage of tokenizer.json with
each of its settings, alone and in random company, and what the library makes of
hard texts; rank files in tiktoken's and tekken's format, and what those
libraries make of them. Seeds are fixed; the results are committed and the C
tests never run this script.

cases-pipeline.jsonl   tokenizer (the text of a tokenizer.json), cases: text, ids (with the special tokens of the
                       post-processor), plain (without), offsets of plain (characters), decoded
cases-ranks.jsonl      file (a name), content, pattern or null, cases: text, ids
"""
import base64
import json
import pathlib
import random
import tempfile

import tiktoken
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import Tokenizer

OUT = pathlib.Path(__file__).resolve().parent / "fixtures" / "tokenizers"

CHARS = list("abcdeABC  \n\t01'.,-#▁") + [
    "ż", "Ż", "é", "e\u0301", "\u0301", "q\u0323\u0307", "ß", "İ", "ſ", "ﬁ", "漢", "字", "か", "か\u3099", "カ", "ー", "한", "\u1100\u1161\u11a8",
    "ا", "َ", "न", "्", "🦙", "👨\u200d👩", "\u200b", "\u00a0", "\u3000", "½", "٣", "《", "。", "…", "$", "<", "|", "\r\n", "\x00", "\x85",
    "\u2028", "\ufffd", "ǅ", "\u0344"]
WORDS = ["hello", " world", "The", "ZażóŁć", " jaźń", "don't", "12345", "<s>", "</s>", "[MASK]", " [MASK] ", "  ", "abc", "cab",
         "</w>", "<0x41>", "foo_bar", "漢字かな", "ABC"]
REGEXES = [r"\s+", r"\w+", r"\p{L}+", r" ?\p{L}+", r"\d{1,3}(?=(?:\d{3})*\b)", r"(?=(\d{3})+(?!\d))", r"(?i)abc", r"\b", r"$", r"^",
           r"[\p{Lu}\p{M}&&[^\p{Han}]]+", r"\p{Han}+", r"[^\n]+|[\n]+", r".", r"(?<=a)b", r"x*", r"\P{L}+", r"\h+", r"a{2,3}|b"]
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
REPLACE = dict(type="Replace", pattern=dict(String=" "), content="▁")


def regex(r):
    return dict(Regex=r)


def string(s):
    return dict(String=s)


NORMALIZERS = [dict(type=t) for t in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel")] + [
    REPLACE, dict(type="Replace", pattern=regex(r"[ab]+"), content=""), dict(type="Replace", pattern=string("e\u0301"), content="é--"),
    dict(type="Prepend", prepend="▁"), dict(type="Strip", strip_left=True, strip_right=False),
    dict(type="Strip", strip_left=False, strip_right=True),
    *(dict(type="BertNormalizer", clean_text=c, handle_chinese_chars=h, strip_accents=a, lowercase=low)
      for c, h, a, low in ((True, True, None, True), (False, True, False, True), (True, False, True, False))),
    dict(type="Sequence", normalizers=[dict(type="NFD"), dict(type="Sequence", normalizers=[dict(type="StripAccents")]), REPLACE]),
]
PRE_TOKENIZERS = [dict(type=t) for t in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts")] + [
    *(dict(type="Split", pattern=regex(r), behavior=BEHAVIORS[i % 5], invert=i % 7 == 3) for i, r in enumerate(REGEXES)),
    *(dict(type="Split", pattern=string("a"), behavior=b, invert=i) for b in BEHAVIORS for i in (False, True)),
    *(dict(type="ByteLevel", add_prefix_space=p, trim_offsets=True, use_regex=r) for p in (False, True) for r in (False, True)),
    *(dict(type="Metaspace", replacement="▁", prepend_scheme=p, split=s) for p in ("always", "first", "never") for s in (False, True)),
    *(dict(type="Digits", individual_digits=d) for d in (False, True)), *(dict(type="Punctuation", behavior=b) for b in BEHAVIORS),
    dict(type="CharDelimiterSplit", delimiter="-"), dict(type="FixedLength", length=3),
    dict(type="Sequence", pretokenizers=[dict(type="WhitespaceSplit"),
                                         dict(type="Metaspace", replacement="▁", prepend_scheme="always", split=True)]),
    dict(type="Sequence", pretokenizers=[dict(type="Digits", individual_digits=True), dict(type="Punctuation", behavior="Contiguous"),
                                         dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)]),
]
DECODERS = [
    dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True), dict(type="WordPiece", prefix="##", cleanup=True),
    dict(type="WordPiece", prefix="##", cleanup=False), dict(type="BPEDecoder", suffix="</w>"), dict(type="Fuse"), dict(type="ByteFallback"),
    *(dict(type="Metaspace", replacement="▁", prepend_scheme=p, split=True) for p in ("always", "never")),
    dict(type="Strip", content="a", start=1, stop=1), dict(type="Replace", pattern=string("▁"), content=" "),
    dict(type="Replace", pattern=regex("[ab]"), content="x"), dict(type="CTC", pad_token="a", word_delimiter_token="|", cleanup=True),
    dict(type="Sequence", decoders=[dict(type="Replace", pattern=string("▁"), content=" "), dict(type="ByteFallback"), dict(type="Fuse"),
                                    dict(type="Strip", content=" ", start=1, stop=0)]),
]


def text(r):
    return "".join(r.choice(WORDS) if r.random() < 0.4 else r.choice(CHARS) for _ in range(r.choice([0, 1, 2, 4, 8, 16])))


def bpe(r):
    """Few characters, some with what may stand around them, and merges of those."""
    prefix, suffix = r.choice([None, None, None, "##"]), r.choice([None, None, None, "</w>"])
    fallback = r.random() < 0.08 and not prefix
    vocab = ["<unk>"] + ([f"<0x{b:02X}>" for b in range(256)] if fallback else [])
    letters = [c for c in r.sample(CHARS, 12) if len(c) == 1] + list("abcdeĠ▁ ")
    for c in dict.fromkeys(letters):
        forms = dict.fromkeys([c, (prefix or "") + c, c + (suffix or ""), (prefix or "") + c + (suffix or "")])
        vocab += [f for f in forms if f not in vocab and r.random() < 0.95]
    merges, pool = [], list(vocab[1 + 256 * fallback:])
    for _ in range(40):
        a, b = r.choice(["a", "b", "ab", "Ġ", "▁", r.choice(pool)]), r.choice(pool)
        if a not in vocab or (prefix and not b.startswith(prefix)) or (suffix and a.endswith(suffix)):
            continue
        both = a + b[len(prefix or ""):]
        if len(both) < 9:
            vocab += [both] if both not in vocab else []
            pool.append(both)
            merges.append([a, b])
    return dict(type="BPE", dropout=None, unk_token=r.choice([None, "<unk>"]), continuing_subword_prefix=prefix, end_of_word_suffix=suffix,
                fuse_unk=r.random() < 0.5, byte_fallback=fallback, ignore_merges=r.random() < 0.3,
                vocab={t: i for i, t in enumerate(vocab)}, merges=merges)


def words(r):
    vocab = list(dict.fromkeys(["<unk>", *WORDS, *CHARS, "Ġhello", "▁world", "hell", "o", "ab", "▁ab"]))
    return dict(type="WordLevel", vocab={w: i for i, w in enumerate(vocab)}, unk_token="<unk>")


def added(r, model):
    out, n = [], max(model["vocab"].values()) + 1
    for content in r.sample(["<s>", "</s>", "[MASK]", "hello", "Żó", "e\u0301", " a"], r.choice([0, 0, 1, 3])):
        if content in model["vocab"]:
            continue
        out.append(dict(id=n + len(out), content=content, single_word=r.random() < 0.25, lstrip=r.random() < 0.3, rstrip=r.random() < 0.3,
                        normalized=r.random() < 0.5, special=r.random() < 0.5))
    return out


def post_processor(r, model, tokens):
    ids = dict(model["vocab"]) | {t["content"]: t["id"] for t in tokens}
    names = [n for n in ids if n and "\x00" not in n][-6:]
    a, b = r.choice(names), r.choice(names)
    single = [dict(SpecialToken=dict(id=n, type_id=0)) for n in (a, b)[:r.choice([0, 1, 2])]]
    single += [dict(Sequence=dict(id="A", type_id=0))] + [dict(SpecialToken=dict(id=b, type_id=0))] * r.choice([0, 1])
    template = dict(type="TemplateProcessing", single=single, pair=single + [dict(Sequence=dict(id="B", type_id=1))],
                    special_tokens={n: dict(id=n, ids=[ids[n]], tokens=[n]) for n in {a, b}})
    byte_level = dict(type="ByteLevel", add_prefix_space=True, trim_offsets=False, use_regex=True)
    return r.choice([None, template, byte_level, dict(type="BertProcessing", sep=[a, ids[a]], cls=[b, ids[b]]),
                     dict(type="RobertaProcessing", sep=[a, ids[a]], cls=[b, ids[b]], trim_offsets=False, add_prefix_space=True),
                     dict(type="Sequence", processors=[byte_level, template])])


def unclear(tok, tokens):
    """Texts that the normalizer makes empty or the same: the library's answer depends on a hash."""
    made = [tok.normalizer.normalize_str(t["content"]) if tok.normalizer else t["content"] for t in tokens if t["normalized"]]
    return "" in made or len(set(made)) < len(made)


def row(r, normalizer, pre, decoder):
    model = words(r) if r.random() < 0.15 else bpe(r)
    tokens = added(r, model)
    spec = dict(version="1.0", truncation=None, padding=None, added_tokens=tokens, normalizer=normalizer, pre_tokenizer=pre,
                post_processor=post_processor(r, model, tokens), decoder=decoder, model=model)
    tok, cases = Tokenizer.from_str(json.dumps(spec)), []
    if unclear(tok, tokens):
        return None
    shifted = model["type"] == "BPE" and (model["unk_token"] is None or (model["byte_fallback"] and model["end_of_word_suffix"]))
    for _ in range(4):
        t = text(r)
        try:
            full, plain = tok.encode(t), tok.encode(t, add_special_tokens=False)
            decoded = tok.decode(full.ids, skip_special_tokens=False)
        except BaseException:  # it panics on some of its own configurations
            continue
        case = dict(text=t, ids=full.ids, plain=plain.ids)
        if not shifted:  # characters without a piece shift the library's offsets
            case["offsets"] = [list(o) for o in plain.offsets]
        if "\ufffd" not in decoded and decoder is not None:
            case["decoded"] = decoded
        cases.append(case)
    return dict(tokenizer=json.dumps(spec, separators=(",", ":")), cases=cases)


def pipeline():
    r, rows = random.Random(1), []
    plans = [(n, r.choice(PRE_TOKENIZERS), r.choice(DECODERS)) for n in NORMALIZERS]
    plans += [(r.choice([None, None, *NORMALIZERS]), p, r.choice(DECODERS)) for p in PRE_TOKENIZERS]
    plans += [(None, r.choice(PRE_TOKENIZERS), d) for d in DECODERS]
    plans += [(r.choice(NORMALIZERS), r.choice(PRE_TOKENIZERS), r.choice([None, *DECODERS])) for _ in range(30)]
    for plan in plans:
        try:
            rows.append(row(r, *plan))
        except BaseException:
            continue
    rows = [x for x in rows if x and x["cases"]]
    (OUT / "cases-pipeline.jsonl").write_text("".join(json.dumps(x, separators=(",", ":")) + "\n" for x in rows))
    print("cases-pipeline.jsonl:", len(rows), "tokenizers")


# ------------------------------------------------------------ rank files ----

TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
CASED = ["getŻycie", "naŚwiecie", "czyŻaba", "te\u0301", "HTMLParser", " \u0301x", "日A", "ǅa", "'S", "it'ſ", "a/\n/b", "\n \n", "  漢", "1234", "٣٤½"]


def byte_ranks(r):
    """All bytes, then strings that are two of what is there, found in the texts."""
    ranks = [bytes([b]) for b in range(256)]
    known = set(ranks)
    corpus = "".join([*WORDS, *CASED, *CHARS] * 3).encode()
    while len(ranks) < 420:
        at, n = r.randrange(len(corpus) - 8), r.randrange(2, 7)
        s = corpus[at:at + n]
        if s not in known and any(s[:i] in known and s[i:] in known for i in range(1, n)):
            ranks.append(s)
            known.add(s)
    return ranks


def ranks():
    r = random.Random(2)
    tokens = byte_ranks(r)
    tiktoken_text = "".join(f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(tokens))
    table, rows = {t: i for i, t in enumerate(tokens)}, []
    texts = [t for t in ("".join(r.choice(CASED + WORDS + CHARS) for _ in range(r.choice([1, 3, 8]))) for _ in range(40))]
    for pattern in (r"\p{L}+|[^\p{L}]", TEKKEN,
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"):
        enc = tiktoken.Encoding("fixture", pat_str=pattern, mergeable_ranks=table, special_tokens={})
        rows.append(dict(file="fixture.tiktoken", content=tiktoken_text, pattern=pattern,
                         cases=[dict(text=t, ids=enc.encode_ordinary(t)) for t in texts]))
    for special in (None, [dict(rank=i, token_str=s, is_control=True) for i, s in enumerate(["<unk>", "<s>", "</s>", "[INST]"])]):
        file = json.dumps(dict(
            config=dict(pattern=TEKKEN, num_vocab_tokens=len(tokens), default_vocab_size=430, default_num_special_tokens=30,
                        version="v3"),
            vocab=[dict(rank=i, token_bytes=base64.b64encode(t).decode(), token_str=None) for i, t in enumerate(tokens)],
            special_tokens=special))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "tekken.json"
            path.write_text(file)
            tok = Tekkenizer.from_file(path)
        rows.append(dict(file="tekken.json", content=file, pattern=None,
                         cases=[dict(text=t, ids=tok.encode(t, bos=False, eos=False)) for t in texts]))
    (OUT / "cases-ranks.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    print("cases-ranks.jsonl:", len(rows), "files")


pipeline()
ranks()
