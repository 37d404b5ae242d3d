"""The device fails for good in the middle of a step: every client hears of it, and the process ends with 70.

--fail-step names the step; the supervisor's part (restarting) is not ours.
"""
import http.client, json, threading, time

import openai
import pytest

from harness import CHAT, Server, chat, events_of

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


def test_86_error_in_the_stream():
    """One error event behind what had come, then [DONE]; no choice is finished."""
    server = Server("--fail-step", "6")
    data = events_of(server.post(CHAT, chat(stream=True, max_tokens=100, ignore_eos=True)).body)
    events = [json.loads(d) for d in data[:-1]]
    assert data[-1] == "[DONE]" and ["error" in e for e in events] == [False] * (len(events) - 1) + [True]
    assert len(events) > 2 and set(events[-1]) == {"error"} and set(events[-1]["error"]) >= {"message", "type", "param", "code"}
    assert all(c["finish_reason"] is None for e in events[:-1] for c in e["choices"])
    assert server.process.wait(5) == EXIT_ENGINE


def test_86_sdk_raises():
    server = Server("--fail-step", "6")
    client = openai.OpenAI(base_url=server.base_url, api_key="x", max_retries=0, timeout=30)
    kw = dict(model="m", messages=chat()["messages"], max_tokens=100, extra_body={"ignore_eos": True})
    text = ""
    with pytest.raises(openai.APIError) as e:
        for chunk in client.chat.completions.create(**kw, stream=True):
            text += chunk.choices[0].delta.content or ""
    assert text and e.value.message and e.value.code == "device_error" and e.value.type == "server_error"
    assert server.process.wait(5) == EXIT_ENGINE
