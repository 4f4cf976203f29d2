#!/usr/bin/env python3
"""Write the golden fixtures of the other families with Hugging Face transformers, as folders and as GGUF files.

Each case is a folder with a tiny model with random weights (biases and norms too), saved by `save_pretrained`; the same
weights as `model.gguf`, in the names, row orders and shifts that llama.cpp's converter gives them (its
`conversion` scripts are the source; the code here is written from their description); and
`expected.safetensors` with

    ids      [B,T]   int32    input tokens
    logits   [B,T,V] float32  what the head says; for `bert` [B,T,C], the last hidden state

Run: python make_families.py [NAME ...]   (torch and transformers; the versions used are in VERSIONS.txt)
"""

import re
import shutil
import struct
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
import transformers as hf

HERE = Path(__file__).parent

BASE = dict(
    vocab_size=53, max_position_embeddings=24, hidden_size=24, intermediate_size=40,
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    bos_token_id=0, eos_token_id=0, pad_token_id=0,
)


def rope(theta, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


def cases():
    yield "llama3-scaled", hf.LlamaForCausalLM, hf.LlamaConfig(
        **BASE, tie_word_embeddings=True,
        rope_parameters=rope(500.0) | dict(
            rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64))
    yield "mistral", hf.MistralForCausalLM, hf.MistralConfig(**BASE, head_dim=8, sliding_window=5, rope_parameters=rope(1e4))
    yield "qwen2", hf.Qwen2ForCausalLM, hf.Qwen2Config(**BASE, tie_word_embeddings=True, rope_parameters=rope(1e6))
    yield "qwen3", hf.Qwen3ForCausalLM, hf.Qwen3Config(**BASE, head_dim=8, rope_parameters=rope(1e6))
    yield "gemma", hf.GemmaForCausalLM, hf.GemmaConfig(**BASE, head_dim=8, rope_parameters=rope(1e4))
    yield "gemma2", hf.Gemma2ForCausalLM, hf.Gemma2Config(
        **BASE, head_dim=8, sliding_window=5, query_pre_attn_scalar=8, attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0, rope_parameters=rope(1e4))
    yield "gemma3", hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(
        **{**BASE, "num_hidden_layers": 3}, head_dim=8, sliding_window=5, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters={"full_attention": rope(1e6) | dict(rope_type="linear", factor=8.0),
                         "sliding_attention": rope(1e4)})
    yield "phi3", hf.Phi3ForCausalLM, hf.Phi3Config(
        **BASE, sliding_window=5, rope_parameters=rope(1e4, partial_rotary_factor=0.67), resid_pdrop=0.0, embd_pdrop=0.0)
    yield "olmo2", hf.Olmo2ForCausalLM, hf.Olmo2Config(**BASE, rope_parameters=rope(5e5), rms_norm_eps=1e-6)
    neox = {k: v for k, v in BASE.items() if k != "num_key_value_heads"} | {"hidden_size": 32}
    yield "gpt-neox", hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(
        **neox, use_parallel_residual=True, rope_parameters=rope(1e4, partial_rotary_factor=0.5))
    yield "gpt-neox-serial", hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(
        **neox, use_parallel_residual=False, rope_parameters=rope(1e4, partial_rotary_factor=0.25))
    yield "gpt2-gguf", hf.GPT2LMHeadModel, hf.GPT2Config(
        vocab_size=53, n_positions=24, n_embd=24, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0)
    bert = {k: v for k, v in BASE.items() if k in (
        "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "pad_token_id")}
    yield "bert", hf.BertModel, hf.BertConfig(**bert, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    one = {**BASE, "num_hidden_layers": 1}
    yield "qwen2-yarn", hf.Qwen2ForCausalLM, hf.Qwen2Config(
        **{**one, "max_position_embeddings": 256, "hidden_size": 32},
        rope_parameters=rope(100.0) | dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64))
    yield "phi3-long", hf.Phi3ForCausalLM, hf.Phi3Config(
        **{**one, "max_position_embeddings": 48, "hidden_size": 32}, original_max_position_embeddings=20,
        rope_parameters=rope(100.0, partial_rotary_factor=0.75) | dict(
            rope_type="longrope", short_factor=[1.0, 1.1, 1.5], long_factor=[2.0, 4.0, 8.0]))


def randomize(model, generator):
    less_one = "Gemma" in type(model).__name__
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            norm_weight = p.dim() == 1 and "bias" not in name
            p.copy_((0.0 if less_one else 1.0) + 0.2 * noise if norm_weight else 0.2 * noise)


# --- GGUF ---------------------------------------------------------------------------------------

U32, F32, BOOL, TEXT = 4, 6, 7, 8


def write_gguf(path, keys, tensors):
    """Version 3, little-endian, alignment 32, all tensors F32."""
    def text(s):
        return struct.pack("<Q", len(s.encode())) + s.encode()
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, (kind, value) in keys.items():
        body = {U32: lambda: struct.pack("<I", value), F32: lambda: struct.pack("<f", value),
                BOOL: lambda: struct.pack("<?", value), TEXT: lambda: text(value)}[kind]()
        out += text(key) + struct.pack("<I", kind) + body
    offset, data = 0, b""
    for name, tensor in tensors.items():
        raw = tensor.detach().float().contiguous().numpy().tobytes()
        dims = list(reversed(tensor.shape))
        out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, offset)
        data += raw + bytes(-len(raw) % 32)
        offset = len(data)
    path.write_bytes(out + bytes(-len(out) % 32) + data)


ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma": "gemma", "gemma2": "gemma2",
    "gemma3_text": "gemma3", "phi3": "phi3", "olmo2": "olmo2", "gpt_neox": "gptneox", "gpt2": "gpt2", "bert": "bert",
}

STACKED = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}
NAMES = {
    "gpt_neox": {
        "gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output", "lm_head": "output",
        "input_layernorm": "attn_norm", "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
        "post_attention_layernorm": "ffn_norm", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
    },
    "gpt2": {
        "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
        "lm_head": "output", "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    },
    "bert": {
        "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
        "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
        "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
        "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
    },
}


def gguf(path, model, config):
    kind = config.model_type
    names = dict(NAMES.get(kind, STACKED))
    if kind not in NAMES:
        both = kind.startswith("gemma") and kind != "gemma" or kind == "olmo2"
        names["post_attention_layernorm"] = "post_attention_norm" if both else "ffn_norm"
    tensors = {}
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", heads)
    for name, t in model.state_dict().items():
        stem, end = name.rsplit(".", 1)
        if name == "lm_head.weight" and config.tie_word_embeddings and kind != "gpt2":
            continue  # GPT-2's converter writes the table a second time, the others leave it out.
        block = re.search(r"\.(\d+)\.(.+)$", stem)
        short = f"blk.{block[1]}.{names[block[2]]}" if block else names[stem]
        if ARCHITECTURES[kind] == "llama" and short.endswith(("attn_q", "attn_k")):
            n = heads if short.endswith("q") else kv
            t = t.reshape(n, 2, t.shape[0] // n // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)
        if kind.startswith("gemma") and stem.endswith("norm"):
            t = t + 1
        if kind == "gpt_neox" and short.endswith("attn_qkv"):
            width = t.shape[0] // 3
            t = t.reshape(heads, 3, width // heads, *t.shape[1:]).transpose(0, 1).reshape(t.shape)
        if kind == "gpt2" and end == "weight" and t.dim() == 2 and block:
            t = t.t()
        tensors[f"{short}.{end}"] = t
    arch = ARCHITECTURES[kind]
    width = config.hidden_size
    keys = {
        "context_length": (U32, config.max_position_embeddings), "embedding_length": (U32, width),
        "block_count": (U32, config.num_hidden_layers), "attention.head_count": (U32, heads),
        "feed_forward_length": (U32, getattr(config, "intermediate_size", None) or 4 * width),
    }
    if kind not in ("gpt2", "bert", "gpt_neox"):
        keys["attention.head_count_kv"] = (U32, kv)
        keys["attention.layer_norm_rms_epsilon"] = (F32, config.rms_norm_eps)
    elif kind == "gpt2":
        keys["attention.layer_norm_epsilon"] = (F32, config.layer_norm_epsilon)
    else:
        keys["attention.layer_norm_epsilon"] = (F32, config.layer_norm_eps)
    head = getattr(config, "head_dim", None) or width // heads
    if head != width // heads:
        keys["attention.key_length"] = keys["attention.value_length"] = (U32, head)
    ropes = getattr(config, "rope_parameters", None)
    if ropes:
        full = ropes.get("full_attention", ropes)
        keys["rope.freq_base"] = (F32, full["rope_theta"])
        keys["rope.dimension_count"] = (U32, int(head * full.get("partial_rotary_factor", 1.0)))
        if full["rope_type"] == "linear":
            keys["rope.scaling.type"], keys["rope.scaling.factor"] = (TEXT, "linear"), (F32, full["factor"])
        if full["rope_type"] in ("yarn", "longrope"):
            keys["rope.scaling.type"] = (TEXT, full["rope_type"])
            keys["rope.scaling.original_context_length"] = (U32, full["original_max_position_embeddings"])
        if full["rope_type"] == "yarn":
            keys["rope.scaling.factor"] = (F32, full["factor"])
        if full["rope_type"] == "longrope":
            keys["rope.scaling.attn_factor"] = (F32, model.model.rotary_emb.attention_scaling)
            for end in ("long", "short"):
                tensors[f"rope_factors_{end}.weight"] = torch.tensor(full[f"{end}_factor"])
        if full["rope_type"] == "llama3":
            scaled = model.model.rotary_emb.inv_freq
            plain = full["rope_theta"] ** -(torch.arange(0, head, 2).double() / head)
            tensors["rope_freqs.weight"] = (plain / scaled.double()).float()
    window = getattr(config, "sliding_window", None)
    if window and kind in ("gemma2", "gemma3_text", "phi3"):
        keys["attention.sliding_window"] = (U32, window)
    if kind == "gemma3_text":
        keys["attention.sliding_window_pattern"] = (U32, 3)
    if kind == "gemma2":
        keys["attn_logit_softcapping"] = (F32, config.attn_logit_softcapping)
        keys["final_logit_softcapping"] = (F32, config.final_logit_softcapping)
    if kind == "gpt_neox":
        keys["use_parallel_residual"] = (BOOL, config.use_parallel_residual)
    if kind == "bert":
        keys["attention.causal"] = (BOOL, False)
    keys = {"general.architecture": (TEXT, arch)} | {f"{arch}.{k}": v for k, v in keys.items()}
    write_gguf(path, keys, tensors)


def main():
    wanted = sys.argv[1:]
    for index, (name, kind, config) in enumerate(cases()):
        if wanted and name not in wanted:
            continue
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        generator = torch.Generator().manual_seed(200 + index)
        model = kind(config, add_pooling_layer=False) if kind is hf.BertModel else kind(config)
        randomize(model, generator)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        more = {"add_pooling_layer": False} if kind is hf.BertModel else {}
        model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **more).eval()
        ids = torch.randint(0, config.vocab_size, (2, 17), generator=generator)
        with torch.no_grad():
            out = model(ids)
        logits = out.last_hidden_state if kind is hf.BertModel else out.logits
        save_file({"ids": ids.int(), "logits": logits.contiguous()}, folder / "expected.safetensors")
        gguf(folder / "model.gguf", model, config)
        size = sum(f.stat().st_size for f in folder.iterdir())
        assert size < 200_000, (name, size)
        print(f"{name}: {size / 1024:.0f} KB, {[f.name for f in sorted(folder.iterdir())]}")


if __name__ == "__main__":
    main()
