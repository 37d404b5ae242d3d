#!/usr/bin/env python3
"""Write a GGUF v3 file from a Hugging Face folder: how the tests get every element type, end to end.

    make_gguf.py FOLDER OUT.gguf --types Q8_0            one type for all matrices
    make_gguf.py FOLDER OUT.gguf --types Q4_0,F16,Q4_K   dealt in turn: super-block types to matrices
                                                         whose rows are multiples of 256, others to the rest

Families llama, mistral, qwen2, qwen3 with a byte-level BPE tokenizer.json. The quantizers are the
plainest that are correct (round to nearest on a grid from each run's least and greatest value); the
reader is what is tested, so their error is bounded but not tuned. Needs numpy.

The files in tests/data/gguf are made with
    make_gguf.py tests/data/models/llama tests/data/gguf/llama_a.gguf --types Q4_0,Q4_1,Q5_0,Q5_1,Q4_0,Q4_1,F16,Q2_K,Q3_K,Q4_K
    make_gguf.py tests/data/models/llama tests/data/gguf/llama_b.gguf --types Q4_0,Q4_0,Q8_0,Q5_1,Q4_0,Q8_0,Q4_1,BF16,Q4_0,Q5_0,Q4_0,Q4_1,Q4_0,Q5_0,Q5_K,Q6_K
    make_gguf.py tests/data/models/qwen3 tests/data/gguf/qwen3.gguf --types Q4_0
"""
import argparse
import json
import math
import os
import struct

import numpy as np

GGML = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10,
        "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "BF16": 30}
