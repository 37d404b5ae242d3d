"""Starts `sluice serve` on the sim device for the black-box tests, and speaks HTTP to it in small words.

The binary is $SLUICE_BIN, or build/sluice of this tree. Ports are chosen by the system (--port 0 is read
back from the banner), so that test runs can share a machine.
"""
import http.client, json, os, re, signal, socket, subprocess, threading, time

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BIN = os.environ.get("SLUICE_BIN", os.path.join(ROOT, "build/sluice"))


class Server:
    """One running server; `log` grows with its stderr."""

    def __init__(self, *args, wait=True):
        self.log = []
        self.proc = subprocess.Popen([BIN, "serve", "--device", "sim", "--port", "0", *args],
                                     stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.ready = threading.Event()
        self.port = None
        threading.Thread(target=self._read, daemon=True).start()
        if wait and not self.ready.wait(20):
            self.kill()
            raise RuntimeError("the server did not start:\n" + "".join(self.log))

    def _read(self):
        for line in self.proc.stderr:
            self.log.append(line)
            m = re.match(r"ready .*http://[^ ]*:(\d+)", line)
            if m:
                self.port = int(m.group(1))
            if line.startswith("try "):
                self.ready.set()

    def stop(self, sig=signal.SIGTERM, timeout=10):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        try:
            return self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    # ---------------------------------------------------------------- HTTP
    def connect(self, timeout=10):
        self.alive()
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, conn=None):
        c = conn or self.connect()
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers = {"Content-Type": "application/json", **(headers or {})}
        c.request(method, path, body, headers or {})
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
        s = self.socket(timeout)
        s.sendall(data)
        if half_close:
            s.shutdown(socket.SHUT_WR)
        got = b""
        try:
            while True:
                piece = s.recv(65536)
                if not piece:
                    break
                got += piece
        except (socket.timeout, ConnectionResetError):
            pass
        s.close()
        return got

    def socket(self, timeout=10):
        self.alive()
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def alive(self):
        """Raises with the log when the server has ended."""
        if self.proc.poll() is not None:
            raise RuntimeError(f"the server ended with status {self.proc.returncode}:\n" + "".join(self.log))

    def metrics(self):
        """{name or name{labels without model_name and engine}: value}"""
        values = {}
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith("#"):
                continue
            name, labels, value = re.fullmatch(r'([\w:]+)\{engine="0",model_name="[^"]*",?(.*)\} (\S+)', line).groups()
            values[name + ("{" + labels + "}" if labels else "")] = float(value)
        return values

    def wait_metric(self, name, value, seconds):
        """Seconds until the metric has the value; fails after `seconds`."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            if self.metrics()[name] == value:
                return time.monotonic() - start
            time.sleep(0.01)
        raise AssertionError(f"{name} is {self.metrics()[name]}, not {value}, after {seconds} s")


CHAT = "/v1/chat/completions"


def chat(text="hello", **fields):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}


def http_post(path, body, *headers, host="localhost"):
    """A whole HTTP/1.1 POST as bytes."""
    body = json.dumps(body).encode() if not isinstance(body, bytes) else body
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@pytest.fixture(scope="module")
def server():
    s = Server()
    yield s
    assert s.stop() == 0, "".join(s.log)


@pytest.fixture
def start():
    """start(*flags) -> a Server of this test's own; asserts a clean exit."""
    running = []

    def go(*args, **kw):
        running.append(Server(*args, **kw))
        return running[-1]

    yield go
    for s in running:
        if s.proc.poll() is None:
            assert s.stop() == 0, "".join(s.log)
