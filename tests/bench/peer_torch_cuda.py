"""The peer of bench_cuda: a llama of 7B random bf16 weights in torch, decode as one CUDA graph a token and prefill
in chunks of 512; SDPA attention. Prints tokens/s as bench_cuda does."""
import time

import torch
import torch.nn.functional as F

LAYERS, D, FF, HEADS, VOCAB, PROMPT, CHUNK, DECODE = 32, 4096, 11008, 32, 32000, 2048, 512, 64
DH = D // HEADS


def weight(rows, cols):
    return (torch.rand(rows, cols, device="cuda", dtype=torch.bfloat16) - 0.5) * 0.05


class Llama:
    def __init__(self):
        self.embed = weight(VOCAB, D)
        self.head = weight(VOCAB, D)
        self.ones = torch.ones(D, device="cuda", dtype=torch.bfloat16)
        self.layers = [(weight(3 * D, D), weight(D, D), weight(2 * FF, D), weight(D, FF)) for _ in range(LAYERS)]
        shape = (LAYERS, HEADS, PROMPT + DECODE, DH)
        self.k = torch.zeros(shape, device="cuda", dtype=torch.bfloat16)
        self.v = torch.zeros(shape, device="cuda", dtype=torch.bfloat16)

    def norm(self, x):
        return F.rms_norm(x, (D,), self.ones, 1e-5)

    def run(self, ids, pos, mask):
        """ids [n] at positions pos [n]; mask [n, keys]."""
        x = self.embed[ids]
        n = ids.shape[0]
        for i, (qkv, out, gate_up, down) in enumerate(self.layers):
            q, k, v = (t.view(n, HEADS, DH).transpose(0, 1) for t in F.linear(self.norm(x), qkv).chunk(3, -1))
            self.k[i].index_copy_(1, pos, k)
            self.v[i].index_copy_(1, pos, v)
            keys = mask.shape[1]
            a = F.scaled_dot_product_attention(q[None], self.k[i, None, :, :keys], self.v[i, None, :, :keys], attn_mask=mask)
            x = x + F.linear(a[0].transpose(0, 1).reshape(n, D), out)
            g, u = F.linear(self.norm(x), gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(g) * u, down)
        return F.linear(self.norm(x[-1:]), self.head)


def masks(first, n, keys):
    at = torch.arange(first, first + n, device="cuda")[:, None]
    return torch.arange(keys, device="cuda")[None, :] <= at


@torch.no_grad()
def main():
    model = Llama()
    ids = torch.randint(0, VOCAB, (PROMPT,), device="cuda")

    def prefill():
        for i in range(0, PROMPT, CHUNK):
            model.run(ids[i:i + CHUNK], torch.arange(i, i + CHUNK, device="cuda"), masks(i, CHUNK, i + CHUNK))
        torch.cuda.synchronize()

    prefill()
    began = time.perf_counter()
    prefill()
    many = PROMPT / (time.perf_counter() - began)

    pos = torch.tensor([PROMPT], device="cuda")
    one = ids[:1].clone()
    keys = PROMPT + DECODE
    index = torch.arange(keys, device="cuda")[None, :]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            model.run(one, pos, index <= pos[:, None])
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model.run(one, pos, index <= pos[:, None])
    torch.cuda.synchronize()
    began = time.perf_counter()
    for i in range(DECODE):
        pos.fill_(PROMPT + i)
        graph.replay()
        logits.argmax().item()
    torch.cuda.synchronize()
    tokens = DECODE / (time.perf_counter() - began)
    n_bytes = 2 * sum(w.numel() for layer in model.layers for w in layer) + 2 * model.head.numel()
    print(f"torch {torch.__version__}, 7b BF16: decode {tokens:.1f} tok/s ({tokens * n_bytes / 1e9:.0f} GB/s), "
          f"prefill {many:.0f} tok/s", flush=True)


main()
