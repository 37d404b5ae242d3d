#!/usr/bin/env python3
"""From the start of the server to its first token, on random weights of a model's shapes.

  bench/start.py make CONFIG_FOLDER OUT     writes a bf16 checkpoint in four files (needs numpy), 8B: 16 GB
  bench/start.py run MODEL [N] [-- FLAGS]   starts `sluice serve MODEL FLAGS` N times; ms, and memory of the host

The first start of a machine reads the libraries from disk; the median is of the others. --drop before N drops the model's
files from the page cache before each start. $SLUICE_BIN names another binary than build/sluice.
"""
import http.client, json, multiprocessing, os, re, shutil, socket, statistics, struct, subprocess, sys, tempfile, time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
BIN = os.environ.get("SLUICE_BIN", os.path.join(ROOT, "build/sluice"))
FILES = 4


# -------------------------------------------------------------------- a checkpoint
def shapes(c):
    """Hugging Face names and shapes of a dense Llama."""
    h, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    q = c["num_attention_heads"] * c.get("head_dim", h // c["num_attention_heads"])
    kv = q // c["num_attention_heads"] * c["num_key_value_heads"]
    yield "model.embed_tokens.weight", (v, h)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for name, shape in (("self_attn.q_proj", (q, h)), ("self_attn.k_proj", (kv, h)), ("self_attn.v_proj", (kv, h)),
                            ("self_attn.o_proj", (h, q)), ("mlp.gate_proj", (f, h)), ("mlp.up_proj", (f, h)),
                            ("mlp.down_proj", (h, f)), ("input_layernorm", (h,)), ("post_attention_layernorm", (h,))):
            yield p + name + ".weight", shape
    yield "model.norm.weight", (h,)
    if not c.get("tie_word_embeddings"):
        yield "lm_head.weight", (v, h)


def write_file(path, tensors):
    import numpy as np

    rng = np.random.default_rng(len(path))
    values = rng.standard_normal(1 << 24, dtype=np.float32) * 0.015
    pool = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    head, at = {}, 0
    for name, shape in tensors:
        n = 2
        for d in shape:
            n *= d
        head[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors:
            a, b = head[name]["data_offsets"]
            data = b"\x80\x3f" * ((b - a) // 2) if len(shape) == 1 else pool  # norms are one
            while a < b:
                a += f.write(memoryview(data)[: b - a])


def make(source, out):
    os.makedirs(out, exist_ok=True)
    for name in os.listdir(source):
        shutil.copy(os.path.join(source, name), out)
    all_of_them = list(shapes(json.load(open(os.path.join(source, "config.json")))))
    parts = [all_of_them[i * len(all_of_them) // FILES:(i + 1) * len(all_of_them) // FILES] for i in range(FILES)]
    names = [f"model-{i + 1:05}-of-{FILES:05}.safetensors" for i in range(FILES)]
    jobs = [multiprocessing.Process(target=write_file, args=(os.path.join(out, n), p)) for n, p in zip(names, parts)]
    for j in jobs:
        j.start()
    for j in jobs:
        j.join()
        assert j.exitcode == 0
    index = {name: names[i] for i, p in enumerate(parts) for name, _ in p}
    json.dump({"metadata": {}, "weight_map": index}, open(os.path.join(out, "model.safetensors.index.json"), "w"))


# -------------------------------------------------------------------- a start
def drop(model):
    for name in os.listdir(model):
        if name.endswith(".safetensors"):
            fd = os.open(os.path.join(model, name), os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def wait_for(log, process, pattern):
    while True:
        text = open(log.name).read()
        if m := re.search(pattern, text, re.M):
            return m
        if process.poll() is not None:
            sys.exit(f"the server ended:\n{text}")
        time.sleep(0.002)


def host_memory(pid):
    text = open(f"/proc/{pid}/status").read()
    return {k: int(re.search(rf"^{k}:\s+(\d+)", text, re.M)[1]) // 1024 for k in ("VmHWM", "RssAnon", "RssFile")}


def once(model, flags):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = tempfile.NamedTemporaryFile("w+", prefix="sluice-start-")
    start = time.monotonic()
    server = subprocess.Popen([BIN, "serve", model, "--port", str(port), "--log-level", "debug", *flags], stdout=log, stderr=log)
    wait_for(log, server, r"^try ")
    ready = time.monotonic()
    times = []
    for _ in range(2):  # the second shows what the first had to load
        sent = time.monotonic()
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {"prompt": "The capital of France is", "max_tokens": 1, "temperature": 0, "stream": True}
        c.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        line = c.getresponse().readline()
        times.append(time.monotonic() - sent)
        assert line.startswith(b"data: {") and b"error" not in line, line
    memory = host_memory(server.pid)
    server.terminate()
    assert server.wait(20) == 0
    text = open(log.name).read()
    laps = re.search(r"opened in ms: (.*)", text)
    print(f"first token {1e3 * (ready - start + times[0]):.0f} ms: ready {1e3 * (ready - start):.0f}, first request "
          f"{1e3 * times[0]:.0f} (the next one {1e3 * times[1]:.0f}); opening: {laps[1] if laps else '?'}; MiB {memory}", flush=True)
    return ready - start + times[0], text


def main():
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 4:
        return make(sys.argv[2], sys.argv[3])
    args, flags = (sys.argv[:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:]) if "--" in sys.argv else (sys.argv, [])
    is_cold = "--drop" in args
    args = [a for a in args if a != "--drop"]
    if args[1:2] != ["run"] or len(args) not in (3, 4):
        sys.exit(__doc__)
    seconds = []
    for _ in range(int(args[3]) if len(args) > 3 else 5):
        if is_cold:
            drop(args[2])
        s, text = once(args[2], flags)
        seconds.append(s)
    for line in text.splitlines():
        if re.match(r"sluice |model |kv |memory ", line):
            print(line)
    print(f"median of all but the first: {statistics.median(seconds[1:] or seconds):.2f} s")


main()
