"""What a hostile or slow peer meets: the gate before the handlers, deadlines, drain, limits. On the sim device."""
import concurrent.futures, json, os, signal, socket, stat, subprocess, threading, time

import pytest

from harness import BIN, CHAT, Server, chat, error_of, events_of, http_post

SLOW = ("--sim-step-us", "20000")

# -------------------------------------------------------------------- the gate

HIDDEN = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
BAD_HEADERS = {
    "two lengths": "Content-Length: 0\r\nContent-Length: %d\r\n" % len(HIDDEN),
    "list of lengths": "Content-Length: 0, %d\r\n" % len(HIDDEN),
    "length and coding": "Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(HIDDEN),
    "coding and length": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "unknown coding": "Transfer-Encoding: xchunked\r\n",
    "two codings": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "coding list": "Transfer-Encoding: gzip, chunked\r\n",
    "signed length": "Content-Length: +5\r\n",
    "two hosts": "Host: other\r\n",
    "odd name": "X(y): 1\r\n",
    "space before colon": "Content-Length : 0\r\n",
    "control character": "X: a\x01b\r\n",
    "NUL in a value": "X: a\0b\r\n",
    "NUL in a name": "X\0: a\r\n",
    "NUL hides a length": "Content-Length: 0\x000\r\n",
    "bare LF": "X: a\nY: b\r\n",
    "folding": "X: a\r\n b\r\n",
    "folding with a tab": "X: a\r\n\tb\r\nY: c\r\n",
}


