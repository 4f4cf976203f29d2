"""Writes blocks.json: losses and gradients of two small decoder steps, computed by PyTorch in float64.

Weights follow a formula that tests/golden.rs repeats, so only results are stored.
Run: python make.py   (any PyTorch >= 2.0, no network)
"""
import json, math, pathlib
import torch
import torch.nn.functional as F

B, T, V, C, H, HK, M = 2, 7, 11, 16, 4, 2, 24
D = C // H
torch.set_default_dtype(torch.float64)


def weight(tag, *shape):
    n = math.prod(shape)
    i = torch.arange(n, dtype=torch.float64)
    base = 1.0 if tag.startswith("norm") else 0.0
    return (base + 0.3 * torch.sin(0.37 * i + sum(map(ord, tag)))).reshape(shape).requires_grad_()


def batch():
    ids = torch.tensor([(3 * i * i + 5 * i) % V for i in range(B * T)]).reshape(B, T)
    targets = torch.tensor([(7 * i + 2) % V for i in range(B * T)]).reshape(B, T)
    targets[0, 3] = -100
    return ids, targets


def attend(q, k, v, bias=None):
    k, v = (t.repeat_interleave(H // t.shape[2], dim=2) for t in (k, v))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    s = q @ k.transpose(-1, -2) / math.sqrt(D)
    if bias is not None:
        s = s + bias
    s = s.masked_fill(torch.ones(T, T).tril() == 0, -math.inf)
    return (s.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C)


def gpt2():
    w = {
        "embed": weight("embed", V, C), "position": weight("position", T, C),
        "norm1": weight("norm1", C), "shift1": weight("shift1", C),
        "qkv": weight("qkv", 3 * C, C), "qkv_bias": weight("qkv_bias", 3 * C),
        "out": weight("out", C, C), "out_bias": weight("out_bias", C),
        "norm2": weight("norm2", C), "shift2": weight("shift2", C),
        "up": weight("up", 4 * C, C), "up_bias": weight("up_bias", 4 * C),
        "down": weight("down", C, 4 * C), "down_bias": weight("down_bias", C),
        "norm3": weight("norm3", C), "shift3": weight("shift3", C),
    }
    ids, targets = batch()
    x = w["embed"][ids] + w["position"]
    h = F.layer_norm(x, (C,), w["norm1"], w["shift1"], 1e-5)
    q, k, v = (h @ w["qkv"].T + w["qkv_bias"]).reshape(B, T, 3, H, D).unbind(2)
    x = x + attend(q, k, v) @ w["out"].T + w["out_bias"]
    h = F.layer_norm(x, (C,), w["norm2"], w["shift2"], 1e-5)
    h = F.gelu(h @ w["up"].T + w["up_bias"], approximate="tanh")
    x = x + h @ w["down"].T + w["down_bias"]
    x = F.layer_norm(x, (C,), w["norm3"], w["shift3"], 1e-5)
    loss = F.cross_entropy((x @ w["embed"].T).reshape(-1, V), targets.reshape(-1))
    return w, loss


def rope(x):
    f = 10000.0 ** (-torch.arange(0, D, 2) / D)
    a = torch.arange(T)[:, None] * f
    c, s = torch.cat([a, a], -1).cos()[:, None], torch.cat([a, a], -1).sin()[:, None]
    half = torch.cat([-x[..., D // 2:], x[..., : D // 2]], -1)
    return x * c + half * s


def llama():
    w = {
        "embed": weight("embed", V, C), "norm1": weight("norm1", C),
        "qkv": weight("qkv", (H + 2 * HK) * D, C), "out": weight("out", C, C),
        "norm2": weight("norm2", C), "gate_up": weight("gate_up", 2 * M, C),
        "down": weight("down", C, M), "norm3": weight("norm3", C), "head": weight("head", V, C),
    }
    ids, targets = batch()
    x = w["embed"][ids]
    h = F.rms_norm(x, (C,), w["norm1"], 1e-6)
    qkv = (h @ w["qkv"].T).reshape(B, T, H + 2 * HK, D)
    q, k, v = qkv.split([H, HK, HK], dim=2)
    slopes = torch.tensor([2.0 ** -(i + 1) for i in range(H)])
    distance = (torch.arange(T)[:, None] - torch.arange(T)[None]).abs()
    x = x + attend(rope(q), rope(k), v, -slopes[:, None, None] * distance) @ w["out"].T
    h = F.rms_norm(x, (C,), w["norm2"], 1e-6)
    gate, up = (h @ w["gate_up"].T).chunk(2, -1)
    x = x + (F.silu(gate) * up) @ w["down"].T
    x = F.rms_norm(x, (C,), w["norm3"], 1e-6)
    logits = 5.0 * torch.tanh(x @ w["head"].T / 5.0)
    loss = F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1))
    return w, loss


def pieces():
    """Operations that no block uses: log-softmax, max, gather, cat, division, erf GELU."""
    w = {"a": weight("a", 3, 4, 5), "b": weight("b", 5)}
    a, b = w["a"], w["b"]
    y = torch.cat([F.log_softmax(a / (b + 2.0), -1), F.gelu(a)], 1)
    y = y.gather(2, torch.tensor([[[0, 4, 2]]]).expand(3, 8, 3)).transpose(0, 1)
    z = y.max(2).values.exp() @ (a.sigmoid() * b.tanh())[:, 0, :]
    return w, (z * z).mean()


result = {"torch": torch.__version__}
for f in (gpt2, llama, pieces):
    w, loss = f()
    loss.backward()
    grads = {k: [float(f"{g:.12e}") for g in t.grad.flatten().tolist()] for k, t in w.items()}
    result[f.__name__] = {"loss": loss.item(), "grads": grads}
path = pathlib.Path(__file__).with_name("blocks.json")
path.write_text(json.dumps(result, separators=(",", ":")) + "\n")
