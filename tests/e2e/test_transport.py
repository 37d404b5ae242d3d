"""Transport: the numbered tests 1 to 23, 131 and 132 of the wire specification's conformance list.

Runs against the sim device: tokens are hashes, time is --sim-step-us a step.
"""
import concurrent.futures, json, shutil, socket, struct, subprocess, time

import pytest

from harness import CHAT, Server, chat, error_of, events_of, http_post

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
    for path in ("/v1/models/other%2Fname", "/v1/models/a/b", "/v1/models/%00", "/v1/models/%2", "/v1", "/v1/healthx"):
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
    assert r.status == 400 and error_of(r)["type"] == "invalid_request_error"


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
        data = events_of(r.body)
        assert data[-1] == "[DONE]" and "[DONE]" not in data[:-1]
        assert all(json.loads(d)["object"] == "chat.completion.chunk" for d in data[:-1])


def test_18_keep_alive_comments(start):
    s = start("--sim-step-us", "2500000", "--sse-ping-interval", "1")
    r = s.post(CHAT, chat(stream=True, max_tokens=2))
    assert r.body.count(b": keep-alive\n") >= 2
    assert events_of(r.body)[-1] == "[DONE]"
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key="x", max_retries=0)
    chunks = list(client.chat.completions.create(model="sim", messages=chat()["messages"], stream=True, max_tokens=1,
                                                 extra_body={"ignore_eos": True}))
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
    with Server(*SLOW, "--max-num-seqs", "1", name="sim") as s:
        yield s


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
        data = events_of(r.body)
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


def test_131b_promtool(server):
    """Prometheus' own linter: the names are vLLM's, with their colons and one histogram named *_total."""
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian package prometheus)")
    server.post(CHAT, chat())
    p = subprocess.run(["promtool", "check", "metrics"], input=server.get("/metrics").body, capture_output=True)
    complaints = (p.stdout + p.stderr).decode().splitlines()
    accepted = ("metric names should not contain ':'",
                'vllm:iteration_tokens_total non-counter metrics should not have "_total" suffix')
    assert p.returncode in (0, 3)  # 3: it parses, with complaints
    assert [c for c in complaints if c and not c.endswith(accepted)] == []


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


def loading_server(model):
    s = Server("--device", "cpu", "--load-format", "dummy", "--threads", "1", model=model, wait=False)
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
    s.wait_ready()
    assert s.get("/health").status == 200
    assert s.post("/v1/completions", {"prompt": "ab", "max_tokens": 2}).status == 200
    assert s.stop() == 0


def test_132b_signal_while_loading(big_model):
    s, r = loading_server(big_model)
    assert r.status == 503
    assert s.stop(timeout=1) == 0
