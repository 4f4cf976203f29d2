#!/usr/bin/env python3
"""PyTorch's side of the comparison: the same decoder, weights, batches and optimizer as a Gently run.

Reads what `export.rs` wrote (config.toml, initial weights in GPT-2's published names, batches in order), trains with
fused AdamW and scaled-dot-product attention, and prints one JSON object: the loss and the seconds of every step.

    train_peer.py --export DIR --steps 100 [--mode eager|compile] [--compute f32|bf16] [--threads 2]
"""

import argparse
import json
import math
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

IGNORE = 2**32 - 1


class Norm(nn.Module):
    """Layer norm over C, with or without a bias."""

    def __init__(self, width, eps, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = eps

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """Causal attention of H heads: (B, T, C) -> (B, T, C)."""

    def __init__(self, width, heads, bias, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x):
        b, t, c = x.shape
        # (B, T, 3, H, D) -> three of (B, H, T, D)
        q, k, v = self.c_attn(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        y = self.c_proj(y.transpose(1, 2).reshape(b, t, c))
        return F.dropout(y, self.dropout, self.training)


class Mlp(nn.Module):
    """GELU between two projections."""

    def __init__(self, width, hidden, bias, dropout):
        super().__init__()
        self.dropout = dropout
        self.c_fc = nn.Linear(width, hidden, bias=bias)
        self.c_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, x):
        y = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return F.dropout(y, self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, m):
        super().__init__()
        width = m["width"]
        self.ln_1 = Norm(width, m["norm_eps"], m["norm_bias"])
        self.attn = Attention(width, m["heads"], m["attention_bias"], m["dropout"])
        self.ln_2 = Norm(width, m["norm_eps"], m["norm_bias"])
        self.mlp = Mlp(width, m.get("mlp_width", 4 * width), m["mlp_bias"], m["dropout"])

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Decoder(nn.Module):
    """GPT-2: ids (B, T) and targets (B, T) -> mean loss in nats."""

    def __init__(self, m):
        super().__init__()
        self.dropout = m["dropout"]
        self.wte = nn.Embedding(m["vocab"], m["width"])
        self.wpe = nn.Embedding(m["context"], m["width"])
        self.h = nn.ModuleList(Block(m) for _ in range(m["layers"]))
        self.ln_f = Norm(m["width"], m["norm_eps"], m["norm_bias"])

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        x = F.dropout(x, self.dropout, self.training)
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=-1)


def check(config):
    """This file is one architecture; anything else would be a comparison of different things."""
    m, o = config["model"], config["optimizer"]
    wanted = {
        "norm": "layer", "norm_place": "pre", "position": "learned", "mlp": "gelu", "tied_head": True, "qk_norm": False,
    }
    for key, value in wanted.items():
        if m[key] != value:
            sys.exit(f"model.{key} = {m[key]!r}: this script only knows {value!r}")
    for key in ("kv_heads", "window", "logit_softcap", "attention_softcap"):
        if m.get(key) not in (None, m["heads"] if key == "kv_heads" else None):
            sys.exit(f"model.{key} is not known to this script")
    if o["kind"] != "adamw" or o["decay"] != "all_matrices" or o["schedule"] != "cosine":
        sys.exit("this script only knows AdamW with decay = \"all_matrices\" and the cosine schedule")


def load(model, folder):
    """Copies our exported weights; GPT-2's files hold projections as [in, out]."""
    tensors = load_file(folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        found = tensors[f"transformer.{name}"]
        if name.startswith("h.") and found.ndim == 2:
            found = found.t()
        if parameter.shape != found.shape:
            sys.exit(f"{name}: {tuple(found.shape)} in the export, {tuple(parameter.shape)} here")
        with torch.no_grad():
            parameter.copy_(found)


def batches(folder, config, count):
    """(ids, targets) of each micro-batch, as int64 (B, T); targets that do not count are -1."""
    rows, block = config["train"]["batch"], config["train"]["block"]
    raw = np.fromfile(folder / "batches.u32", dtype="<u4").reshape(-1, 2, rows, block)
    if len(raw) < count:
        sys.exit(f"the export holds {len(raw)} batches, {count} are needed")
    data = raw[:count].astype(np.int64)
    data[data == IGNORE] = -1
    return torch.from_numpy(data)


def rate(config, step):
    """The learning rate of update `step`, counted from 0."""
    o, steps = config["optimizer"], config["train"]["steps"]
    peak, warmup = o["lr"], o["warmup"]
    low, end = o.get("min_lr", peak / 10), o.get("decay_steps", steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if step >= end:
        return low
    return low + 0.5 * (1 + math.cos(math.pi * (step - warmup) / (end - warmup))) * (peak - low)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--export", type=Path, required=True)
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--mode", choices=["eager", "compile"], default="eager")
    arguments.add_argument("--compute", choices=["f32", "bf16"], default="f32")
    arguments.add_argument("--threads", type=int, default=2)
    a = arguments.parse_args()

    torch.set_num_threads(a.threads)
    config = tomllib.loads((a.export / "config.toml").read_text())
    check(config)
    torch.manual_seed(config["train"]["seed"])
    model = Decoder(config["model"])
    load(model, a.export / "checkpoints" / "step-0")
    model.train()
    o = config["optimizer"]
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": o["weight_decay"]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=o["lr"], betas=tuple(o["betas"]), eps=o["eps"], fused=True)
    run = torch.compile(model) if a.mode == "compile" else model
    clip, accumulate = config["train"]["clip"], config["train"]["accumulate"]
    data = batches(a.export, config, a.steps * accumulate)

    losses, seconds = [], []
    for step in range(a.steps):
        begun = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate(config, step)
        total = 0.0
        for micro in range(accumulate):
            ids, targets = data[step * accumulate + micro]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.compute == "bf16"):
                loss = run(ids, targets) / accumulate
            loss.backward()
            total += loss.item()
        if clip > 0:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begun)
        losses.append(total)

    t = config["train"]
    json.dump(
        {
            "program": f"PyTorch {torch.__version__} {a.mode}",
            "compute": a.compute,
            "threads": a.threads,
            "tokens_per_step": t["batch"] * t["block"] * accumulate,
            "parameters": sum(p.numel() for p in parameters),
            "losses": losses,
            "seconds": seconds,
        },
        sys.stdout,
    )
    print()


if __name__ == "__main__":
    main()
