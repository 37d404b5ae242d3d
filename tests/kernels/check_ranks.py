#!/usr/bin/env python3
"""The server on two GPUs, from outside: a rank that faults, one that leaves out a sum, refusals, the answers of one rank.

Python's standard library and tests/e2e/harness.py; $SLUICE_BIN as there. SLUICE_FAULTS: how often
each fault is repeated (20). Ends with "N passed, N failed".
"""
import json, os, subprocess, sys, threading, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from harness import BIN, TINY, Server, run_checks  # noqa: E402

EXIT_ENGINE = 70
WITHIN = 10  # seconds from the fault to the end of the process
FAULTS = int(os.environ.get("SLUICE_FAULTS", "20"))
SMALL = ["--device", "cuda", "--max-model-len", "2048", "--gpu-memory-utilization", "0.1"]  # several may run at once
RANKS = [*SMALL, "--tensor-parallel-size", "2"]


class Client(threading.Thread):
    def __init__(self, server, stream):
        super().__init__()
        self.server, self.stream, self.status, self.body, self.began = server, stream, None, None, time.monotonic()
        self.start()

    def run(self):
        body = {"model": "m", "prompt": [3, 4, 5, 6, 7], "max_tokens": 2000, "ignore_eos": True, "stream": self.stream}
        try:
            r = self.server.post("/v1/completions", body)
            self.status, self.body = r.status, r.body.decode()
        except (ConnectionRefusedError, ConnectionResetError, RuntimeError):
            self.status = 503  # it came too late

    def heard(self):
        """The error that ended it; None: it was not let in any more."""
        if self.status == 503:
            return None
        if self.status == 500:  # before its first token a stream is none yet
            return json.loads(self.body)["error"]
        events = [e for e in self.body.split("\n\n") if e]
        assert self.stream and self.status == 200 and events[-1] == "data: [DONE]", events[-3:]
        return json.loads(events[-2].removeprefix("data: "))["error"]


def lose(rank, step, *flags):
    """All clients hear, and the process ends in time; returns the seconds it took."""
    server = Server(*RANKS, "--fail-step", str(step), "--fail-rank", str(rank), *flags, model=TINY)
    clients = [Client(server, i % 2 == 0) for i in range(6)]
    status = server.process.wait(60)
    took = time.monotonic() - min(c.began for c in clients)
    for c in clients:
        c.join(5)
        assert not c.is_alive(), server.log_text()[-2000:]
    errors = [e for e in (c.heard() for c in clients) if e]
    assert errors and all(e["type"] == "server_error" and e["code"] == "device_error" for e in errors), errors
    assert status == EXIT_ENGINE, (status, server.log_text()[-2000:])
    return took


def repeat(what, *flags):
    longest = 0
    for i in range(FAULTS):
        step = (1, 2, 3, 40, 150)[i % 5]  # the first step, the one that is captured, a graph, later ones
        took = lose(i % 2, step, *(flags if i % 4 else [*flags, "--enforce-eager"]))
        assert took < WITHIN + 2, f"{what}, rank {i % 2}, step {step}: {took:.1f} s"  # 2: the steps before
        longest = max(longest, took)
    print(f"  {FAULTS} of {FAULTS}, at most {longest:.1f} s from the first request")


def a_rank_faults():
    repeat("fault")


def a_rank_leaves_out_a_sum():
    repeat("stall", "--fail-skips")


def a_rank_leaves_out_a_sum_of_nccl():
    for rank in (0, 1):
        lose(rank, 40, "--fail-skips", "--disable-custom-all-reduce")


def refusals():
    for flags, says in [(["--tensor-parallel-size", "64"], "cannot be divided"),
                        (["--tensor-parallel-size", "4"], "GPU")]:
        p = subprocess.run([BIN, "serve", TINY, "--device", "cuda", *flags, "--port", "0"],
                           capture_output=True, text=True, timeout=60, env={**os.environ, "CUDA_VISIBLE_DEVICES": "0,1"})
        assert p.returncode == 1 and says in p.stderr, p.stderr


def answers(n_ranks):
    """The tiny model's, greedy and drawn."""
    with Server(*SMALL, "--tensor-parallel-size", str(n_ranks), model=TINY) as s:
        return [s.complete([3 + i, 9, 27], temperature=0.8 * (i % 2), seed=5, max_tokens=48, logprobs=2)["choices"][0]
                for i in range(8)]


def the_same_answers():
    """Run after run the same; and those of one rank, up to a token where two are nearly as likely (sums end in other bits)."""
    one, two, again = answers(1), answers(2), answers(2)
    for i, (a, b, c) in enumerate(zip(one, two, again)):
        assert b["text"] == c["text"] and b["logprobs"] == c["logprobs"]
        a, b = a["logprobs"], b["logprobs"]
        k = next((k for k, (x, y) in enumerate(zip(a["tokens"], b["tokens"])) if x != y), len(a["tokens"]))
        print(f"  {k} of {len(a['tokens'])} tokens alike")
        if k < len(a["tokens"]) and i % 2 == 0:
            best = sorted(a["top_logprobs"][k].values())[-2:]
            assert best[1] - best[0] < 0.1, (i, k, a["top_logprobs"][k])


run_checks([refusals, the_same_answers, a_rank_faults, a_rank_leaves_out_a_sum,
            a_rank_leaves_out_a_sum_of_nccl])
