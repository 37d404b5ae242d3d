"""Transport: the numbered tests 1 to 23, 131 and 132, and what else the HTTP front end promises.

Runs against the sim device: tokens are hashes, time is --sim-step-us a step.
"""
import concurrent.futures, http.client, json, os, signal, socket, stat, struct, threading, time

import pytest
from conftest import BIN, CHAT, Server, chat, http_post

ERROR_KEYS = {"message", "type", "param", "code"}


def error_of(r):
    e = json.loads(r.body)["error"]
    assert ERROR_KEYS <= set(e) and e["message"] and isinstance(e["type"], str)
    return e


def events(body):
    """The data payloads of a whole SSE body, each event being one line and a blank one."""
    text = body.decode()
    blocks = text.split("\n\n")
    assert blocks[-1] == ""
    out = []
    for b in blocks[:-1]:
        lines = [l for l in b.split("\n") if l != ": keep-alive"]
        assert len(lines) == 1 and lines[0].startswith("data: "), b
        out.append(lines[0][6:])
    return out


# -------------------------------------------------------------------- 1 to 23

def test_01_request_ids(server):
    ids = [server.get("/v1/models").getheader("x-request-id"),
           server.post(CHAT, b"{").getheader("x-request-id"),
           server.get("/nope").getheader("x-request-id"),
           server.post(CHAT, chat()).getheader("x-request-id"),
           server.request("OPTIONS", CHAT).getheader("x-request-id")]
    assert all(i and i.startswith("req_") and len(i) == 36 for i in ids) and len(set(ids)) == len(ids)


def test_02_json_answers(server):
    for r in (server.get("/v1/models"), server.post(CHAT, chat()), server.get("/nope")):
        assert r.getheader("Content-Type") == "application/json"
        json.loads(r.body.decode("utf-8"))
        assert int(r.getheader("Content-Length")) == len(r.body)


def test_03_keep_alive(server):
    c = server.connect()
    c.connect()
    port = c.sock.getsockname()[1]
    for _ in range(3):
        assert server.post(CHAT, chat(), conn=c).status == 200
        assert server.get("/v1/models", conn=c).status == 200
        assert server.get("/nope", conn=c).status == 404
        assert server.post(CHAT, chat(temperature=9), conn=c).status == 400
        assert server.request("OPTIONS", CHAT, conn=c).status == 204
    assert c.sock.getsockname()[1] == port
    c.close()


def test_04_chunked_body(server):
    c = server.connect()
    body = json.dumps(chat()).encode()
    c.request("POST", CHAT, iter([body[:5], body[5:]]), {"Content-Type": "application/json"}, encode_chunked=True)
    r = c.getresponse()
    assert r.status == 200 and json.loads(r.read())["object"] == "chat.completion"


def test_05_expect_continue(server):
    body = json.dumps(chat("x" * 2_000_000)).encode()
    s = server.socket()
    start = time.monotonic()
    s.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
              f"Content-Length: {len(body)}\r\n\r\n".encode())
    assert s.recv(4096).startswith(b"HTTP/1.1 100 ")
    assert time.monotonic() - start < 0.2
    s.sendall(body)
    got = s.recv(65536)
    assert got.startswith(b"HTTP/1.1 400 ") and b"context_length_exceeded" in got
    s.close()


def test_05b_expect_refused_before_the_body(start):
    s = start("--max-body-bytes", "10000")
    got = s.raw(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                "Content-Length: 20000\r\n\r\n".encode())
    assert got.startswith(b"HTTP/1.1 413 ") and b"request_too_large" in got


def test_06_preflight(start):
    s = start("--api-key", "k")
    r = s.request("OPTIONS", CHAT, headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST",
                  "Access-Control-Request-Headers": "authorization,x-stainless-lang",
                  "Access-Control-Request-Private-Network": "true"})
    assert r.status == 204 and r.getheader("Access-Control-Allow-Origin") == "*"
    assert r.getheader("Access-Control-Allow-Headers") == "authorization,x-stainless-lang"
    assert "POST" in r.getheader("Access-Control-Allow-Methods")
    assert r.getheader("Access-Control-Max-Age") == "86400"
    assert r.getheader("Access-Control-Allow-Private-Network") == "true"