@pytest.mark.parametrize("what", BAD_HEADERS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_gate_smuggling(server, method, what):
    got = server.raw(f"{method} /v1/models HTTP/1.1\r\nHost: localhost\r\n{BAD_HEADERS[what]}\r\n{HIDDEN}".encode("latin-1"), 1)
    assert got.count(b"HTTP/1.1 ") <= 2 and b"HTTP/1.1 200" not in got, got
    assert got == b"" or b" 400 " in got.split(b"\r\n")[0]


def test_gate_bare_lf_everywhere(server):
    for raw in (b"GET /health HTTP/1.1\nHost: localhost\n\n", b"GET /health HTTP/1.1\r\nHost: localhost\n\r\n",
                b"GET /health HTTP/1.1\nHost: localhost\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\n"):
        assert b" 200 " not in server.raw(raw, 0.5), raw


def test_gate_takes_what_is_right(server):
    head = "GET /health?a=b&c HTTP/1.1\r\nHost: localhost\r\n"
    for more in ("X:\r\n", "X:a\r\n", "X:   a  \r\n", "Cookie: a=b; c=d\r\nX: y\r\n", "X: \xff\xe9\r\n", "X: a\tb\r\n",
                 "".join(f"X-{i}: {'v' * 200}\r\n" for i in range(90)), "Content-Length: 0\r\n"):
        data = (head + more + "\r\n").encode("latin-1")
        got = server.raw(data * 2 + data[:-2] + b"Connection: close\r\n\r\n", 1)
        assert got.count(b"HTTP/1.1 200 OK") == 3, (more, got)
    assert server.raw(b"GET /health HTTP/1.0\r\n\r\n", 1).startswith(b"HTTP/1.1 200 ")


def test_gate_sizes(server):
    head = "GET /health HTTP/1.1\r\nHost: localhost\r\n"
    many = "".join(f"X-{i}: 1\r\n" for i in range(120))
    got = server.raw((head + many + "\r\n").encode(), 1)
    assert got.startswith(b"HTTP/1.1 431 ") and b"request_header_fields_too_large" in got
    assert server.raw((head + "X: " + "a" * 30000 + "\r\nConnection: close\r\n\r\n").encode(), 1).startswith(b"HTTP/1.1 200")
    assert b" 200 " not in server.raw((head + "X: " + "a" * 80000 + "\r\n\r\n").encode(), 1)


@pytest.mark.parametrize("raw", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n",
                                 b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n", b"\0" * 100])
def test_gate_garbage(server, raw):
    got = server.raw(raw, 0.5, half_close=True)
    assert b" 200 " not in got
    assert server.get("/health").status == 200


def test_gate_host(server):
    get = "GET /v1/models HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n"
    for host in ("localhost", "127.0.0.1:80", "[::1]:80", "LocalHost:1", "a.localhost"):
        assert server.raw(get.format(host).encode(), 1).startswith(b"HTTP/1.1 200 "), host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil", "a b", "a/b"):
        assert server.raw(get.format(host).encode(), 1).startswith(b"HTTP/1.1 400 "), host


# -------------------------------------------------------------------- slow peers

@pytest.fixture(scope="module")
def hasty():
    with Server("--header-timeout", "1", "--body-timeout", "1", "--idle-timeout", "2", "--write-timeout", "2",
                "--stream-buffer-bytes", "16384") as s:
        yield s


def dribble(s, data, every=0.2):
    """Sends one byte at a time until the server closes; what came back, and the seconds it took."""
    start, got = time.monotonic(), b""
    s.settimeout(every)
    for byte in data:
        try:
            s.send(bytes([byte]))
            got += (piece := s.recv(65536))
            if not piece:
                break
        except socket.timeout:
            pass
        except OSError:
            break
    return got, time.monotonic() - start


def test_slow_headers(hasty):
    _, seconds = dribble(hasty.socket(), b"GET /health HTTP/1.1\r\nHost: " + b"a" * 100)
    assert 0.9 < seconds < 3.5
    s = hasty.socket()
    s.sendall(b"GET /health HTTP/1.1\r\n")
    got, seconds = dribble(s, b"Host: " + b"a" * 100)
    assert 0.9 < seconds < 3.5 and got.startswith(b"HTTP/1.1 408 ")


def test_slow_body(hasty):
    s = hasty.socket()
    s.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200\r\n\r\n".encode())
    got, seconds = dribble(s, b" " * 200)
    assert 0.9 < seconds < 3.5 and got.startswith(b"HTTP/1.1 408 ") and b"request_timeout" in got


def test_idle(hasty):
    s = hasty.socket()
    s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    s.settimeout(6)
    start = time.monotonic()
    while s.recv(4096):
        pass
    assert 1.5 < time.monotonic() - start < 4.5


def test_client_that_does_not_read(hasty):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect(("127.0.0.1", hasty.port))
    s.sendall(http_post("/v1/completions", {"prompt": "x", "max_tokens": 8000, "stream": True, "ignore_eos": True}))
    time.sleep(0.3)
    hasty.wait_metric("sluice:http_requests_in_progress", 1, 8)  # the scrape itself
    assert hasty.metrics()["vllm:num_requests_running"] == 0
    s.close()


def test_slow_reader_loses_nothing(hasty):
    s = hasty.socket()
    s.sendall(http_post("/v1/completions", {"prompt": "x", "max_tokens": 2000, "stream": True, "ignore_eos": True}))
    got = b""
    while b"data: [DONE]" not in got:
        time.sleep(0.01)
        got += s.recv(16384)
    assert got.count(b'"finish_reason":"length"') == 1
    s.close()


# -------------------------------------------------------------------- drain, sockets, limits

def test_drain_finishes_streams(start):
    s = start(*SLOW)
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        kept = s.connect()
        assert s.get("/health", conn=kept).status == 200
        running = [pool.submit(s.post, CHAT, chat(stream=True, max_tokens=40, ignore_eos=True)) for _ in range(8)]
        s.wait_metric("vllm:num_requests_running", 8, 2)
        s.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        r = s.get("/health", conn=kept)
        assert r.status == 503 and int(r.getheader("Retry-After")) >= 1 and r.getheader("Connection") == "close"
        with pytest.raises(ConnectionRefusedError):
            s.get("/health")
        for f in running:
            assert events_of(f.result().body)[-1] == "[DONE]"
    assert s.process.wait(2) == 0


def test_drain_timeout_and_second_signal(start):
    for flags, signals in ((("--shutdown-timeout", "1"), 1), ((), 2)):
        s = start(*SLOW, *flags)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            stream = pool.submit(s.post, CHAT, chat(stream=True, max_tokens=4000, ignore_eos=True))
            whole = pool.submit(s.post, CHAT, chat(max_tokens=4000, ignore_eos=True))
            s.wait_metric("vllm:num_requests_running", 2, 2)
            for _ in range(signals):
                s.process.send_signal(signal.SIGTERM)
                time.sleep(0.1)
            data = events_of(stream.result().body)
            assert json.loads(data[-2])["error"]["code"] == "server_draining" and data[-1] == "[DONE]"
            assert whole.result().status == 503
        assert s.process.wait(3) == 0


def test_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    s = Server("--uds", path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    c = socket.socket(socket.AF_UNIX)
    c.connect(path)
    c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert c.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert s.stop() == 0 and not os.path.exists(path)


def test_port_in_use(server):
    p = subprocess.run([BIN, "serve", "--device", "sim", "--port", str(server.port)], capture_output=True, text=True)
    assert p.returncode == 1 and "in use" in p.stderr


def test_connection_limit(start):
    s = start("--max-connections", "4")
    held = [s.socket() for _ in range(4)]
    time.sleep(0.1)
    r = s.get("/health")
    assert r.status == 503 and error_of(r)["code"] == "server_overloaded"
    for h in held:
        h.close()
    time.sleep(0.1)
    assert s.get("/health").status == 200


def test_request_and_queue_timeouts(start):
    s = start(*SLOW, "--max-num-seqs", "1", "--queue-timeout", "1", "--request-timeout", "4")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        runs = pool.submit(s.post, CHAT, chat(max_tokens=4000, ignore_eos=True))
        s.wait_metric("vllm:num_requests_running", 1, 1)
        waits = pool.submit(s.post, CHAT, chat(max_tokens=4000, ignore_eos=True))
        streams = pool.submit(s.post, CHAT, chat(max_tokens=4000, stream=True, ignore_eos=True))
        r = waits.result()
        assert r.status == 503 and r.getheader("Retry-After")
        assert json.loads(events_of(streams.result().body)[-2])["error"]["code"] == "server_overloaded"
        assert runs.result().status == 504


def test_all_choices_or_none(start):
    s = start(*SLOW, "--max-num-seqs", "2", "--max-queue-size", "3")
    assert s.post(CHAT, chat(n=16, max_tokens=2)).status == 429
    time.sleep(0.1)
    m = s.metrics()
    assert m["vllm:num_requests_running"] == m["vllm:num_requests_waiting"] == 0
    assert len(json.loads(s.post(CHAT, chat(n=2, max_tokens=2)).body)["choices"]) == 2


def test_large_bodies_do_not_stop_the_loop(server):
    big = json.dumps({"prompt": [1] * 2_000_000, "max_tokens": 1}).encode()
    done = threading.Event()
    worst = 0.0

    def post():
        assert server.post("/v1/completions", big).status == 400
        done.set()

    t = threading.Thread(target=post)
    t.start()
    while not done.is_set():
        start = time.monotonic()
        server.get("/health")
        worst = max(worst, time.monotonic() - start)
    t.join()
    assert worst < 0.5, worst


def test_pipelined_requests(server):
    got = server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2 + http_post(CHAT, chat(max_tokens=1)), 1)
    assert got.count(b"HTTP/1.1 200 OK") == 3


def test_http10(server):
    body = json.dumps(chat(stream=True)).encode()
    got = server.raw(f"POST {CHAT} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    head, _, rest = got.partition(b"\r\n\r\n")
    assert b"200" in head.split(b"\r\n")[0] and b"chunked" not in head.lower()
    assert events_of(rest)[-1] == "[DONE]"
