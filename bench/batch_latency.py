#!/usr/bin/env python3
"""What online requests notice of a full batch lane: time to first token with and without it.

  batch_latency.py --bin build/sluice [--model MODEL.gguf] [--rounds 6] [--requests 60] [--rate 4] [--words 60]
                   [--max-tokens 32] [--args "..."]

One server, rounds in turn without and with a batch that has more lines than can be run. In each round online requests
arrive at random (exponential gaps, the same ones in both), streamed. Prints p50 and p99 of the time to first token and of
the time per token, their ratios over all rounds, and the batch's tokens a second meanwhile.
"""
import argparse, http.client, json, os, random, re, shlex, subprocess, sys, tempfile, threading, time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../tests/e2e"))
from harness import Server  # noqa: E402

WORDS = "the river stone runs under old bridge while people count their boats and trade salt for wool at dawn".split()


def prompt(rng, n):
    return " ".join(rng.choice(WORDS) for _ in range(n))


def ask(server, text, max_tokens, out):
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, "stream": True, "ignore_eos": True}
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    began = time.monotonic()
    c.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    r, times = c.getresponse(), []
    while line := r.readline():
        if line.startswith(b"data: {") and b'"content":""' not in line:
            times.append(time.monotonic())
    c.close()
    out.append((times[0] - began, (times[-1] - times[0]) / max(1, len(times) - 1)))


def play(server, args, seed, tag):
    """The tag comes first in each prompt, so that no round finds another's in the prefix cache."""
    rng, out, threads = random.Random(seed), [], []
    for _ in range(args.requests):
        t = threading.Thread(target=ask, args=(server, f"{tag} " + prompt(rng, args.words), args.max_tokens, out))
        t.start()
        threads.append(t)
        time.sleep(rng.expovariate(args.rate))
    for t in threads:
        t.join()
    return out


def begin_batch(server, n_lines):
    rng = random.Random(7)
    lines = "".join(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": {
        "messages": [{"role": "user", "content": prompt(rng, rng.randrange(5, 200))}], "max_tokens": rng.randrange(8, 200),
        "ignore_eos": True}}) + "\n" for i in range(n_lines))
    form = ('--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: form-data; '
            'name="file"; filename="in.jsonl"\r\n\r\n' + lines + "\r\n--b--\r\n")
    f = json.loads(server.post("/v1/files", form, headers={"Content-Type": "multipart/form-data; boundary=b"}).body)
    body = {"input_file_id": f["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    b = server.ok("/v1/batches", body)
    while server.metrics()["sluice:background_requests_running"] == 0:
        time.sleep(0.02)
    return b["id"]


def end_batch(server, batch):
    server.post(f"/v1/batches/{batch}/cancel", {})
    while server.metrics()["sluice:batches_in_progress"]:
        time.sleep(0.02)


def quantile(values, q):
    v = sorted(values)
    return v[min(len(v) - 1, int(q * len(v)))]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bin", default="build/sluice")
    p.add_argument("--model")
    p.add_argument("--rounds", type=int, default=6)
    p.add_argument("--requests", type=int, default=60)
    p.add_argument("--rate", type=float, default=4)
    p.add_argument("--words", type=int, default=60)
    p.add_argument("--max-tokens", type=int, default=32)
    p.add_argument("--lines", type=int, default=5000)
    p.add_argument("--args", default="")
    args = p.parse_args()
    data = tempfile.mkdtemp(prefix="sluice-bench-")
    with Server("--data-dir", data, *shlex.split(args.args), model=args.model, binary=args.bin, name="m") as s:
        results, rounds, spent, made = {False: [], True: []}, {False: [], True: []}, 0, 0
        play(s, args, 0, "warm")
        for i in range(args.rounds):
            for full in (False, True) if i % 2 else (True, False):
                batch = begin_batch(s, args.lines) if full else None
                before, start = s.metrics()["sluice:background_tokens_total"], time.monotonic()
                got = play(s, args, 1 + i, f"{i} {full}")
                if full:
                    spent += time.monotonic() - start
                    made += s.metrics()["sluice:background_tokens_total"] - before
                    end_batch(s, batch)
                results[full] += got
                rounds[full].append(got)
                t = [x[0] for x in got]
                print(f"round {i} {'batch' if full else 'alone'}: first token p50 {1e3 * quantile(t, .5):.1f} "
                      f"p99 {1e3 * quantile(t, .99):.1f} ms, per token p50 {1e3 * quantile([x[1] for x in got], .5):.2f} ms")
        for q in .5, .9:
            a, b = (sorted(quantile([x[0] for x in r], q) for r in rounds[f])[len(rounds[f]) // 2] * 1e3 for f in (False, True))
            print(f"median over rounds of first token p{round(100 * q)}: alone {a:.2f} ms, beside {b:.2f} ms, ratio {b / a:.3f}")
        for k, name in (0, "first token"), (1, "per token"):
            for q in .5, .9, .99:
                a, b = (quantile([x[k] for x in results[f]], q) * 1e3 for f in (False, True))
                print(f"{name} p{round(100 * q)}: alone {a:.2f} ms, beside a batch {b:.2f} ms, ratio {b / a:.3f}")
        print(f"batch meanwhile: {made / spent:.1f} tokens a second")


main()