def test_06b_origins_without_keys(server):
    def allowed(origin):
        return server.get("/v1/models", headers={"Origin": origin}).getheader("Access-Control-Allow-Origin")
    for origin in ("http://localhost:3000", "tauri://localhost", "http://127.0.0.1:5173", "http://[::1]:1"):
        assert allowed(origin) == origin
    assert allowed("https://evil.example") is None
    assert allowed("https://localhost.evil.example") is None
    r = server.request("OPTIONS", CHAT, headers={"Origin": "https://evil.example"})
    assert r.status == 204 and r.getheader("Access-Control-Allow-Origin") is None


def test_06c_allowed_origins(start):
    s = start("--allowed-origins", "https://a.example", "--allowed-origins", "https://b.example")
    r = s.get("/v1/models", headers={"Origin": "https://b.example"})
    assert r.getheader("Access-Control-Allow-Origin") == "https://b.example" and r.getheader("Vary") == "Origin"
    assert s.get("/v1/models", headers={"Origin": "http://localhost"}).getheader("Access-Control-Allow-Origin") is None


def test_07_errors_carry_cors(server):
    h = {"Origin": "http://localhost:3000"}
    for r in (server.post(CHAT, b"{", headers=h), server.get("/nope", headers=h), server.get(CHAT, headers=h)):
        assert r.getheader("Access-Control-Allow-Origin") == h["Origin"]
        assert "x-request-id" in r.getheader("Access-Control-Expose-Headers")


def test_08_body_too_large(start):
    s = start("--max-body-bytes", "100000")
    r = s.post(CHAT, chat("x" * 100_000))
    assert r.status == 413 and error_of(r)["code"] == "request_too_large" and r.getheader("Connection") == "close"
    c = s.connect()  # the same without a length
    c.request("POST", CHAT, iter([b"x" * 50_000] * 4), encode_chunked=True)
    assert c.getresponse().status == 413
    assert s.post(CHAT, chat()).status == 200


def test_08b_default_limit(server):
    r = server.post(CHAT, b" " * (64 * 1024 * 1024 + 1), headers={"Content-Type": "application/json"})
    assert r.status == 413 and error_of(r)["code"] == "request_too_large"
    assert server.post(CHAT, chat()).status == 200


def test_09_unknown_path_and_method(server):
    r = server.get("/v1/nope")
    assert r.status == 404 and error_of(r)["code"] is None
    r = server.get(CHAT)
    assert r.status == 405 and "POST" in r.getheader("Allow") and error_of(r)["code"] == "method_not_supported"
    r = server.post("/v1/models", {})
    assert r.status == 405 and "GET" in r.getheader("Allow")


def test_09b_paths_are_normalised(server):
    for path in ("//v1//models/", "/models", "/v1/models?x=1", "/v1/models/sim", "/v1/models/sim/", "/models/sim",
                 "/v1/models/%73im", "/health/", "/v1/health", "/livez", "/readyz", "/version"):
        assert server.get(path).status == 200, path
    for path in ("/v1/models/other%2Fname", "/v1/models/a/b", "/v1/models/%00", "/v1/models/%2", "/v1", "/", "/v1/healthx"):
        r = server.get(path)
        assert r.status == 404, path
        error_of(r)


def test_09c_head(server):
    r = server.request("HEAD", "/v1/models")
    assert r.status == 200 and r.body == b"" and int(r.getheader("Content-Length")) > 0


def test_09d_model_names_with_slashes(start):
    s = start("--served-model-name", "org/name")
    for path in ("/v1/models/org/name", "/v1/models/org%2Fname", "/v1/models/org%2fname/"):
        r = s.get(path)
        assert r.status == 200 and json.loads(r.body)["id"] == "org/name", path


def test_10_accept_does_not_decide(server):
    r = server.post(CHAT, chat(stream=True), headers={"Accept": "application/json"})
    assert r.getheader("Content-Type").startswith("text/event-stream")


