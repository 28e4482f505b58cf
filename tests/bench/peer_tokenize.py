#!/usr/bin/env python3
"""Speed of the reference tokenizers on whole files, one thread.

    tests/bench/peer_tokenize.py MODEL TEXT...

MODEL: a SentencePiece model (measured with sentencepiece), a tokenizer.json
(with HF tokenizers), a GGUF file with a GPT-2 vocabulary (its pieces and merges
in HF tokenizers; needs gguf), or FILE.tiktoken@REGEX (with tiktoken). Prints the
CPU time of loading and MB/s of CPU time, best of three."""
import os
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def from_gguf(path):
    from gguf import GGUFReader
    from tokenizers import Tokenizer, models, pre_tokenizers
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens) if kinds[i] == 1}, merges))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return lambda text: tok.encode(text, add_special_tokens=False).ids


def from_ranks(path, pattern):
    import base64
    import tiktoken
    with open(path, "rb") as f:
        ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in f)}
    return tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary


def load(path):
    if ".tiktoken@" in path:
        return from_ranks(*path.split("@", 1))
    if path.endswith(".gguf"):
        return from_gguf(path)
    if path.endswith(".model"):
        import sentencepiece
        return sentencepiece.SentencePieceProcessor(model_file=path).encode
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(path)
    return lambda text: tok.encode(text, add_special_tokens=False).ids


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    start = time.process_time()
    encode = load(sys.argv[1])
    print(f"loading {1e3 * (time.process_time() - start):.1f} ms")
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8", newline="") as f:
            text = f.read()
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            n = len(encode(text))
            best = min(best, time.process_time() - start)
        print(f"{len(text.encode()) / best / 1e6:8.1f} MB/s {n / best / 1e6:8.2f} M ids/s {n:10d} ids  {path}")


main()
