#!/usr/bin/env python3
"""Write `rope.json`: rotary positions of configurations as Hugging Face transformers computes them.

Each case has the keys of a `config.json` (`config`), and what transformers makes of them:

    frequencies   what a position is multiplied by to get the angle of each pair of channels
    scale         factor of the cosines and sines
    local         frequencies of layers with a window, where they have their own
    context       tokens up to which that holds: what `longrope` was trained on, otherwise the configuration's
    written       the kind that we write for it, which is not always the one that we read

Run: python make_rope.py   (torch and transformers; the versions used are in VERSIONS.txt)
"""

import json
from copy import deepcopy
from importlib import import_module
from pathlib import Path

from transformers import CONFIG_MAPPING

HERE = Path(__file__).parent

SIZES = dict(
    vocab_size=16, hidden_size=64, intermediate_size=16, num_hidden_layers=6, num_attention_heads=2,
    num_key_value_heads=1, head_dim=32, max_position_embeddings=4096)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=1024)


def long(pairs, kind="longrope", **more):
    lists = dict(short_factor=[1.0 + 0.25 * i for i in range(pairs)], long_factor=[2.0 + i for i in range(pairs)])
    return dict(type=kind, **lists, **more)


def cases():
    def of(kind, name, written, **keys):
        sizes = {k: v for k, v in SIZES.items() if kind != "gpt_neox" or k not in ("num_key_value_heads", "head_dim")}
        return f"{kind}: {name}", written, dict(model_type=kind, **sizes) | keys

    yield of("llama", "plain, of transformers 4", "default", rope_theta=5e5, rope_scaling=None)
    yield of("llama", "llama3", "llama3", rope_theta=5e5, rope_scaling=dict(rope_type="llama3", **LLAMA3),
             max_position_embeddings=131072)
    no_length = {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}
    yield of("llama", "llama3 without a length", "llama3",
             rope_parameters=dict(rope_type="llama3", rope_theta=1e4, **no_length))
    yield of("llama", "theta within rope_scaling", "linear",
             rope_scaling=dict(rope_type="linear", factor=4.0, rope_theta=5e5))
    yield of("llama", "rope_scaling in place of rope_parameters", "linear",
             rope_parameters=dict(rope_type="default", rope_theta=500.0),
             rope_scaling=dict(type="linear", factor=4.0))
    yield of("llama", "rope_scaling that says nothing", "linear", rope_scaling={},
             rope_parameters=dict(rope_type="linear", factor=2.5, rope_theta=500.0))
    yield of("qwen2", "yarn", "yarn", rope_theta=1e6, rope_scaling=YARN)
    yield of("qwen2", "yarn, of an old file", "yarn", rope_theta=1e6, max_position_embeddings=1024,
             rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=1024))
    yield of("qwen3", "yarn without a length", "yarn",
             rope_parameters=dict(rope_type="yarn", rope_theta=1e6, factor=2.0))
    yield of("qwen3", "yarn, a length beside the object", "yarn", original_max_position_embeddings=2048,
             rope_parameters=dict(rope_theta=1e6, **YARN))
    yield of("llama", "yarn, its factor from the lengths", "yarn",
             rope_parameters=YARN | dict(rope_theta=1e4, factor=None))
    yield of("llama", "yarn, other ends", "longrope",
             rope_parameters=dict(rope_theta=1e4, beta_fast=16.0, beta_slow=2, truncate=False, **YARN))
    yield of("llama", "yarn, ends that say nothing", "yarn",
             rope_parameters=dict(rope_theta=1e4, beta_fast=None, beta_slow=0, **YARN))
    yield of("llama", "yarn, ends that meet", "longrope",
             rope_parameters=dict(rope_theta=1e4, beta_fast=8.0, beta_slow=8.0, truncate=False, **YARN))
    yield of("llama", "yarn, weights of its scale", "yarn",
             rope_parameters=dict(rope_theta=1e4, mscale=0.7, mscale_all_dim=0.3, **YARN))
    yield of("llama", "yarn, one weight of its scale", "yarn", rope_parameters=dict(rope_theta=1e4, mscale=0.7, **YARN))
    yield of("olmo2", "yarn, a scale", "yarn", rope_parameters=dict(rope_theta=5e5, attention_factor=1.5, **YARN))
    yield of("mistral", "longrope", "longrope", rope_theta=1e4,
             rope_scaling=long(16, original_max_position_embeddings=512))
    yield of("llama", "longrope, a factor", "longrope", rope_theta=1e4,
             rope_scaling=long(16, original_max_position_embeddings=512, factor=2.0))
    yield of("llama", "longrope, a scale", "longrope", rope_theta=1e4,
             rope_scaling=long(16, original_max_position_embeddings=512, attention_factor=1.25))
    phi = dict(rope_theta=1e4, max_position_embeddings=131072, original_max_position_embeddings=4096)
    yield of("phi3", "longrope, part of a head", "longrope", partial_rotary_factor=0.75, rope_scaling=long(12), **phi)
    yield of("phi3", "longrope, short texts as they are", "longrope",
             rope_scaling=long(16) | dict(short_factor=[1.0] * 16), **phi)
    yield of("phi3", "longrope's first name", "longrope", **phi,
             rope_scaling=long(16, "su", original_max_position_embeddings=512))
    yield of("phi3", "longrope's second name", "longrope", rope_scaling=long(16, "yarn"), **phi)
    yield of("phi3", "longrope without a length beside it", "longrope", rope_theta=1e4, max_position_embeddings=131072,
             rope_scaling=long(16, original_max_position_embeddings=512))
    # The parameters of transformers 4 beside `rope_scaling`, as its files have them.
    yield of("gpt_neox", "a share and llama3", "llama3", rotary_pct=0.5, rotary_emb_base=500,
             rope_scaling=LLAMA3 | dict(rope_type="llama3", original_max_position_embeddings=64))
    yield of("gpt_neox", "llama3, no share", "llama3",
             rope_parameters=LLAMA3 | dict(rope_type="llama3", rope_theta=500.0, original_max_position_embeddings=64))
    yield of("gpt_neox", "all of a head after all", "default", rotary_pct=0.5,
             rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=1.0))
    yield of("gpt_neox", "keys of others", "default", rope_theta=500.0, partial_rotary_factor=1.0)
    yield of("gpt_neox", "yarn", "yarn", rotary_pct=0.5, rope_scaling=YARN)
    linear = dict(rope_type="linear", factor=8.0)
    nested = dict(full_attention=dict(rope_type="default", rope_theta=5e5),
                  sliding_attention=dict(rope_type="default", rope_theta=2e4))
    yield of("gemma3_text", "of transformers 4", "linear", rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=linear)
    yield of("gemma3_text", "rope_scaling beside rope_parameters", "linear", rope_parameters=nested, rope_scaling=linear)
    yield of("gemma3_text", "theta within rope_scaling", "linear", rope_parameters=nested,
             rope_scaling=linear | dict(rope_theta=3e5))
    yield of("gemma3_text", "no theta", "yarn", rope_theta=7e5, rope_local_base_freq=3e4,
             rope_parameters=dict(full_attention=dict(YARN), sliding_attention=dict(rope_type="default")))


