"""One model on several ranks of the cpu device, over HTTP: faults, stalls, embeddings, refusals.

The answers themselves: check_models.py with --tensor-parallel-size, unit/test_identity.c.
"""
import json, os, subprocess, threading, time

import pytest

from harness import BIN, TINY, Server

EXIT_ENGINE = 70
RANKS = ["--device", "cpu", "--threads", "2", "--max-model-len", "2048"]


class Client(threading.Thread):
    def __init__(self, server, stream):
        super().__init__()
        self.server, self.stream, self.status, self.body = server, stream, None, None
        self.start()

    def run(self):
        body = {"model": "m", "prompt": "hello", "max_tokens": 2000, "ignore_eos": True, "stream": self.stream}
        r = self.server.post("/v1/completions", body)
        self.status, self.body = r.status, r.body.decode()

    def heard(self):
        """The error that ended it."""
        if self.status == 500:  # before its first token a stream is none yet
            return json.loads(self.body)["error"]
        events = [e for e in self.body.split("\n\n") if e]
        assert self.stream and self.status == 200 and events[-1] == "data: [DONE]", events[-3:]
        return json.loads(events[-2].removeprefix("data: "))["error"]


# SLUICE_FAULTS=20 repeats each as the issue asks
@pytest.mark.timeout(60)
@pytest.mark.parametrize("run", range(int(os.environ.get("SLUICE_FAULTS", "1"))))
@pytest.mark.parametrize("n_ranks, rank, step, skips", [
    (2, 0, 400, False), (2, 1, 400, False), (4, 2, 400, False), (2, 0, 400, True), (4, 3, 400, True),
])
def test_a_lost_rank_is_heard_of(run, n_ranks, rank, step, skips):
    """A rank fails, or leaves out a sum so that the others wait for it: within 10 s all clients know and the process has ended."""
    server = Server(*RANKS, "--tensor-parallel-size", str(n_ranks), "--fail-step", str(step), "--fail-rank", str(rank),
                    *(["--fail-skips"] if skips else []), model=TINY)
    start = time.monotonic()
    clients = [Client(server, i % 2 == 0) for i in range(6)]
    status = server.process.wait(30)
    took = time.monotonic() - start
    for c in clients:
        c.join(5)
        assert not c.is_alive()
        error = c.heard()
        assert error["type"] == "server_error" and error["code"] == "device_error", error
    log = server.log_text()
    assert status == EXIT_ENGINE and took < 10, (took, log)
    assert "does not come" in log if skips else f"rank {rank} has failed" in log, log


def test_ranks_embed_alike():
    """A vector is that of one rank, up to the order of sums."""
    vectors = []
    for n_ranks in ("1", "2", "4"):
        with Server(*RANKS, "--pooling", "mean", "--tensor-parallel-size", n_ranks, model=TINY) as server:
            data = server.ok("/v1/embeddings", {"model": "m", "input": "A short text."})["data"]
            vectors.append(data[0]["embedding"])
    for v in vectors[1:]:
        assert len(v) == len(vectors[0]) and max(abs(a - b) for a, b in zip(v, vectors[0])) < 1e-4


@pytest.mark.parametrize("device, n_ranks, says", [
    ("cpu", "3", "cannot be divided by 3 ranks; --tensor-parallel-size 2 or 4 would do"),
    ("cpu", "8", "cannot be divided by 8 ranks; --tensor-parallel-size 4 would do"),
    ("sim", "2", "the sim device runs one rank, not 2"),
])
def test_what_cannot_be_divided_is_refused(device, n_ranks, says):
    p = subprocess.run([BIN, "serve", TINY, "--device", device, "--tensor-parallel-size", n_ranks, "--port", "0"],
                       capture_output=True, text=True, timeout=20)
    assert p.returncode == 1 and says in p.stderr, p.stderr
