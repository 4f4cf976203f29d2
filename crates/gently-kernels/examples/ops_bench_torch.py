"""The same measurements as ops_bench.rs, with PyTorch: the least of many runs.

    python ops_bench_torch.py [threads [part of a name]]
"""

import sys
import time

import torch
import torch.nn.functional as F

if len(sys.argv) > 1:
    torch.set_num_threads(int(sys.argv[1]))
print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
torch.manual_seed(0)


def timed(name, size, f, prepare=lambda: None):
    if len(sys.argv) > 2 and sys.argv[2] not in name:
        return
    prepare()
    f()
    since, least, runs = time.perf_counter(), float("inf"), 0
    while runs < 3 or (time.perf_counter() - since < 1.0 and runs < 2000):
        prepare()
        start = time.perf_counter()
        f()
        least = min(least, time.perf_counter() - start)
        runs += 1
    print(f"{name:<44} {least * 1e3:9.3f} ms {size / least * 1e-9:7.1f} GB/s", flush=True)


def backward(name, size, y, inputs, dy):
    timed(name, size, lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True))


n, c = 4096, 384
size = 4 * n * c
x, dy = torch.randn(n, c), torch.randn(n, c)
w, b = torch.randn(c, requires_grad=True), torch.randn(c, requires_grad=True)
with torch.no_grad():
    timed("layer norm forward 4096x384", 2 * size, lambda: F.layer_norm(x, (c,), w, b))
xg = x.clone().requires_grad_()
backward("layer norm backward 4096x384", 3 * size, F.layer_norm(xg, (c,), w, b), (xg, w, b), dy)
timed("softmax forward 4096x384", 2 * size, lambda: torch.softmax(x, -1))
h, dh = torch.randn(n, 4 * c), torch.randn(n, 4 * c)
out = torch.empty_like(h)
timed("gelu (tanh) forward 4096x1536", 8 * size, lambda: F.gelu(h, approximate="tanh"))
hg = h.clone().requires_grad_()
backward("gelu (tanh) backward 4096x1536", 12 * size, F.gelu(hg, approximate="tanh"), (hg,), dh)
backward("gelu (erf) backward 4096x1536", 12 * size, F.gelu(hg), (hg,), dh)
timed("add 4096x1536", 12 * size, lambda: torch.add(h, dh, out=out))
timed("column sums 4096x1536", 4 * size, lambda: h.sum(0))
timed("dropout 4096x1536", 8 * size, lambda: F.dropout(h, 0.2))
half = torch.empty(h.shape, dtype=torch.bfloat16)
timed("f32 to bf16 4096x1536", 6 * size, lambda: half.copy_(h))
ids = torch.randint(0, 50304, (n,))
table = torch.randn(50304, c)
timed("embedding gather 4096 of 50304x384", 2 * size, lambda: F.embedding(ids, table))
timed("embedding scatter-add 4096 of 50304x384", 3 * size, lambda: table.index_add_(0, ids, dy))
small, ids = torch.randn(65, c), ids % 65
timed("embedding scatter-add 4096 of 65x384", size, lambda: small.index_add_(0, ids, dy))

n = 10_000_000
p = torch.nn.Parameter(torch.randn(n))
p.grad = torch.randn(n)
opt = torch.optim.AdamW([p], lr=1e-3, weight_decay=0.1, fused=True)
timed("AdamW, 10 M parameters", 28 * n, opt.step)
g = p.grad
timed("sum of squares, 10 M", 4 * n, lambda: torch.linalg.vector_norm(g))
timed("first non-finite, 10 M", 4 * n, lambda: torch.isfinite(g).all())
p = torch.nn.Parameter(torch.randn(768, 3072))
p.grad = torch.randn(768, 3072)
muon = torch.optim.Muon([p])
timed("Muon 768x3072 Bf16", 0, muon.step)

for n, c, v in [(4096, 384, 65), (1024, 768, 50_304)]:
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(n, c, requires_grad=True)
        w = (torch.randn(v, c) * 0.02).requires_grad_()
        t = torch.randint(0, v, (n,))

        def step():
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                logits = x @ w.t()
            F.cross_entropy(logits.float(), t).backward()

        def prepare():
            x.grad = None  # dw is accumulated, as ours is

        timed(f"linear cross entropy {n}x{c}x{v} {dtype}", 0, step, prepare)