def test_11_no_content_type(server):
    got = server.raw(http_post(CHAT, chat(), "Connection: close"))
    assert got.startswith(b"HTTP/1.1 200 ")
    for kind in ("multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        r = server.post(CHAT, b"{}", headers={"Content-Type": kind})
        assert r.status == 415 and error_of(r)["code"] == "unsupported_media_type"
    assert server.post(CHAT, b"{}", headers={"Content-Encoding": "gzip"}).status == 415


def test_12_malformed_json(server):
    for body in (b"", b"{", b"[]", b"nul", b'{"messages":[]}x', b"\xef\xbb\xbf{}"):
        r = server.post(CHAT, body, headers={"Content-Type": "application/json"})
        assert r.status == 400 and error_of(r)["type"] == "invalid_request_error", body


def test_13_invalid_utf8(server):
    r = server.post(CHAT, b'{"messages":[{"role":"user","content":"\xff\xfe"}]}')
    assert r.status == 400


def test_14_keys(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# two\nfile-key\nother-key\n")
    s = start("--api-key", "secret", "--api-key-file", str(keys))
    r = s.get("/v1/models")
    assert r.status == 401 and error_of(r)["code"] is None and r.getheader("WWW-Authenticate") == "Bearer"
    r = s.post(CHAT, chat(), headers={"Authorization": "Bearer wrong"})
    assert r.status == 401 and error_of(r)["code"] == "invalid_api_key"
    for h in ({"Authorization": "Bearer secret"}, {"authorization": "bearer file-key"}, {"x-api-key": "other-key"},
              {"api-key": "secret"}):
        assert s.post(CHAT, chat(), headers=h).status == 200, h
    for path in ("/health", "/livez", "/readyz", "/version", "/metrics"):
        assert s.get(path).status == 200
    for path in ("/tokenize", "/detokenize", "/apply-template", "/v1/completions", "/completions"):
        assert s.post(path, {}).status == 401, path
    assert s.get("/models/sim").status == 401


def test_14b_key_for_metrics(start):
    s = start("--api-key", "secret", "--api-key-metrics")
    assert s.get("/metrics").status == 401
    assert s.get("/metrics", headers={"x-api-key": "secret"}).status == 200


def test_15_no_keys_any_value(server):
    assert server.post(CHAT, chat(), headers={"Authorization": "Bearer anything"}).status == 200


def test_16_sse_headers(server):
    r = server.post(CHAT, chat(stream=True), headers={"Accept-Encoding": "gzip"})
    assert r.getheader("Content-Type").startswith("text/event-stream")
    assert r.getheader("Content-Encoding") is None and r.getheader("Cache-Control") == "no-cache"
    assert r.getheader("X-Accel-Buffering") == "no"
    for line in r.body.decode().splitlines():
        assert not line.startswith(("id:", "event:"))


def test_17_sse_events(server):
    c = server.connect()
    for _ in range(2):  # the connection is reused
        r = server.post(CHAT, chat(stream=True, max_tokens=50), conn=c)
        data = events(r.body)
        assert data[-1] == "[DONE]" and "[DONE]" not in data[:-1]
        assert all(json.loads(d)["object"] == "chat.completion.chunk" for d in data[:-1])


def test_18_keep_alive_comments(start):
    s = start("--sim-step-us", "2500000", "--sse-ping-interval", "1")
    r = s.post(CHAT, chat(stream=True, max_tokens=2))
    assert r.body.count(b": keep-alive\n") >= 2
    assert events(r.body)[-1] == "[DONE]"
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key="x", max_retries=0)
    chunks = list(client.chat.completions.create(model="sim", messages=chat()["messages"], stream=True, max_tokens=1))
    assert chunks[-1].choices[0].finish_reason == "length"


SLOW = ("--sim-step-us", "20000")


def leave(s, how):
    if how == "rst":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        s.shutdown(socket.SHUT_WR)
    else:
        s.close()


@pytest.fixture(scope="module")
def slow():
    s = Server(*SLOW, "--max-num-seqs", "1")
    yield s
    assert s.stop() == 0, "".join(s.log)


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
def test_19_leaving_a_stream(slow, how):
    s = slow.socket()
    s.sendall(http_post(CHAT, chat(stream=True, max_tokens=4000, ignore_eos=True)))
    got = b""
    while got.count(b"data: ") < 3:
        got += s.recv(65536)
    assert slow.metrics()["vllm:num_requests_running"] == 1
    before = slow.metrics()['sluice:requests_aborted_total{phase="decode"}']
    leave(s, how)
    assert slow.wait_metric("vllm:num_requests_running", 0, 1) < 0.2
    slow.wait_metric("vllm:kv_cache_usage_perc", 0, 0.2)
    assert slow.metrics()['sluice:requests_aborted_total{phase="decode"}'] == before + 1


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
def test_20_leaving_without_stream(slow, how):
    s = slow.socket()
    s.sendall(http_post(CHAT, chat(max_tokens=4000, ignore_eos=True)))
    slow.wait_metric("vllm:num_requests_running", 1, 1)
    leave(s, how)
    assert slow.wait_metric("vllm:num_requests_running", 0, 1) < 0.2
    slow.wait_metric("vllm:kv_cache_usage_perc", 0, 0.2)


@pytest.mark.parametrize("stream", [True, False])
def test_20b_leaving_the_queue(slow, stream):
    runs, waits = slow.socket(), slow.socket()
    runs.sendall(http_post(CHAT, chat(stream=True, max_tokens=4000, ignore_eos=True)))
    slow.wait_metric("vllm:num_requests_running", 1, 1)
    waits.sendall(http_post(CHAT, chat(stream=stream, max_tokens=4000, ignore_eos=True)))
    slow.wait_metric("vllm:num_requests_waiting", 1, 1)
    before = slow.metrics()['sluice:requests_aborted_total{phase="queue"}']
    waits.close()
    assert slow.wait_metric("vllm:num_requests_waiting", 0, 1) < 0.2
    assert slow.metrics()['sluice:requests_aborted_total{phase="queue"}'] == before + 1
    assert slow.metrics()["vllm:num_requests_running"] == 1
    runs.close()
    slow.wait_metric("vllm:num_requests_running", 0, 1)


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
def test_20c_leaving_a_half_sent_request(server, how):
    data = http_post(CHAT, chat("x" * 3000))
    for n in (30, 100, len(data) - 10):
        clients = [server.socket() for _ in range(10)]
        for c in clients:
            c.sendall(data[:n])
        for c in clients:
            leave(c, how)
        server.wait_metric("sluice:http_connections", 1, 1)  # the scrape's own
    server.wait_metric("sluice:http_requests_in_progress", 1, 1)


def test_21_queue_full(start):
    s = start(*SLOW, "--max-num-seqs", "1", "--max-queue-size", "2")
    held = [s.socket() for _ in range(3)]
    held[0].sendall(http_post(CHAT, chat(stream=True, max_tokens=4000, ignore_eos=True)))
    s.wait_metric("vllm:num_requests_running", 1, 1)
    for h in held[1:]:
        h.sendall(http_post(CHAT, chat(stream=True, max_tokens=4000, ignore_eos=True)))
    s.wait_metric("vllm:num_requests_waiting", 2, 1)
    for body in (chat(), chat(stream=True), chat(n=4)):
        r = s.post(CHAT, body)
        assert r.status in (429, 503) and 1 <= int(r.getheader("Retry-After")) <= 60
        error_of(r)
    m = s.metrics()
    assert m["vllm:num_requests_waiting"] == 2 and m["vllm:num_requests_running"] == 1
    for h in held:
        h.close()


def test_22_sdk_errors(server):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="x", max_retries=0)
    with pytest.raises(openai.NotFoundError) as e:
        client.chat.completions.create(model="none", messages=chat()["messages"])
    assert e.value.status_code == 404 and e.value.code == "model_not_found" and e.value.param == "model"
    assert e.value.type == "invalid_request_error" and e.value.request_id.startswith("req_")