ARCH = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
         "self_attn.k_norm": "attn_k_norm", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def read_safetensors(path):
    raw = open(path, "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    out = {}
    for name, t in json.loads(raw[8:8 + n]).items():
        if name == "__metadata__":
            continue
        begin, end = t["data_offsets"]
        data = raw[8 + n + begin:8 + n + end]
        if t["dtype"] == "BF16":
            x = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            x = np.frombuffer(data, {"F16": "<f2", "F32": "<f4"}[t["dtype"]]).astype(np.float32)
        out[name] = x.reshape(t["shape"])
    return out


# ---------------------------------------------------------------- quantizers: rows of runs -> bytes

def half(x):
    """f16 bytes and the value that a reader will see."""
    h = x.astype(np.float16)
    return h.view(np.uint8).reshape(len(x), 2), h.astype(np.float32)


def divide(x, d):
    return np.where(d != 0, x / np.where(d != 0, d, 1), 0)


def nibbles(q):  # [n, 32] -> [n, 16]: element i low, element i + 16 high
    return (q[:, :16] | q[:, 16:] << 4).astype(np.uint8)


def fifth_bits(q):
    bits = (q.astype(np.uint32) >> 4 & 1) << np.arange(32, dtype=np.uint32)
    return bits.sum(axis=1, dtype=np.uint32).view(np.uint8).reshape(-1, 4)


def symmetric32(x, bits):  # Q4_0, Q5_0: d * (q - 2^(bits-1))
    top = 1 << (bits - 1)
    raw, d = half(np.abs(x).max(axis=1) / (top - 1))
    q = np.clip(np.rint(divide(x, d[:, None])) + top, 0, 2 * top - 1).astype(np.int32)
    return np.hstack([raw] + ([fifth_bits(q)] if bits == 5 else []) + [nibbles(q & 15)])


def affine32(x, bits):  # Q4_1, Q5_1: d * q + m
    top = (1 << bits) - 1
    raw_d, d = half((x.max(axis=1) - x.min(axis=1)) / top)
    raw_m, m = half(x.min(axis=1))
    q = np.clip(np.rint(divide(x - m[:, None], d[:, None])), 0, top).astype(np.int32)
    return np.hstack([raw_d, raw_m] + ([fifth_bits(q)] if bits == 5 else []) + [nibbles(q & 15)])


def q8_0(x):
    raw, d = half(np.abs(x).max(axis=1) / 127)
    q = np.clip(np.rint(divide(x, d[:, None])), -127, 127).astype(np.int8)
    return np.hstack([raw, q.view(np.uint8)])


def affine_runs(x, run, q_top, s_top):
    """d * scale * q - dmin * min per run: raw d, raw dmin, scales, mins, q [n, 256]."""
    r = x.reshape(len(x), -1, run)
    low = np.minimum(r.min(axis=2), 0)
    raw_d, d = half(((r.max(axis=2) - low) / q_top).max(axis=1) / s_top)
    raw_m, m = half((-low).max(axis=1) / s_top)
    scale = np.clip(np.rint(divide((r.max(axis=2) - low) / q_top, d[:, None])), 0, s_top)
    least = np.clip(np.rint(divide(-low, m[:, None])), 0, s_top)
    q = np.rint(divide(r + (m[:, None] * least)[:, :, None], (d[:, None] * scale)[:, :, None]))
    q = np.clip(q, 0, q_top).astype(np.int32).reshape(len(x), 256)
    return raw_d, raw_m, scale.astype(np.int32), least.astype(np.int32), q


def symmetric_runs(x, q_half, s_top):
    """d * scale * (q - q_half) per run of 16: raw d, scales, q [n, 256]."""
    r = x.reshape(len(x), 16, 16)
    want = np.abs(r).max(axis=2) / (q_half - 1)
    raw_d, d = half(want.max(axis=1) / s_top)
    scale = np.clip(np.rint(divide(want, d[:, None])), 0, s_top)
    q = np.rint(divide(r, (d[:, None] * scale)[:, :, None])) + q_half
    return raw_d, scale.astype(np.int32), np.clip(q, 0, 2 * q_half - 1).astype(np.int32).reshape(len(x), 256)


def crumbs(q):  # two-bit values: 128 elements in 32 bytes, bits 2j of byte i hold element 32 j + i
    q = q.reshape(len(q), 2, 4, 32)
    return sum((q[:, :, j] & 3) << 2 * j for j in range(4)).astype(np.uint8).reshape(len(q), 64)


def q2_k(x):
    raw_d, raw_m, scale, least, q = affine_runs(x, 16, 3, 15)
    return np.hstack([(scale | least << 4).astype(np.uint8), crumbs(q), raw_d, raw_m])


def q3_k(x):
    raw_d, scale, q = symmetric_runs(x, 4, 31)
    scale = scale + 32
    high = sum((q.reshape(-1, 8, 32)[:, j] >> 2) << j for j in range(8)).astype(np.uint8)
    low = (scale[:, :8] & 15) | (scale[:, 8:] & 15) << 4
    top = sum((scale.reshape(-1, 4, 4)[:, j] >> 4) << 2 * j for j in range(4))
    return np.hstack([high, crumbs(q), low.astype(np.uint8), top.astype(np.uint8), raw_d])


def scale_min(scale, least):  # eight six-bit pairs in 12 bytes
    first = scale[:, :4] | scale[:, 4:] >> 4 << 6
    second = least[:, :4] | least[:, 4:] >> 4 << 6
    third = (scale[:, 4:] & 15) | (least[:, 4:] & 15) << 4
    return np.hstack([first, second, third]).astype(np.uint8)


def run_nibbles(q):  # 64 elements in 32 bytes: first 32 low, next 32 high
    q = q.reshape(len(q), 4, 2, 32) & 15
    return (q[:, :, 0] | q[:, :, 1] << 4).astype(np.uint8).reshape(len(q), 128)


def q45_k(x, bits):
    raw_d, raw_m, scale, least, q = affine_runs(x, 32, (1 << bits) - 1, 63)
    high = sum((q.reshape(-1, 8, 32)[:, j] >> 4) << j for j in range(8)).astype(np.uint8)
    parts = [raw_d, raw_m, scale_min(scale, least)] + ([high] if bits == 5 else [])
    return np.hstack(parts + [run_nibbles(q)])


def q6_k(x):
    raw_d, scale, q = symmetric_runs(x, 32, 127)
    h = q.reshape(len(q), 2, 2, 64)
    low = ((h[:, :, 0] & 15) | (h[:, :, 1] & 15) << 4).reshape(len(q), 128)
    return np.hstack([low.astype(np.uint8), crumbs(q >> 4), scale.astype(np.int8).view(np.uint8), raw_d])


def encode(x, kind):
    x = np.ascontiguousarray(x, np.float32)
    if kind == "F32":
        return x.tobytes()
    if kind == "F16":
        return x.astype("<f2").tobytes()
    if kind == "BF16":
        u = x.view(np.uint32).astype(np.uint64)
        return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype("<u2").tobytes()
    blocks = x.reshape(-1, 256 if kind.endswith("_K") else 32)
    with np.errstate(invalid="raise"):
        return {"Q4_0": lambda b: symmetric32(b, 4), "Q5_0": lambda b: symmetric32(b, 5),
                "Q4_1": lambda b: affine32(b, 4), "Q5_1": lambda b: affine32(b, 5), "Q8_0": q8_0,
                "Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": lambda b: q45_k(b, 4),
                "Q5_K": lambda b: q45_k(b, 5), "Q6_K": q6_k}[kind](blocks).tobytes()


# ---------------------------------------------------------------- metadata

def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def value(v):
    """Type and bytes: int -> u32, float -> f32, bool, str, or a list of one of them (int: i32)."""
    if isinstance(v, bool):
        return 7, struct.pack("<B", v)
    if isinstance(v, int):
        return 4, struct.pack("<I", v)
    if isinstance(v, float):
        return 6, struct.pack("<f", v)
    if isinstance(v, str):
        return 8, text(v)
    kind = 8 if isinstance(v[0], str) else 6 if isinstance(v[0], float) else 5
    body = b"".join(text(i) if kind == 8 else struct.pack("<f" if kind == 6 else "<i", i) for i in v)
    return 9, struct.pack("<IQ", kind, len(v)) + body


def metadata(folder, cfg):
    arch = ARCH[cfg["model_type"]]
    rope = cfg.get("rope_parameters") or dict(cfg.get("rope_scaling") or {}, rope_theta=cfg["rope_theta"])
    heads = cfg["num_attention_heads"]
    dim = cfg.get("head_dim") or cfg["hidden_size"] // heads
    meta = {"general.architecture": arch, "general.name": os.path.basename(os.path.abspath(folder))}
    keys = {"block_count": cfg["num_hidden_layers"], "context_length": cfg["max_position_embeddings"],
            "embedding_length": cfg["hidden_size"], "feed_forward_length": cfg["intermediate_size"],
            "attention.head_count": heads, "attention.head_count_kv": cfg["num_key_value_heads"],
            "attention.key_length": dim, "attention.value_length": dim, "rope.dimension_count": dim,
            "attention.layer_norm_rms_epsilon": float(cfg["rms_norm_eps"]),
            "rope.freq_base": float(rope["rope_theta"])}
    if cfg.get("sliding_window") and cfg.get("use_sliding_window", True):
        keys["attention.sliding_window"] = cfg["sliding_window"]
    if rope.get("rope_type") in ("linear", "yarn"):
        keys["rope.scaling.type"] = rope["rope_type"]
        keys["rope.scaling.factor"] = float(rope["factor"])
    if rope.get("rope_type") == "yarn":
        keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    meta.update((arch + "." + k, v) for k, v in keys.items())
    tok = json.load(open(os.path.join(folder, "tokenizer.json")))
    tok_cfg = json.load(open(os.path.join(folder, "tokenizer_config.json")))
    vocab = sorted(tok["model"]["vocab"].items(), key=lambda kv: kv[1])
    special = {t["id"] for t in tok["added_tokens"] if t["special"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]]
    meta.update({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
                 "tokenizer.ggml.tokens": [t for t, _ in vocab],
                 "tokenizer.ggml.token_type": [3 if i in special else 1 for _, i in vocab],
                 "tokenizer.ggml.merges": merges,
                 "tokenizer.ggml.bos_token_id": cfg["bos_token_id"],
                 "tokenizer.ggml.eos_token_id": cfg["eos_token_id"],
                 "tokenizer.ggml.padding_token_id": cfg["pad_token_id"],
                 "tokenizer.ggml.add_bos_token": tok_cfg.get("add_bos_token", False),
                 "tokenizer.chat_template": tok_cfg["chat_template"]})
    return meta, rope, dim


def rope_factors(rope, dim):
    """Llama 3's scaling as divisors of the frequencies."""
    out = []
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    for i in range(0, dim, 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        smooth = (rope["original_max_position_embeddings"] / wave - rope["low_freq_factor"]) / (
            rope["high_freq_factor"] - rope["low_freq_factor"])
        mid = 1 / ((1 - smooth) / rope["factor"] + smooth)
        out.append(1.0 if wave < high else rope["factor"] if wave > low else mid)
    return np.array(out, np.float32)


def gguf_name(name):
    stem, suffix = name.rsplit(".", 1)
    flat = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    if stem in flat:
        return flat[stem] + "." + suffix
    layer, rest = stem[len("model.layers."):].split(".", 1)
    return "blk.%s.%s.%s" % (layer, NAMES[rest], suffix)


def permute(x, heads):
    """Half-split rotary rows to neighbouring pairs, as llama.cpp stores them."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def convert(folder, types):
    cfg = json.load(open(os.path.join(folder, "config.json")))
    meta, rope, dim = metadata(folder, cfg)
    wide = [t for t in types if t.endswith("_K")]
    narrow = [t for t in types if not t.endswith("_K")] or ["Q8_0"]
    n_wide = n_narrow = 0
    tensors = []
    for name, x in read_safetensors(os.path.join(folder, "model.safetensors")).items():
        if meta["general.architecture"] == "llama" and ("q_proj" in name or "k_proj" in name):
            x = permute(x, cfg["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
        kind = "F32"
        if x.ndim == 2 and wide and x.shape[1] % 256 == 0:
            kind, n_wide = wide[n_wide % len(wide)], n_wide + 1
        elif x.ndim == 2:
            kind, n_narrow = narrow[n_narrow % len(narrow)], n_narrow + 1
        tensors.append((gguf_name(name), x.shape, kind, encode(x, kind)))
    if rope.get("rope_type") == "llama3":
        x = rope_factors(rope, dim)
        tensors.append(("rope_freqs.weight", x.shape, "F32", encode(x, "F32")))
    return meta, tensors


def write(path, meta, tensors, align=32):
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(meta))]
    for key, v in meta.items():
        kind, body = value(v)
        head.append(text(key) + struct.pack("<I", kind) + body)
    at = 0
    for name, shape, kind, body in tensors:
        dims = struct.pack("<%dQ" % len(shape), *reversed(shape))
        head.append(text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", GGML[kind], at))
        at += -(-len(body) // align) * align
    with open(path, "wb") as f:
        raw = b"".join(head)
        f.write(raw + bytes(-len(raw) % align))
        for _, _, _, body in tensors:
            f.write(body + bytes(-len(body) % align))


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("out")
    p.add_argument("--types", default="Q8_0")
    a = p.parse_args()
    write(a.out, *convert(a.folder, a.types.split(",")))
