"""tests/fixtures/imatrix/calibration.gguf: what llama-imatrix collects on samples/polish-5m over calibration.txt.

    python tests/make_calibration_fixture.py BUILD LLAMA_IMATRIX

LLAMA_IMATRIX: built with -ffp-contract=off and without vector extensions. Weights in F32 (ggml rounds the activations
of narrower ones) and an F32 KV cache, so that only the order of summation differs from ours."""
import os
import subprocess
import sys
import tempfile

build, llama = sys.argv[1:]
with tempfile.TemporaryDirectory() as tmp:
    model = os.path.join(tmp, "model.gguf")
    subprocess.run([os.path.join(build, "lm-convert"), "--dtype", "f32", "samples/polish-5m", model], check=True)
    subprocess.run([llama, "-m", model, "-f", "calibration.txt", "-o", "calibration.gguf", "-c", "64", "-b", "64", "-ub", "64",
                    "--chunks", "4", "-t", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--output-format", "gguf"],
                   check=True, cwd="tests/fixtures/imatrix")
