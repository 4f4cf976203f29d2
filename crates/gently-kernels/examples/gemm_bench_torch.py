"""The products of linear layers in f32 as gemm_bench.rs times them, with PyTorch: the least of many runs.

    python gemm_bench_torch.py [threads [part of a line's "kind m n k"]]
"""

import sys
import time

import torch

if len(sys.argv) > 1:
    torch.set_num_threads(int(sys.argv[1]))
part = sys.argv[2] if len(sys.argv) > 2 else ""
print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
torch.manual_seed(0)

# (tokens, out, in) of a linear layer; each gives the products of forward, input and weight gradient.
LAYERS = [
    (768, 384, 128),
    (768, 128, 128),
    (768, 512, 128),
    (768, 128, 512),
    (768, 65, 128),
    (4096, 1152, 384),
    (4096, 384, 384),
    (4096, 1536, 384),
    (4096, 384, 1536),
    (1024, 2304, 768),
    (1024, 3072, 768),
    (1024, 768, 3072),
]

for m, n, k in LAYERS:
    x, w, dy = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
    for kind, shape, a, b in [
        ("fwd", (m, n, k), x, w.t()),
        ("dX", (m, k, n), dy, w),
        ("dW", (n, k, m), dy.t(), x),
    ]:
        name = "%s %d %d %d" % (kind, *shape)
        if part not in name:
            continue
        out = torch.empty(shape[0], shape[1])
        since, least, runs = time.perf_counter(), float("inf"), 0
        while runs < 5 or time.perf_counter() - since < 0.6:
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            least = min(least, time.perf_counter() - start)
            runs += 1
        rate = 2 * m * n * k / least * 1e-9
        print("%-4s%6d%6d%6d %10.1f us %8.1f GFLOP/s" % (kind, *shape, least * 1e6, rate), flush=True)