def test_23_fifty_streams(start):
    s = start("--sim-step-us", "1000")

    def one(i):
        r = s.post(CHAT, chat(f"number {i}", stream=True, max_tokens=40))
        data = events(r.body)
        ids = {json.loads(d)["id"] for d in data[:-1]}
        assert data[-1] == "[DONE]" and len(ids) == 1
        return ids.pop()

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        assert len(set(pool.map(one, range(50)))) == 50


# -------------------------------------------------------------------- 131, 132

def test_131_metrics(start):
    s = start()
    usage = [json.loads(s.post(CHAT, chat("x" * n, max_tokens=5)).body)["usage"] for n in (3, 30, 300)]
    m = s.metrics()
    assert m["vllm:prompt_tokens_total"] == sum(u["prompt_tokens"] for u in usage)
    assert m["vllm:generation_tokens_total"] == sum(u["completion_tokens"] for u in usage)
    assert sum(v for k, v in m.items() if k.startswith("vllm:request_success_total")) == 3
    assert m["vllm:time_to_first_token_seconds_count"] == m["vllm:e2e_request_latency_seconds_count"] == 3
    assert m['sluice:http_requests_total{route="/chat/completions",status="200"}'] == 3
    text = s.get("/metrics").body.decode()
    types = dict(l.split()[2:4] for l in text.splitlines() if l.startswith("# TYPE"))
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert types["vllm:" + name] == "gauge"
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(text))
    assert len(families) > 20
    for f in (f for f in families if f.type == "histogram"):
        counts = [x.value for x in f.samples if x.name.endswith("_bucket")]
        assert counts == sorted(counts)


