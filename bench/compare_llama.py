#!/usr/bin/env python3
"""Decode, prefill and 8 streams on the CPU, side by side with llama.cpp's server, alternating in one run.

  compare_llama.py --sluice build/sluice --llama-server PATH --model FILE.gguf [--threads 2] [--rounds 3]

Both servers load the same file with the same number of threads and get the same requests over the same HTTP API, one
server at a time, rounds alternating so that a noisy machine hits both. Figures are medians; the ratio is what counts.
"""
import argparse, concurrent.futures, http.client, json, os, signal, socket, statistics, subprocess, time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def post(port, body):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    c.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    r = c.getresponse()
    data = r.read()
    assert r.status == 200, data[:300]
    return data


def streamed(port, prompt, n):
    """Seconds to the first token, seconds from first to last, tokens counted."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    body = dict(prompt=prompt, max_tokens=n, temperature=0, ignore_eos=True, stream=True, cache_prompt=False)
    start = time.perf_counter()
    c.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    r = c.getresponse()
    first = last = None
    count = 0
    for line in r:
        if line.startswith(b"data: {") and b'"text":""' not in line.replace(b" ", b""):
            last = time.perf_counter()
            first = first or last
            count += 1
    return first - start, last - first, count


class Server:
    def __init__(self, cmd, port):
        self.port = port
        self.p = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                c = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
                c.request("GET", "/health")
                if c.getresponse().status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.05)
        post(port, dict(prompt="warm up", max_tokens=8))

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        self.p.wait()

    def rss_mb(self):
        text = open(f"/proc/{self.p.pid}/status").read()
        return {k: int(next(l for l in text.splitlines() if l.startswith(k)).split()[1]) / 1024 for k in ("VmRSS", "RssAnon")}


def ids(k, n):
    return [1000 + (k * 7919 + i * 31) % 40000 for i in range(n)]


def measure(s, salt):
    out = {}
    _, seconds, n = streamed(s.port, ids(salt, 16), 128)
    out["decode tok/s"] = (n - 1) / seconds
    start = time.perf_counter()
    post(s.port, dict(prompt=ids(salt + 1, 512), max_tokens=1, temperature=0, cache_prompt=False))
    out["prefill 512 tok/s"] = 512 / (time.perf_counter() - start)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        start = time.perf_counter()
        work = [pool.submit(post, s.port, dict(prompt=ids(salt + 10 + k, 32), max_tokens=96, temperature=0, ignore_eos=True,
                                                cache_prompt=False)) for k in range(8)]
        total = sum(json.loads(w.result())["usage"]["completion_tokens"] for w in work)
        out["8 streams tok/s"] = total / (time.perf_counter() - start)
    return out


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--sluice", default="build/sluice"); ap.add_argument("--llama-server", required=True)
    ap.add_argument("--model", required=True); ap.add_argument("--threads", default="2"); ap.add_argument("--rounds", type=int, default=3)
    a = ap.parse_args()
    rows = {}
    for r in range(a.rounds):
        for name in ("llama.cpp", "sluice"):
            port = free_port()
            cmd = [a.sluice, "serve", a.model, "--port", str(port), "--device", "cpu", "--threads", a.threads] if name == "sluice" else \
                  [a.llama_server, "-m", a.model, "--port", str(port), "-t", a.threads, "-tb", a.threads, "-np", "8", "-c", "16384"]
            s = Server(cmd, port)
            for k in range(2):
                for key, v in measure(s, 100 * (2 * r + k)).items():
                    rows.setdefault(key, {}).setdefault(name, []).append(v)
            for key, v in s.rss_mb().items():
                rows.setdefault(key + " MB", {}).setdefault(name, []).append(v)
            s.stop()
    for key, v in rows.items():
        ours, theirs = statistics.median(v["sluice"]), statistics.median(v["llama.cpp"])
        print(f"{key:20s} sluice {ours:9.1f}   llama.cpp {theirs:9.1f}   ratio {ours / theirs:5.2f}")


main()
