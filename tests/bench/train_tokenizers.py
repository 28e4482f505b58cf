#!/usr/bin/env python3
"""Train the kinds of tokenizers that no sample has, for tests/bench/run.

    tests/bench/train_tokenizers.py TEXT FOLDER

Makes FOLDER/unigram.model and char.model (sentencepiece), unigram.json and
wordpiece.json (HF tokenizers), of at most 16000 pieces."""
import sys

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    text, folder = sys.argv[1:]
    for kind in ("unigram", "char"):
        sentencepiece.SentencePieceTrainer.train(
            input=text, model_prefix=f"{folder}/{kind}", model_type=kind, vocab_size=16000, hard_vocab_limit=False,
            max_sentence_length=20000, input_sentence_size=50000, minloglevel=2)
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer, unigram.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    unigram.train([text], trainers.UnigramTrainer(vocab_size=8000, unk_token="<unk>", special_tokens=["<unk>"],
                                                  show_progress=False))
    unigram.save(f"{folder}/unigram.json")
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    words.train([text], trainers.WordPieceTrainer(vocab_size=16000, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
                                                  show_progress=False))
    words.save(f"{folder}/wordpiece.json")


main()
