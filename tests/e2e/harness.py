"""Starts `sluice serve` and speaks HTTP to it in small words: what every black-box test here uses.

The binary is $SLUICE_BIN or build/sluice, the real model $SLUICE_TEST_MODEL or the one that scripts/quickstart keeps.
Without a model the server runs on the sim device: tokens are hashes, time is --sim-step-us a step.
"""
import contextlib, http.client, json, os, random, re, signal, socket, subprocess, sys, tempfile, time, traceback

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BIN = os.environ.get("SLUICE_BIN", os.path.join(ROOT, "build/sluice"))
CACHE = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
MODEL = os.environ.get("SLUICE_TEST_MODEL", os.path.join(CACHE, "sluice/SmolLM2-135M-Instruct.Q4_1.gguf"))
TINY = os.path.join(ROOT, "tests/data/models/llama")
CHAT = "/v1/chat/completions"


def free_port():
    """Below the ports that the system gives to outgoing connections, which would race for it."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def chat(text="hello", **fields):
    """The body of a small chat request."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}


# An answer as a model writes it that thinks, speaks and calls, and the flags that read it so.
THINK_SAY_CALL = ('<think>\nhm\n</think>\n\nI look.'
                  '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
                  '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>')
REPLAY_FLAGS = ("--sim-replay", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3")


def replay(text):
    """A message that --sim-replay answers with the text."""
    return f"say \x02{text}\x03"


def http_post(path, body, *headers, host="localhost"):
    """A whole HTTP/1.1 POST as bytes."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Server:
    """A server process; as a context manager it is stopped by SIGTERM and must exit with 0."""

    def __init__(self, *flags, model=None, name="m", binary=BIN, env=None, wait=True):
        self.port = free_port()
        self.name = name
        self.log = tempfile.NamedTemporaryFile("w+", prefix="sluice-e2e-", suffix=".log")
        where = [model] if model else ["--device", "sim"]
        names = [] if "--served-model-name" in flags else ["--served-model-name", name]
        cmd = [binary, "serve", *where, "--port", str(self.port), *names, *flags]
        self.process = subprocess.Popen(cmd, stdout=self.log, stderr=self.log, env={**os.environ, **(env or {})})
        if wait:
            self.wait_ready()

    # ---------------------------------------------------------------- the process
    def wait_ready(self, seconds=60):
        """Until the banner's last line, which comes when the model is loaded."""
        end = time.monotonic() + seconds
        while not self.try_line():
            self.check_alive()
            if time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(f"not ready after {seconds} s:\n{self.log_text()}")
            time.sleep(0.01)

    def try_line(self):
        """The command that the banner offers, or ""."""
        m = re.search(r"^try +(.*)\n", self.log_text(), re.M)
        return m[1] if m else ""

    def check_alive(self):
        """Raises with the log when the server has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended with status {self.process.returncode}:\n{self.log_text()}")

    def log_text(self):
        with open(self.log.name) as f:
            return f.read()

    def stop(self, sig=signal.SIGTERM, timeout=20):
        """Sends the signal if the server still runs; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"did not stop within {timeout} s:\n{self.log_text()}") from None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        code = self.stop()
        assert code == 0 or exc[0], f"exit status {code}: {self.log_text()[-2000:]}"

    # ---------------------------------------------------------------- HTTP
    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def connect(self, timeout=60):
        self.check_alive()
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def socket(self, timeout=10):
        self.check_alive()
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def request(self, method, path, body=None, headers=None, conn=None):
        """The response with its body read; a list or dict goes as JSON, text and bytes as they are."""
        c = conn or self.connect()
        h = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            h.setdefault("Content-Type", "application/json")
        c.request(method, path, body.encode() if isinstance(body, str) else body, h)
        r = c.getresponse()
        r.body = r.read()
        if conn is None:
            c.close()
        return r

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path, body, **kw):
        return self.request("POST", path, body, **kw)

    def raw(self, data, timeout=3, half_close=False):
        """All bytes that come back until the server closes or is silent for `timeout`."""
        got = b""
        with self.socket(timeout) as s:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            with contextlib.suppress(socket.timeout, ConnectionResetError):
                while piece := s.recv(65536):
                    got += piece
        return got

    # ---------------------------------------------------------------- the API
    def ok(self, path, body):
        r = self.post(path, body)
        assert r.status == 200, (r.status, r.body[:500])
        return json.loads(r.body)

    def error(self, path, body, status=400):
        """The error object; all four keys are checked."""
        r = self.post(path, body)
        assert r.status == status, (r.status, r.body[:500], body)
        return error_of(r)

    def chat(self, content="Say hello.", **fields):
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return self.ok(CHAT, {"model": self.name, "messages": messages, **fields})

    def complete(self, prompt="Once upon a time", **fields):
        return self.ok("/v1/completions", {"model": self.name, "prompt": prompt, **fields})

    def stream(self, path, body):
        """The parsed events of a stream; checks the framing: one data line each, [DONE] last."""
        r = self.post(path, {"model": self.name, **body, "stream": True})
        assert r.status == 200, (r.status, r.body[:500])
        assert r.getheader("Content-Type").startswith("text/event-stream")
        data = events_of(r.body)
        assert data[-1] == "[DONE]"
        return [json.loads(d) for d in data[:-1]]

    def stream_chat(self, content="Say hello.", **fields):
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return self.stream(CHAT, {"messages": messages, **fields})

    # ---------------------------------------------------------------- metrics
    def metrics(self):
        """{name or name{labels without model_name and engine}: value}"""
        values = {}
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith("#"):
                continue
            name, labels, value = re.fullmatch(r'([\w:]+)\{engine="0",model_name="[^"]*",?(.*)\} (\S+)', line).groups()
            values[name + ("{" + labels + "}" if labels else "")] = float(value)
        return values

    def metric(self, name):
        """The sum over a metric's labels."""
        values = [v for k, v in self.metrics().items() if k.split("{")[0] == name]
        assert values, f"no metric {name}"
        return sum(values)

    def wait_metric(self, name, value, seconds):
        """Seconds until the metric has the value; fails after `seconds`."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            if self.metrics()[name] == value:
                return time.monotonic() - start
            time.sleep(0.01)
        raise AssertionError(f"{name} is {self.metrics()[name]}, not {value}, after {seconds} s")


def error_of(response):
    """The error object of a response; all four keys are checked."""
    e = json.loads(response.body)["error"]
    assert {"message", "type", "param", "code"} <= set(e) and e["message"] and isinstance(e["type"], str), e
    return e


def events_of(body):
    """The data payloads of a whole SSE body, each event being one line and a blank one."""
    blocks = body.decode("utf-8").split("\n\n")
    assert blocks[-1] == ""
    out = []
    for block in blocks[:-1]:
        lines = [l for l in block.split("\n") if l != ": keep-alive"]
        assert len(lines) == 1 and lines[0].startswith("data: "), block
        out.append(lines[0][6:])
    return out


def text_of(events, index=0):
    return "".join(c["delta"].get("content") or "" for e in events for c in e["choices"] if c["index"] == index)


def run_checks(checks):
    """Each in turn, the next one too where one fails; prints "N passed, N failed" and exits with 1 if any did."""
    failed = 0
    for check in checks:
        start = time.monotonic()
        try:
            check()
            print(f"{check.__name__}: ok, {time.monotonic() - start:.1f} s", flush=True)
        except Exception:  # noqa: BLE001: report, and go on with the next
            failed += 1
            traceback.print_exc()
            print(f"FAILED: {check.__name__}", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    sys.exit(failed > 0)
