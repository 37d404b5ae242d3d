#!/usr/bin/env python3
"""Pooled hidden states of the tiny checkpoints in tests/data/models, computed with numpy alone.

  make_pooled_golden.py      writes tests/data/pooled.json; needs numpy

A plain Llama forward pass in float64 (Qwen3's per-head norms and Mistral's window included). It is first held to the
logits that transformers computed (golden.json beside each checkpoint), with rotary frequencies rounded to bfloat16 as
that reference had them; the vectors are then made with float32 frequencies, as the server has them.
"""
import json, os, struct
import numpy as np

DATA = os.path.abspath(os.path.join(os.path.dirname(__file__), "../data"))
N_VALUES = 64  # of hidden_size 64: all


def bf16(x):
    """Rounded to bfloat16, ties to even."""
    u = np.asarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def tensors(path):
    raw = open(path, "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    out = {}
    for name, t in json.loads(raw[8 : 8 + n]).items():
        if name == "__metadata__":
            continue
        a, b = (8 + n + o for o in t["data_offsets"])
        assert t["dtype"] == "BF16", t
        u = np.frombuffer(raw[a:b], np.uint16).astype(np.uint32) << 16
        out[name] = u.view(np.float32).reshape(t["shape"]).astype(np.float64)
    return out


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def rotate(x, angles):
    half = x.shape[-1] // 2
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def hidden(c, w, ids, round_frequencies):
    """The normed last hidden state, [len(ids), hidden]."""
    n, nh, nkv, hd, eps = len(ids), c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["rms_norm_eps"]
    freq = (1.0 / c["rope_parameters"]["rope_theta"] ** (np.arange(0, hd, 2, dtype=np.float32) / np.float32(hd))).astype(
        np.float32)
    angles = np.arange(n)[:, None] * (bf16(freq) if round_frequencies else freq).astype(np.float64)
    i, j = np.arange(n)[:, None], np.arange(n)[None]
    window = c.get("sliding_window") or n
    mask = np.where((j <= i) & (i - j < window), 0.0, -np.inf)
    x = w["model.embed_tokens.weight"][ids]
    for l in range(c["num_hidden_layers"]):
        g = lambda name: w[f"model.layers.{l}.{name}.weight"]
        h = rms(x, g("input_layernorm"), eps)
        q, k, v = ((h @ g(f"self_attn.{p}_proj").T).reshape(n, -1, hd) for p in "qkv")
        if f"model.layers.{l}.self_attn.q_norm.weight" in w:
            q, k = rms(q, g("self_attn.q_norm"), eps), rms(k, g("self_attn.k_norm"), eps)
        q, k = rotate(q, angles), rotate(k, angles)
        k, v = (np.repeat(t, nh // nkv, 1) for t in (k, v))
        s = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(hd) + mask
        p = np.exp(s - s.max(-1, keepdims=True))
        att = np.einsum("hij,jhd->ihd", p / p.sum(-1, keepdims=True), v).reshape(n, -1)
        x = x + att @ g("self_attn.o_proj").T
        h = rms(x, g("post_attention_layernorm"), eps)
        gate, up = h @ g("mlp.gate_proj").T, h @ g("mlp.up_proj").T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ g("mlp.down_proj").T
    return rms(x, w["model.norm.weight"], eps)


def check(folder, c, w):
    """Against transformers' logits: the forward pass above is the right one."""
    head = w["lm_head.weight"] if "lm_head.weight" in w else w["model.embed_tokens.weight"]
    n_checked = 0
    for case in json.load(open(f"{folder}/golden.json"))["cases"]:
        path = f"{folder}/{case['logits_file']}"
        if not os.path.exists(path) or case["logits_rows"] != "all":
            continue
        got = hidden(c, w, case["prompt_token_ids"], True) @ head.T
        error = np.abs(got - np.load(path)).max()
        assert error < 2e-3, (path, error)
        n_checked += 1
    assert n_checked, folder


out = {}
for name in ("llama", "mistral_swa", "qwen3"):
    folder = f"{DATA}/models/{name}"
    c, w = json.load(open(f"{folder}/config.json")), tensors(f"{folder}/model.safetensors")
    check(folder, c, w)
    ids = [(7 * i * i + 11 * i + 3) % c["vocab_size"] for i in range(50)]
    h = hidden(c, w, ids, False)
    round5 = lambda v: [float(f"{x:.6g}") for x in v[:N_VALUES]]
    out[name] = {"ids": ids, "last": round5(h[-1]), "mean": round5(h.mean(0)), "cls": round5(h[0])}
with open(f"{DATA}/pooled.json", "w") as f:
    json.dump(out, f, separators=(",", ":"))
    f.write("\n")
