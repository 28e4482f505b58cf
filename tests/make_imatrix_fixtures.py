#!/usr/bin/env python3
"""Make tests/fixtures/imatrix/: importance files as llama.cpp writes them.

    LLAMA_IMATRIX=/path/llama-imatrix python3 tests/make_imatrix_fixtures.py MODEL.gguf TEXT

MODEL: samples/polish-5m as GGUF; TEXT: at least 20 KB.  a and b are collected
over two halves of the text, once as GGUF and once as .dat; ab is llama-imatrix's
own sum of both, in both forms.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

OUT = pathlib.Path(__file__).resolve().parent / "fixtures" / "imatrix"


def run(*args):
    subprocess.run([os.environ["LLAMA_IMATRIX"], *map(str, args)], check=True, capture_output=True)


def main(model, text):
    OUT.mkdir(parents=True, exist_ok=True)
    words = pathlib.Path(text).read_text(encoding="utf-8")
    os.chdir(tempfile.mkdtemp())  # the files keep the name of the text as it was given
    for name, part in (("a", words[:10000]), ("b", words[10000:20000])):
        pathlib.Path(name + ".txt").write_text(part, encoding="utf-8")
        for form in ("gguf", "dat"):
            run("-m", model, "-f", name + ".txt", "-o", OUT / f"{name}.{form}", "-c", 128, "--chunks", 6, "--no-ppl",
                "--output-format", form, "-t", 1)
    for form in ("gguf", "dat"):
        run("-m", model, "--in-file", f"{OUT / 'a.gguf'},{OUT / 'b.gguf'}", "-o", OUT / f"ab.{form}", "-c", 128,
            "--output-format", form)
    (OUT / "b.dat").unlink()


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]), sys.argv[2])
