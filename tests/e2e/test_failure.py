"""The device fails for good in the middle of a step: every client hears of it, and the process ends with 70.

--fail-step names the step; the supervisor's part (restarting) is not ours.
"""
import http.client, json, threading, time

import pytest

from harness import Server

EXIT_ENGINE = 70
BODY = {"model": "m", "prompt": "hello", "max_tokens": 4000, "ignore_eos": True}


class Client(threading.Thread):
    """One request; `status`, `body` and the time of its last byte."""

    def __init__(self, server, stream):
        super().__init__()
        self.server, self.stream = server, stream
        self.status = self.body = self.end = None
        self.start()

    def run(self):
        r = self.server.post("/v1/completions", {**BODY, "stream": self.stream})
        self.status, self.body, self.end = r.status, r.body, time.monotonic()


def check_error(text):
    error = json.loads(text)["error"]
    assert error["type"] == "server_error" and error["code"] == "device_error", error


@pytest.mark.parametrize("ahead", ["on", "off"])
def test_every_client_hears_of_a_lost_device(ahead):
    """Running and waiting, streaming or not; 2 s from the failure to the exit."""
    server = Server("--sim-step-us", "1000", "--fail-step", "1500", "--max-num-seqs", "8",
                    "--async-scheduling", ahead)
    clients = [Client(server, stream=i % 2 == 0) for i in range(24)]
    status = server.process.wait(30)
    ended = time.monotonic()
    for c in clients:
        c.join(5)
        assert not c.is_alive()
    assert status == EXIT_ENGINE, server.log_text()
    for c in clients:
        if c.stream:
            events = [e for e in c.body.decode().split("\n\n") if e]
            assert c.status == 200 and events[-1] == "data: [DONE]", events[-3:]
            check_error(events[-2].removeprefix("data: "))
            assert sum('"error"' in e for e in events) == 1
        else:
            assert c.status == 500
            check_error(c.body)
    assert ended - min(c.end for c in clients) < 2


def test_the_first_step_fails():
    """Whoever comes next finds a server that says so, or none."""
    server = Server("--fail-step", "1")
    check_error(server.post("/v1/completions", BODY).body)
    try:
        r = server.post("/v1/completions", BODY)
        assert r.status in (500, 503)
    except (OSError, RuntimeError, http.client.HTTPException):
        pass
    assert server.process.wait(5) == EXIT_ENGINE
