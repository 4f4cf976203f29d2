"""Times PyTorch's CPU flash attention on the shapes of attention_bench.rs.

Usage: python attention_bench_torch.py [THREADS [SECONDS [dropout]]]

The bare forward and backward operators are called, without autograd's own work; with dropout (which
they do not have) scaled_dot_product_attention and its autograd are timed instead.
"""

import sys
import time

import torch
import torch.nn.functional as F


def least(seconds, f):
    best, start, runs = 1e9, time.perf_counter(), 0
    while runs < 5 or time.perf_counter() - start < seconds:
        t = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - t)
        runs += 1
    return best * 1e6


threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3.0
dropout = 0.2 if len(sys.argv) > 3 else 0.0
torch.set_num_threads(threads)
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
for B, H, T, D in [(12, 4, 64, 32), (16, 6, 256, 64), (1, 12, 1024, 64)]:
    qkv = torch.randn(B, T, 3, H, D)
    q, k, v = [x.transpose(1, 2) for x in qkv.unbind(2)]
    dout = torch.randn(B, T, H, D).transpose(1, 2)
    if dropout:
        for x in (q, k, v):
            x.requires_grad_()
        run = lambda: F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        forward = least(seconds, run)
        both = least(seconds, lambda: torch.autograd.grad(run(), (q, k, v), dout))
        backward = both - forward
    else:
        with torch.no_grad():
            forward = least(seconds, lambda: flash(q, k, v, 0.0, True))
            out, lse = flash(q, k, v, 0.0, True)
            backward = least(seconds, lambda: flash_backward(dout, q, k, v, out, lse, 0.0, True))
    flops = B * H * T * (T + 1) / 2 * D * 2
    print(f"{B},{H},{T},{D}: {forward:10.1f} {backward:10.1f} {2 * flops / forward / 1e3:8.1f} {5 * flops / backward / 1e3:8.1f}")
