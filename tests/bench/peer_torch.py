"""The peer of bench_containers: makes files with torch.save and numpy, lists and converts them.

    peer_torch.py make FOLDER GB     FOLDER/model.pt (bf16), FOLDER/legacy.pt, FOLDER/model.npz (f16)
    peer_torch.py list FILE          seconds to the shapes, after the import
    peer_torch.py convert FILE OUT   seconds to a safetensors file, fsync included
"""
import os
import sys
import time


def make(folder, gb):
    import numpy as np
    import torch

    n = int(gb * 1e9 / 2 / 16)
    rows = n // 4096
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 1 << 14, (rows, 4096), dtype=np.int16)
    state = {f"layers.{i}.weight": torch.from_numpy(raw + i).view(torch.bfloat16) for i in range(16)}
    torch.save(state, f"{folder}/model.pt")
    torch.save(state, f"{folder}/legacy.pt", _use_new_zipfile_serialization=False)
    np.savez(f"{folder}/model.npz", **{k: v.view(torch.int16).numpy().view(np.float16) for k, v in state.items()})


def load(path):
    if path.endswith(".npz"):
        import numpy as np
        with np.load(path) as f:
            return {k: f[k] for k in f.files}
    import torch
    return torch.load(path, weights_only=True, mmap=not path.endswith("legacy.pt"))


def main():
    what = sys.argv[1]
    if what == "make":
        return make(sys.argv[2], float(sys.argv[3]))
    import numpy  # noqa: F401  what is imported anyway is not what is measured
    import safetensors.numpy
    import safetensors.torch
    import torch  # noqa: F401
    began = time.perf_counter()
    tensors = load(sys.argv[2])
    if what == "list":
        _ = [(k, v.shape, v.dtype) for k, v in tensors.items()]
    else:
        save = safetensors.numpy if sys.argv[2].endswith(".npz") else safetensors.torch
        save.save_file(tensors, sys.argv[3])
        fd = os.open(sys.argv[3], os.O_RDONLY)
        os.fsync(fd)
    took = time.perf_counter() - began
    with open("/proc/self/status") as f:
        status = dict(line.split(":", 1) for line in f)
    print(f"{took:.3f} {int(status['VmHWM'].split()[0]) / 1e3:.0f} {int(status['RssAnon'].split()[0]) / 1e3:.0f}")


main()
