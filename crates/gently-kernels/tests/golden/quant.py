"""Golden blocks for src/quant/tests.rs, made with the `gguf` package's numpy code.

    python quant.py        # writes quant/NAME.bin beside this file

Each NAME.bin holds blocks, then their numbers as little-endian f32. Blocks of types that the package
can quantize come from `quant/values.bin`; those of the K types are random bytes with sane scales.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

OUT = Path(__file__).parent / "quant"
OUT.mkdir(exist_ok=True)
rng = np.random.default_rng(20261122)

values = (rng.standard_normal(8 * 32) * np.repeat([1e-6, 0.02, 0.1, 1, 3, 40, 1, 1], 32)).astype(np.float32)
values[6 * 32 : 7 * 32] = 0
values[7 * 32 : 8 * 32] = -0.75
(OUT / "values.bin").write_bytes(values.tobytes())

for t in [T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]:
    q = quantize(values, t)
    (OUT / f"{t.name}.bin").write_bytes(q.tobytes() + dequantize(q, t).astype("<f4").tobytes())

# Where the half-precision scales lie in a block.
HALVES = {T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
for t, halves in HALVES.items():
    size = GGML_QUANT_SIZES[t][1]
    q = rng.integers(0, 256, (2, size), dtype=np.uint8)
    for at in halves:
        q[:, at : at + 2] = rng.normal(0, 0.01, 2).astype(np.float16).reshape(2, 1).view(np.uint8)
    x = dequantize(q, t)
    (OUT / f"{t.name}.bin").write_bytes(q.tobytes() + x.astype("<f4").tobytes())
