#!/usr/bin/env python3
"""Write tests/data/dtype/TYPE.blocks and TYPE.f32: random blocks of each quantized type, and what the
dequantizer of the PyPI package `gguf` makes of them. Run by hand when a type is added; needs numpy, gguf.

    make_dtype_golden.py tests/data/dtype
"""
import os
import sys

import gguf
import numpy as np

HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
          "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}  # where the f16 scales lie

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
for name, offsets in HALVES.items():
    rng = np.random.default_rng(len(name) * 1000 + sum(name.encode()))
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (8 if block == 32 else 4, size), dtype=np.uint8)
    for at in offsets:  # finite scales of both signs; the first block's is subnormal
        scale = (rng.standard_normal(len(blocks)) * 0.1).astype(np.float16)
        scale[0] = np.float16(3e-6)
        blocks[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    blocks.tofile(os.path.join(out, name + ".blocks"))
    gguf.dequantize(blocks, kind).astype("<f4").tofile(os.path.join(out, name + ".f32"))
