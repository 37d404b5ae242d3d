"""Start a sluice server and talk to it without a client library: what every black-box test here uses."""
import contextlib, http.client, json, os, re, signal, socket, subprocess, tempfile, time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BIN = os.environ.get("SLUICE_BIN", os.path.join(ROOT, "build/sluice"))
MODEL = os.environ.get("SLUICE_MODEL", os.path.expanduser("~/.cache/sluice/SmolLM2-135M-Instruct.Q4_1.gguf"))
TINY = os.path.join(ROOT, "tests/data/models/llama")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server process; as a context manager it is stopped by SIGTERM and must exit with 0."""

    def __init__(self, *flags, model=None, binary=BIN, name="m", env=None, wait=True):
        self.port = free_port()
        self.name = name
        self.log = tempfile.NamedTemporaryFile("w+", prefix="sluice-e2e-", suffix=".log")
        where = [model] if model else ["--device", "sim"]
        cmd = [binary, "serve", *where, "--port", str(self.port), "--served-model-name", name, *flags]
        self.process = subprocess.Popen(cmd, stdout=self.log, stderr=self.log, env={**os.environ, **(env or {})})
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds=60):
        end = time.time() + seconds
        while time.time() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"server ended with {self.process.returncode}: {self.log_text()}")
            with contextlib.suppress(OSError):
                if self.get("/health").status == 200:
                    return
            time.sleep(0.02)
        raise RuntimeError("no /health 200: " + self.log_text())

    def log_text(self):
        with open(self.log.name) as f:
            return f.read()

    def stop(self, seconds=20):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise RuntimeError("did not stop on SIGTERM: " + self.log_text())
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        code = self.stop()
        assert code == 0 or exc[0], f"exit status {code}: {self.log_text()[-2000:]}"

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def request(self, method, path, body=None, headers=None, timeout=60):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
        h = {"Content-Type": "application/json"} if data is not None else {}
        h.update(headers or {})
        c.request(method, path, data.encode() if isinstance(data, str) else data, h)
        r = c.getresponse()
        r.body = r.read()
        c.close()
        return r

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path, body, **kw):
        return self.request("POST", path, body, **kw)

    def ok(self, path, body):
        r = self.post(path, body)
        assert r.status == 200, (r.status, r.body[:500])
        return json.loads(r.body)

    def error(self, path, body, status=400):
        """The error object; all four keys are checked."""
        r = self.post(path, body)
        assert r.status == status, (r.status, r.body[:500], body)
        e = json.loads(r.body)["error"]
        assert set(e) >= {"message", "type", "param", "code"} and e["message"], e
        return e

    def chat(self, content="Say hello.", **fields):
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return self.ok("/v1/chat/completions", {"model": self.name, "messages": messages, **fields})

    def complete(self, prompt="Once upon a time", **fields):
        return self.ok("/v1/completions", {"model": self.name, "prompt": prompt, **fields})

    def stream(self, path, body):
        """The parsed events of a stream; checks the framing: one data line each, [DONE] last."""
        r = self.post(path, {"model": self.name, **body, "stream": True})
        assert r.status == 200, (r.status, r.body[:500])
        assert r.getheader("Content-Type").startswith("text/event-stream")
        text = r.body.decode("utf-8")
        events = [e for e in text.split("\n\n") if e]
        data = [l for e in events for l in e.split("\n") if not l.startswith(":")]
        assert all(l.startswith("data: ") for l in data), data
        assert data[-1] == "data: [DONE]" and text.endswith("data: [DONE]\n\n")
        return [json.loads(l[6:]) for l in data[:-1]]

    def stream_chat(self, content="Say hello.", **fields):
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return self.stream("/v1/chat/completions", {"messages": messages, **fields})

    def metric(self, name):
        text = self.get("/metrics").body.decode()
        values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? ([-+.\deE]+)$", text, re.M)
        assert values, f"no metric {name}"
        return sum(map(float, values))


def text_of(events, index=0):
    return "".join(c["delta"].get("content") or "" for e in events for c in e["choices"] if c["index"] == index)
