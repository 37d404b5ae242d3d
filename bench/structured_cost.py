#!/usr/bin/env python3
"""structured_cost.py --server build/sluice [--tokenizer DIR|GGUF] [--step-us 5000]: what a schema costs in throughput.

A server on the sim device, 64 clients at once, the same requests free and with a JSON schema, in turns. DIR or GGUF gives it a
real vocabulary: a model, or a folder with a tokenizer alone. Prints for each turn tokens a second and, for a step, the engine
thread's CPU time and how long the device waited for it; then what the schema cost, as the median over the turns and by the best
of each kind, which a busy machine disturbs less."""
import argparse, concurrent.futures, json, os, shutil, statistics, sys, tempfile, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/e2e"))
from harness import CHAT, TINY, Server

SCHEMA = {"type": "array", "minItems": 2000, "items": {"type": "object", "additionalProperties": False, "properties": {
    "name": {"type": "string"}, "n": {"type": "integer"}, "kind": {"enum": ["red", "green", "blue"]}},
    "required": ["name", "n", "kind"]}}
CLIENTS = 64
COUNTERS = ("vllm:generation_tokens_total", "sluice:engine_step_cpu_seconds_sum", "sluice:engine_step_cpu_seconds_count",
            "sluice:device_idle_seconds_sum", "sluice:device_idle_seconds_count")


def model_of(tokenizer, folder):
    """A model that the sim device can serve: as given, or the tokenizer's files beside a small config.json."""
    if os.path.isfile(tokenizer) or os.path.exists(os.path.join(tokenizer, "config.json")):
        return tokenizer
    with open(os.path.join(tokenizer, "tokenizer.json")) as f:
        t = json.load(f)
    n_vocab = 1 + max([*t["model"]["vocab"].values(), *(a["id"] for a in t["added_tokens"])])
    with open(os.path.join(TINY, "config.json")) as f:
        config = {**json.load(f), "vocab_size": n_vocab}
    for name in os.listdir(tokenizer):
        shutil.copy(os.path.join(tokenizer, name), folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    return folder


def ask(server, seed, n_tokens, form):
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": n_tokens, "min_tokens": n_tokens,
            "ignore_eos": True, "seed": seed, "temperature": 1, **form}
    return server.ok(CHAT, body)["usage"]["completion_tokens"]


def counters(server):
    m = server.metrics()
    return [sum(v for k, v in m.items() if k.split("{")[0] == name) for name in COUNTERS]


def turn(server, n_tokens, form):
    """Tokens a second; us of the engine thread and of waiting a step."""
    before, start = counters(server), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        n = sum(pool.map(lambda seed: ask(server, seed, n_tokens, form), range(CLIENTS)))
    seconds = time.monotonic() - start
    d = [b - a for a, b in zip(before, counters(server))]
    return n / seconds, 1e6 * d[1] / d[2], 1e6 * d[3] / max(1, d[4])


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--server", required=True)
    p.add_argument("--tokenizer")
    p.add_argument("--step-us", type=int, default=5000)
    p.add_argument("--tokens", type=int, default=1000)
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(a.tokenizer, folder) if a.tokenizer else None
        flags = ["--device", "sim", "--load-format", "dummy"] if model == folder else ["--device", "sim"] if model else []
        with Server(*flags, "--sim-step-us", str(a.step_us), "--max-num-seqs", str(CLIENTS), "--max-model-len", "2048",
                    binary=a.server, model=model) as s:
            turn(s, a.tokens, form)
            turns = [(turn(s, a.tokens, {}), turn(s, a.tokens, form)) for _ in range(a.rounds)]
    costs = [100 * (1 - held[0] / free[0]) for free, held in turns]
    for (free, held), cost in zip(turns, costs):
        print(f"free {free[0]:.0f} tokens/s ({free[1]:.0f} us CPU, {free[2]:.0f} us idle a step), "
              f"with a schema {held[0]:.0f} ({held[1]:.0f}, {held[2]:.0f}): cost {cost:.1f} %")
    best = 100 * (1 - max(held[0] for _, held in turns) / max(free[0] for free, _ in turns))
    print(f"cost, median of {a.rounds}: {statistics.median(costs):.1f} %, of the best turns: {best:.1f} %")


if __name__ == "__main__":
    main()
