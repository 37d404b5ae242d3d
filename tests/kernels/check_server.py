#!/usr/bin/env python3
"""The server on the GPU, from outside: a kernel that faults, the memory it takes, and the cpu device's answers.

Python's standard library and tests/e2e/harness.py; $SLUICE_BIN and $SLUICE_TEST_MODEL as there. Ends with "N passed, N
failed". The fault is --fail-step's: an illegal instruction on the device, after which every CUDA call of the process fails.
"""
import http.client, json, os, re, subprocess, sys, threading, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from harness import MODEL, TINY, Server, run_checks  # noqa: E402

EXIT_ENGINE = 70
SOON = 5  # seconds from the first client's error to the end of the process


# -------------------------------------------------------------------- faults
class Client(threading.Thread):
    """One request and how it ended: "answer", "error", "refused" (the server was ending, or gone) or what is wrong."""

    def __init__(self, server, body):
        super().__init__()
        self.server, self.body, self.end, self.outcome = server, body, None, "hangs"
        self.start()

    def run(self):
        try:
            r = self.server.post("/v1/completions", self.body)
            self.outcome = judge(r, self.body["stream"])
        except (OSError, RuntimeError, http.client.HTTPException) as e:
            is_gone = isinstance(e, (ConnectionRefusedError, ConnectionResetError, RuntimeError))
            self.outcome = "refused" if is_gone else f"cut off: {e!r}"
        self.end = time.monotonic()


def judge(r, is_stream):
    if r.status == 503:
        return "refused"
    if is_stream and r.status == 200:
        events = [e for e in r.body.decode().split("\n\n") if e]
        errors = [e for e in events if '"error"' in e]
        if not events or events[-1] != "data: [DONE]" or len(errors) > 1:
            return f"a broken stream: {events[-3:]}"
        if not errors:
            return "answer"
        error = json.loads(errors[0].removeprefix("data: "))["error"]
    elif r.status == 200:
        return "answer"
    else:
        error = json.loads(r.body)["error"]
    return "error" if error["type"] == "server_error" and error["code"] == "device_error" else f"another error: {error}"


def fault(step, ahead, n_clients, body, *flags):
    server = Server("--device", "cuda", "--fail-step", str(step), "--async-scheduling", ahead, *flags, model=TINY)
    clients = [Client(server, {"model": "m", "stream": i % 2 == 0, **body(i)}) for i in range(n_clients)]
    status = server.process.wait(60)
    ended = time.monotonic()
    for c in clients:
        c.join(10)
    assert status == EXIT_ENGINE, (status, server.log_text()[-2000:])
    outcomes = [c.outcome for c in clients]
    assert set(outcomes) <= {"answer", "error", "refused"}, outcomes
    failed = [c for c in clients if c.outcome == "error"]
    assert failed and ended - min(c.end for c in failed) < SOON
    return failed, outcomes


def prompt(i, n):
    return [3 + (i * 131 + k * k * 7) % 300 for k in range(n)]


def first_step_faults():
    for ahead in ("on", "off"):
        for stream in (True, False):
            fault(1, ahead, 1, lambda i: {"prompt": prompt(i, 20), "max_tokens": 8, "stream": stream})


def fault_in_prefill():
    """Prompts of 1,500 tokens, 16 a step, 4 sequences at once: at step 900 all that is running is in prefill."""
    for ahead in ("on", "off"):
        failed, outcomes = fault(900, ahead, 24, lambda i: {"prompt": prompt(i, 1500), "max_tokens": 1},
                                 "--max-num-seqs", "4", "--max-num-batched-tokens", "16", "--no-enable-prefix-caching")
        assert len(failed) >= 8, outcomes
        assert {c.body["stream"] for c in failed} == {True, False}


def fault_in_decode():
    """8 decode, 16 wait."""
    for ahead in ("on", "off"):
        failed, outcomes = fault(1500, ahead, 24, lambda i: {"prompt": prompt(i, 9), "max_tokens": 1900, "ignore_eos": True},
                                 "--max-num-seqs", "8")
        assert len(failed) == 24, outcomes


# -------------------------------------------------------------------- memory
def gpu_used_mib():
    out = subprocess.run(["nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"],
                         capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return [int(x) for x in out.split(",")]


def memory_share():
    """Half of the GPU, filled by KV pages: the process takes no more than its half, and not much less."""
    before, total = gpu_used_mib()
    flags = ["--device", "cuda", "--gpu-memory-utilization", "0.5", "--max-model-len", "2048", "--max-num-seqs", "65536",
             "--max-num-batched-tokens", "65536"]
    with Server(*flags, model=TINY) as s:
        s.complete("hello", max_tokens=8)
        used = gpu_used_mib()[0] - before
        plan = re.search(r"^memory .*", s.log_text(), re.M)[0]
        print(f"{plan}\n  measured: {used} MiB of {total}, the share is {total // 2}")
        context = 700  # the driver's own, beside the share
        assert used <= total / 2 + context, used
        try:
            with Server("--device", "cuda", "--gpu-memory-utilization", "0.9", model=TINY):
                assert used < total * 0.05, "a second server took memory that is not there"
        except RuntimeError as e:
            assert "gpu-memory-utilization" in str(e), e


# -------------------------------------------------------------------- the same answers
PROMPTS = ["The capital of France is", "Once upon a time, there was a", "def fibonacci(n):", "1, 2, 3, 4,", "Water boils at"]
MARGIN = 0.35  # of log probability: the cpu device rounds activations to 8 bits, the GPU to bf16


def greedy(device):
    out = []
    with Server("--device", device, "--max-model-len", "512", "--max-num-seqs", "4", model=MODEL) as s:
        for p in PROMPTS:
            c = s.complete(p, temperature=0, max_tokens=32, logprobs=2)["choices"][0]
            out.append((c["text"], c["logprobs"]["tokens"], c["logprobs"]["top_logprobs"]))
    return out


def cpu_answers():
    """Token for token, up to one where the cpu device itself is of two minds."""
    for p, (text, tokens, tops), (text_gpu, tokens_gpu, _) in zip(PROMPTS, greedy("cpu"), greedy("cuda")):
        n = next((i for i, (a, b) in enumerate(zip(tokens, tokens_gpu)) if a != b), len(tokens))
        print(f"  {p!r}: {n} of {len(tokens)} tokens alike{', the whole text' if text == text_gpu else ''}")
        if n < len(tokens):
            best = sorted(tops[n].values())[-2:]
            assert best[1] - best[0] < MARGIN, (p, n, tokens[n], tokens_gpu[n], tops[n])
        assert n > 0


run_checks([first_step_faults, fault_in_prefill, fault_in_decode, memory_share, cpu_answers])