@pytest.fixture
def big_model(tmp_path):
    """A folder whose random weights take a second or two to make: "loading" as a state one can look at."""
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=1024, intermediate_size=2048,
                  num_hidden_layers=6, num_attention_heads=16, num_key_value_heads=16, vocab_size=8000,
                  max_position_embeddings=2048, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu",
                  torch_dtype="bfloat16", tie_word_embeddings=False, bos_token_id=0, eos_token_id=1)
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer = dict(version="1.0", added_tokens=[], normalizer=None, pre_tokenizer=level, post_processor=None,
                     decoder=level, model=dict(type="BPE", vocab={"a": 0, "b": 1}, merges=[]))
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(tmp_path)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def loading_server(model):
    port = free_port()
    s = Server("--model", model, "--device", "cpu", "--load-format", "dummy", "--threads", "1", "--port", str(port),
               wait=False)
    s.port = port
    for _ in range(200):
        try:
            return s, s.get("/health")
        except ConnectionRefusedError:
            time.sleep(0.01)


def test_132_health_while_loading(big_model):
    s, r = loading_server(big_model)
    assert r.status == 503 and error_of(r)["code"] == "model_loading" and 1 <= int(r.getheader("Retry-After")) <= 60
    for r in (s.post(CHAT, chat()), s.get("/v1/models"), s.get("/readyz")):
        assert r.status == 503 and error_of(r)["code"] == "model_loading"
    for path in ("/livez", "/version", "/metrics"):
        assert s.get(path).status == 200
    assert s.ready.wait(60)
    assert s.get("/health").status == 200
    assert s.post("/v1/completions", {"prompt": "ab", "max_tokens": 2}).status == 200
    assert s.stop() == 0


def test_132b_signal_while_loading(big_model):
    s, r = loading_server(big_model)
    assert r.status == 503
    assert s.stop(timeout=1) == 0


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
                 "".join(f"X-{i}: {'v' * 300}\r\n" for i in range(90)), "Content-Length: 0\r\n"):
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
    s = Server("--header-timeout", "1", "--body-timeout", "1", "--idle-timeout", "2", "--write-timeout", "2",
               "--stream-buffer-bytes", "16384")
    yield s
    assert s.stop() == 0, "".join(s.log)


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
        s.proc.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        r = s.get("/health", conn=kept)
        assert r.status == 503 and int(r.getheader("Retry-After")) >= 1 and r.getheader("Connection") == "close"
        with pytest.raises(ConnectionRefusedError):
            s.get("/health")
        for f in running:
            assert events(f.result().body)[-1] == "[DONE]"
    assert s.proc.wait(2) == 0


def test_drain_timeout_and_second_signal(start):
    for flags, signals in ((("--shutdown-timeout", "1"), 1), ((), 2)):
        s = start(*SLOW, *flags)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            stream = pool.submit(s.post, CHAT, chat(stream=True, max_tokens=4000, ignore_eos=True))
            whole = pool.submit(s.post, CHAT, chat(max_tokens=4000, ignore_eos=True))
            s.wait_metric("vllm:num_requests_running", 2, 2)
            for _ in range(signals):
                s.proc.send_signal(signal.SIGTERM)
                time.sleep(0.1)
            data = events(stream.result().body)
            assert json.loads(data[-2])["error"]["code"] == "server_draining" and data[-1] == "[DONE]"
            assert whole.result().status == 503
        assert s.proc.wait(3) == 0


def test_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    s = Server("--uds", path, wait=False)
    assert s.ready.wait(10)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    c = socket.socket(socket.AF_UNIX)
    c.connect(path)
    c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert c.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert s.stop() == 0 and not os.path.exists(path)


def test_port_in_use(server):
    import subprocess
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
        assert json.loads(events(streams.result().body)[-2])["error"]["code"] == "server_overloaded"
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
    assert events(rest)[-1] == "[DONE]"