def rotary(kind, config):
    name = "gemma3" if kind == "gemma3_text" else kind
    module = import_module(f"transformers.models.{name}.modeling_{name}")
    return next(v for k, v in vars(module).items() if k.endswith("RotaryEmbedding"))(config)


def main():
    out = []
    for name, written, keys in cases():
        kind = keys["model_type"]
        config = CONFIG_MAPPING[kind].from_dict(deepcopy(keys))
        turn = rotary(kind, config)
        numbers = lambda t: [float(f"{v:.9g}") for v in t.tolist()]
        case = dict(name=name, config=keys, written=written, context=config.max_position_embeddings)
        if kind == "gemma3_text":
            assert turn.sliding_attention_attention_scaling == 1.0
            case |= dict(frequencies=numbers(turn.full_attention_inv_freq), scale=turn.full_attention_attention_scaling,
                         local=numbers(turn.sliding_attention_inv_freq))
        else:
            case |= dict(frequencies=numbers(turn.inv_freq), scale=turn.attention_scaling)
            if turn.rope_type == "longrope":
                trained = config.rope_parameters["original_max_position_embeddings"]
                case["context"] = min(trained, config.max_position_embeddings)
        out.append(case)
    text = ",\n".join(json.dumps(case) for case in out)
    (HERE / "rope.json").write_text(f"[\n{text}\n]\n")
    print(f"{len(out)} cases, {len(text) / 1024:.0f} KB")


if __name__ == "__main__":
    main()
