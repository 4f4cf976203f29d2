#!/usr/bin/env python3
"""The other sides of the comparison of embeddings: sentence-transformers, ONNX Runtime, and transformers' BertModel.

    embed_peer.py --program NAME --model DIR --texts FILE --out vectors.npy [--batch 32] [--threads 2] [--most 256]
    embed_peer.py --export FILE.onnx --model DIR

Every program cuts texts at --most tokens, goes through them by length, longest first, in batches of --batch padded to
their longest, takes the mean of a text's rows and makes it of length one. Prints one JSON object with the seconds of
tokenising and computing all texts; the vectors go to --out as .npy, in the order of the texts.

--export writes the encoder with its pooling for ONNX Runtime, its attention, norms and GELU fused by ONNX Runtime's own
optimizer for transformers; `--program onnxruntime` reads it from --onnx. `--program onnxruntime-int8` makes its products from
bytes, as ONNX Runtime's dynamic quantization writes them beside that file.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

# A folder is all that is needed, and a machine without a network would wait for each question to the Hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

import numpy as np


def pooled(rows, mask):
    """Mean of the rows (B, T, C) that count, of length one."""
    import torch

    mask = mask.unsqueeze(-1).to(rows.dtype)
    mean = (rows * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean)


def tokenizer(a):
    import tokenizers

    it = tokenizers.Tokenizer.from_file(str(Path(a.model) / "tokenizer.json"))
    it.enable_truncation(a.most)
    it.no_padding()
    return it


def by_length(a, texts, compute):
    """Vectors of all texts: tokens, sorted and padded, through `compute(ids, mask)`."""
    ids = [found.ids for found in tokenizer(a).encode_batch(texts)]
    order = sorted(range(len(texts)), key=lambda i: -len(ids[i]))
    vectors = None
    for at in range(0, len(order), a.batch):
        part = order[at : at + a.batch]
        longest = len(ids[part[0]])
        padded = np.zeros((len(part), longest), dtype=np.int64)
        mask = np.zeros_like(padded)
        for row, i in enumerate(part):
            padded[row, : len(ids[i])] = ids[i]
            mask[row, : len(ids[i])] = 1
        found = compute(padded, mask)
        if vectors is None:
            vectors = np.empty((len(texts), found.shape[1]), dtype=np.float32)
        vectors[part] = found
    return vectors


def transformers_program(a):
    import torch
    import transformers

    torch.set_num_threads(a.threads)
    model = transformers.AutoModel.from_pretrained(a.model).eval()

    @torch.inference_mode()
    def compute(ids, mask):
        ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
        return pooled(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask).numpy()

    name = f"PyTorch {torch.__version__}, transformers {transformers.__version__}"
    return name, lambda texts: by_length(a, texts, compute)


def sentence_transformers_program(a):
    import sentence_transformers
    import torch

    torch.set_num_threads(a.threads)
    model = sentence_transformers.SentenceTransformer(a.model, device="cpu")
    model.max_seq_length = a.most

    def embed(texts):
        return model.encode(texts, batch_size=a.batch, normalize_embeddings=True, show_progress_bar=False)

    return f"sentence-transformers {sentence_transformers.__version__}, PyTorch {torch.__version__}", embed


def onnxruntime_bytes_program(a):
    """Weights as bytes with a scale for each output, activations rounded to bytes when they come."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    small = Path(a.onnx).with_suffix(".int8.onnx")
    if not small.exists():
        # The fused operators tell nothing of their outputs' type.
        quantize_dynamic(a.onnx, small, per_channel=True, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})
    name, embed = onnxruntime_program(argparse.Namespace(**vars(a) | {"onnx": str(small)}))
    return f"{name}, dynamic int8", embed


def onnxruntime_program(a):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = a.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(a.onnx, options, providers=["CPUExecutionProvider"])

    def compute(ids, mask):
        return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

    return f"ONNX Runtime {onnxruntime.__version__}", lambda texts: by_length(a, texts, compute)


PROGRAMS = {
    "sentence-transformers": sentence_transformers_program,
    "onnxruntime": onnxruntime_program,
    "onnxruntime-int8": onnxruntime_bytes_program,
    "transformers": transformers_program,
}


def export(a):
    """The encoder and its pooling as one ONNX graph over (B, T) of any size."""
    import onnxruntime.transformers.optimizer as optimizer
    import torch
    import transformers

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            # Attention written out is what the optimizer knows to fuse.
            self.model = transformers.AutoModel.from_pretrained(a.model, attn_implementation="eager").eval()

        def forward(self, input_ids, attention_mask):
            rows = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return pooled(rows, attention_mask)

    model = Encoder().eval()
    ids = torch.ones((2, 8), dtype=torch.int64)
    sizes = {0: "batch", 1: "tokens"}
    raw = Path(a.export).with_suffix(".raw.onnx")
    torch.onnx.export(
        model,
        (ids, ids.clone()),
        str(raw),
        input_names=["input_ids", "attention_mask"],
        output_names=["vectors"],
        dynamic_axes={"input_ids": sizes, "attention_mask": sizes, "vectors": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    config = model.model.config
    found = optimizer.optimize_model(
        str(raw), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    print({name: count for name, count in found.get_fused_operator_statistics().items() if count}, file=sys.stderr)
    found.save_model_to_file(a.export)
    raw.unlink()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", choices=PROGRAMS)
    arguments.add_argument("--export")
    arguments.add_argument("--onnx")
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--texts")
    arguments.add_argument("--out")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--most", type=int, default=256)
    a = arguments.parse_args()
    if a.export:
        export(a)
        return
    os.environ["RAYON_NUM_THREADS"] = str(a.threads)
    name, embed = PROGRAMS[a.program](a)
    texts = Path(a.texts).read_text(encoding="utf-8").removesuffix("\n").split("\n")

    # The first pass of a process makes what later ones find.
    embed(texts[: a.batch])
    begun = time.perf_counter()
    vectors = embed(texts)
    seconds = time.perf_counter() - begun
    np.save(a.out, vectors)
    tokens = sum(len(found.ids) for found in tokenizer(a).encode_batch(texts))
    json.dump({"program": name, "texts": len(texts), "tokens": tokens, "seconds": seconds}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
