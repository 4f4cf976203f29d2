"""Golden numbers for src/optim/tests.rs, made with PyTorch.

    python optimizers.py        # prints Rust arrays

AdamW and Muon are torch.optim's. torch.optim has no Lion, so it is written out here from
algorithm 2 of arXiv:2302.06675. Muon is printed twice: with its Newton-Schulz steps in
float64 (exact) and as PyTorch runs them, in bfloat16 (approximate).
"""

import torch
from torch.optim import _muon

torch.set_default_dtype(torch.float64)


def start(*shape):
    n = torch.Size(shape).numel()
    return torch.sin(torch.arange(n) + 1.0).reshape(shape).clone()


def gradient(t, *shape):
    n = torch.Size(shape).numel()
    return torch.cos((torch.arange(n) + 1.0) * 0.7 * t).reshape(shape) * 0.5 + 0.1


def show(name, x):
    print(f"const {name}: [f64; {x.numel()}] = [")
    for v in x.reshape(-1).tolist():
        print(f"    {v!r},")
    print("];")


def run(make, *shape, steps=3):
    w = torch.nn.Parameter(start(*shape))
    opt = make([w])
    for t in range(1, steps + 1):
        w.grad = gradient(t, *shape)
        opt.step()
    return w.detach()


show("ADAMW", run(lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.1), 7))

w, m = start(7), torch.zeros(7)
lr, beta1, beta2, decay = 0.01, 0.9, 0.99, 0.1
for t in range(1, 4):
    g = gradient(t, 7)
    w = w - lr * (torch.sign(beta1 * m + (1 - beta1) * g) + decay * w)
    m = beta2 * m + (1 - beta2) * g
show("LION", w)


def muon(adjust):
    return lambda p: torch.optim.Muon(p, lr=0.1, momentum=0.9, weight_decay=0.1, adjust_lr_fn=adjust)


show("MUON_TALL_BF16", run(muon("original"), 4, 3))


def newton_schulz_f64(g, coefficients, steps, eps):
    a, b, c = coefficients
    x = g.T if g.size(0) > g.size(1) else g
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.size(0) > g.size(1) else x


_muon._zeropower_via_newtonschulz = newton_schulz_f64
show("MUON_TALL", run(muon("original"), 4, 3))
show("MUON_WIDE_MATCHED", run(muon("match_rms_adamw"), 3, 4))
