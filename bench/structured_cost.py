#!/usr/bin/env python3
"""structured_cost.py --server build/sluice [--tokenizer DIR] [--step-us 5000]: what a schema costs in throughput.

A server on the sim device (DIR gives it a real vocabulary), 64 clients at once, the same requests free and with a JSON
schema, in turns; prints tokens a second of each and the ratio."""
import argparse, concurrent.futures, http.client, json, os, sys, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/e2e"))
from harness import CHAT, Server

SCHEMA = {"type": "array", "minItems": 200, "items": {"type": "object", "additionalProperties": False, "properties": {
    "name": {"type": "string"}, "n": {"type": "integer"}, "kind": {"enum": ["red", "green", "blue"]}},
    "required": ["name", "n", "kind"]}}
CLIENTS, ROUNDS, TOKENS = 64, 3, 200


def ask(server, seed, form):
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": TOKENS, "min_tokens": TOKENS, "ignore_eos": True,
            "seed": seed, "temperature": 1, **form}
    return server.ok(CHAT, body)["usage"]["completion_tokens"]


def tokens_per_second(server, form):
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        start = time.monotonic()
        n = sum(pool.map(lambda seed: ask(server, seed, form), range(CLIENTS)))
        return n / (time.monotonic() - start)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--server", required=True)
    p.add_argument("--tokenizer")
    p.add_argument("--step-us", default="5000")
    a = p.parse_args()
    flags = ["--device", "sim"] if a.tokenizer else []
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
    with Server(*flags, "--sim-step-us", a.step_us, "--max-num-seqs", str(CLIENTS), binary=a.server, model=a.tokenizer) as s:
        tokens_per_second(s, form)
        free, held = [], []
        for _ in range(ROUNDS):
            free.append(tokens_per_second(s, {}))
            held.append(tokens_per_second(s, form))
    print(f"free {max(free):.0f} tokens/s, with a schema {max(held):.0f}, cost {100 * (1 - max(held) / max(free)):.1f} %")


if __name__ == "__main__":
    main()
