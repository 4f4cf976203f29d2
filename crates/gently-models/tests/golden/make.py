#!/usr/bin/env python3
"""Write the golden fixtures of this folder with Hugging Face transformers.

Each case is a tiny model with random weights (biases and norms too, so that a
swapped or forgotten one shows), saved by `save_pretrained`, and
`expected.safetensors` with

    ids      [B,T]   int32    input tokens
    targets  [B,T]   int32    next tokens; -1 is left out of the loss
    logits   [B,T,V] float32
    loss     []      float32  mean over the counted targets
    grad.*           float32  gradient of the loss for each parameter, by its published name

Run: python make.py   (torch and transformers; the versions used are in VERSIONS.txt)
"""

import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
IGNORE = -100

GPT2 = dict(
    vocab_size=53, n_positions=24, n_embd=24, n_layer=2, n_head=3,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    bos_token_id=0, eos_token_id=0,
)
LLAMA = dict(
    vocab_size=53, max_position_embeddings=24, hidden_size=24, intermediate_size=40,
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    bos_token_id=0, eos_token_id=0,
)

CASES = {
    # The published form: tied head, tanh GELU.
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2), torch.float32, None),
    # Untied head, erf GELU, own MLP width, another epsilon, several shards.
    "gpt2-untied-sharded": (
        GPT2LMHeadModel,
        GPT2Config(**{**GPT2, "n_inner": 56, "n_layer": 1}, activation_function="gelu",
                   layer_norm_epsilon=1e-3, tie_word_embeddings=False),
        torch.float32, "12KB",
    ),
    # Grouped heads wider than width/heads, untied head, all biases.
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(**LLAMA, rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True,
                    rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
        torch.float32, None,
    ),
    # Tied head, no biases, weights stored in bfloat16 and cut into shards.
    "llama-tied-bf16-sharded": (
        LlamaForCausalLM,
        LlamaConfig(**LLAMA, rms_norm_eps=1e-6, tie_word_embeddings=True,
                    rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        torch.bfloat16, "10KB",
    ),
}


def randomize(model, generator):
    """Give every parameter a value far from its start: norms near 1, biases near 0 but not there."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            norm_weight = p.dim() == 1 and "bias" not in name
            p.copy_(1.0 + 0.2 * noise if norm_weight else 0.2 * noise)


def main():
    for index, (name, (kind, config, dtype, shard)) in enumerate(CASES.items()):
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        generator = torch.Generator().manual_seed(100 + index)
        model = kind(config)
        randomize(model, generator)
        model = model.to(dtype)
        kwargs = {} if shard is None else {"max_shard_size": shard}
        model.save_pretrained(folder, **kwargs)
        (folder / "generation_config.json").unlink(missing_ok=True)

        # The reference numbers are computed in float32 from the stored (possibly rounded) weights. Loading again,
        # rather than model.float(), because .to(bfloat16) also rounded the rotary frequencies.
        model = kind.from_pretrained(folder, dtype=torch.float32).eval()
        ids = torch.randint(0, config.vocab_size, (2, 17), generator=generator)
        targets = torch.randint(0, config.vocab_size, (2, 17), generator=generator)
        targets[0, 3] = targets[1, 0] = IGNORE
        logits = model(ids).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        loss.backward()
        expected = {
            "ids": ids.int(),
            "targets": targets.where(targets != IGNORE, torch.tensor(-1)).int(),
            "logits": logits.detach().contiguous(),
            "loss": loss.detach(),
        }
        for pname, p in model.named_parameters():
            expected["grad." + pname] = p.grad.contiguous()
        save_file(expected, folder / "expected.safetensors")
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name}: {size / 1024:.0f} KB, loss {loss.item():.6f}, {[f.name for f in sorted(folder.iterdir())]}")
    (HERE / "VERSIONS.txt").write_text(
        f"torch {torch.__version__}\ntransformers {transformers.__version__}\n")


if __name__ == "__main__":
    main()
