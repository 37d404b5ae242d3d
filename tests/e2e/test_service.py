"""Keys with scopes, rates and quotas; usage; wishes of time; timings; the response cache."""
import hashlib, json, re, threading, time

import openai
import pytest

from harness import CHAT, Server, chat, error_of, events_of

KEYS = """
# comment
keys:
  - name: alice
    key: sk-alice
  - name: bob
    sha256: {bob}
    scopes: [chat, models]
  - {{name: slow, key: sk-slow, limits: {{requests_per_minute: 3}}}}
  - name: small
    key: sk-small
    limits:
      tokens_per_minute: 200
  - name: poor
    key: sk-poor
    limits: {{tokens_total: 40}}
  - key: "sk-nameless"
""".format(bob=hashlib.sha256(b"sk-bob").hexdigest())


def auth(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keyed(start, tmp_path):
    """start with the key file; keyed(*flags) -> a server."""
    path = tmp_path / "keys.yaml"
    path.write_text(KEYS)
    return lambda *flags, **kw: start("--api-key-file", str(path), *flags, **kw)


def ask(s, key, path=CHAT, **fields):
    return s.post(path, chat(**fields), headers=auth(key))


# ---------------------------------------------------------------- keys
def test_keys_and_scopes(keyed):
    s = keyed()
    assert ask(s, "sk-alice").status == ask(s, "sk-bob").status == ask(s, "sk-nameless").status == 200
    assert ask(s, "sk-nobody").status == 401 and s.post(CHAT, chat()).status == 401
    assert s.get("/v1/models", headers=auth("sk-bob")).status == 200
    for path, body in ("/v1/completions", {"prompt": "a"}), ("/tokenize", {"prompt": "a"}):
        r = s.post(path, body, headers=auth("sk-bob"))
        assert r.status == 403 and error_of(r)["code"] == "permission_denied", r.body
    assert s.get("/v1/files", headers=auth("sk-bob")).status == 403
    with pytest.raises(openai.PermissionDeniedError):
        openai.OpenAI(base_url=s.base_url, api_key="sk-bob").completions.create(model="sim", prompt="a")


@pytest.mark.parametrize("text,why", [
    ("keys: []\n", "holds no key"), ("keys:\n - {name: a}\n", "key or sha256"), ("keys:\n - {key: a, nme: b}\n", "unknown field nme"),
    ("keys:\n - {key: a, limits: {rpm: 3}}\n", "unknown limit rpm"), ("keys:\n - {key: a, limits: {tokens_total: 0}}\n", "above 0"),
    ("keys:\n - {name: a, key: b}\n - {name: a, key: c}\n", "two keys"), ("keys:\n - {sha256: abc}\n", "64 hex"),
    ("keys:\n - &x {key: a}\n - *x\n", "aliases|anchors"), ("keys:\n - {key: [1\n", "line"), ("keys: 3\n", "mapping"),
    ("keys:\n - {key: a, scopes: []}\n", "scopes"), ("keys: [{key: a}]\nmore: 1\n", "alone"),
])
def test_bad_key_files(tmp_path, text, why):
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(RuntimeError, match=why):
        Server("--api-key-file", str(path))


# ---------------------------------------------------------------- rates and quotas
def test_requests_per_minute(keyed):
    s = keyed()
    for left in 2, 1, 0:
        r = ask(s, "sk-slow")
        assert r.status == 200 and r.getheader("x-ratelimit-limit-requests") == "3"
        assert r.getheader("x-ratelimit-remaining-requests") == str(left)
        assert re.fullmatch(r"\d+ms|[\d.]+s|\d+m\d+s", r.getheader("x-ratelimit-reset-requests"))
    r = ask(s, "sk-slow")
    e = error_of(r)
    assert r.status == 429 and (e["type"], e["code"]) == ("requests", "rate_limit_exceeded")
    assert 15 <= int(r.getheader("Retry-After")) <= 20 and r.getheader("x-should-retry") is None
    assert ask(s, "sk-alice").status == 200 and ask(s, "sk-alice").getheader("x-ratelimit-limit-requests") is None
    assert s.get("/v1/models", headers=auth("sk-slow")).status == 200  # only inference is counted


def test_tokens_per_minute(keyed):
    s = keyed()
    r = ask(s, "sk-small", max_tokens=20, ignore_eos=True)
    used = json.loads(r.body)["usage"]["total_tokens"]
    r = s.get("/v1/models", headers=auth("sk-small"))
    left = int(r.getheader("x-ratelimit-remaining-tokens"))
    assert r.getheader("x-ratelimit-limit-tokens") == "200" and 200 - used <= left <= 200 - used + 5
    r = ask(s, "sk-small", max_tokens=190)  # what it could use is charged before
    e = error_of(r)
    assert r.status == 429 and (e["type"], e["code"]) == ("tokens", "rate_limit_exceeded")
    assert 1 <= int(r.getheader("Retry-After")) <= 60
    r = ask(s, "sk-small", max_tokens=100)
    assert r.status == 200
    r = ask(s, "sk-small", max_tokens=100)  # most of it came back at the end
    assert r.status in (200, 429)


def test_request_larger_than_a_minute(start, tmp_path):
    """It waits for a full bucket, not for ever."""
    (tmp_path / "k").write_text("keys:\n  - {key: a, limits: {tokens_per_minute: 50}}\n")
    s = start("--api-key-file", str(tmp_path / "k"))
    assert ask(s, "a", max_tokens=1000, stop=["e"]).status == 200


def test_quota(keyed):
    s = keyed()
    while (r := ask(s, "sk-poor", ignore_eos=True)).status == 200:
        pass
    e = error_of(r)
    assert r.status == 429 and e["type"] == e["code"] == "insufficient_quota"
    assert r.getheader("x-should-retry") == "false" and r.getheader("Retry-After") is None
    began = time.monotonic()
    with pytest.raises(openai.RateLimitError):
        openai.OpenAI(base_url=s.base_url, api_key="sk-poor").chat.completions.create(model="sim", messages=chat()["messages"])
    assert time.monotonic() - began < 0.4  # not tried again


# ---------------------------------------------------------------- usage
def usage(s, key):
    r = s.get("/v1/usage", headers=auth(key))
    assert r.status == 200, r.body
    return json.loads(r.body)


def test_usage_outlives_a_restart(keyed, tmp_path):
    flags = "--data-dir", str(tmp_path / "data")
    s = keyed(*flags)
    sums = [0, 0]
    for stream in False, True, False:
        r = ask(s, "sk-alice", stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
        u = json.loads(events_of(r.body)[-2])["usage"] if stream else json.loads(r.body)["usage"]
        sums[0] += u["prompt_tokens"]
        sums[1] += u["completion_tokens"]
    for _ in range(2):
        u = usage(s, "sk-alice")
        assert u["object"] == "usage" and u["key"] == "alice" and u["limits"]["tokens_total"] is None
        for part in u["total"], u["today"], u["days"][0]:
            assert (part["requests"], part["prompt_tokens"], part["completion_tokens"]) == (3, *sums)
        assert u["days"][0]["date"] == time.strftime("%Y-%m-%d", time.gmtime())
        assert usage(s, "sk-nameless")["total"]["requests"] == 0
        assert s.stop() == 0
        s = keyed(*flags)
        time.sleep(0.2)  # the past is read in the background
    while ask(s, "sk-poor", ignore_eos=True).status == 200:
        pass
    assert s.stop() == 0
    s = keyed(*flags)
    time.sleep(0.2)
    assert ask(s, "sk-poor").status == 429


def test_usage_without_store(server):
    before = json.loads(server.get("/v1/usage").body)
    server.chat()
    after = json.loads(server.get("/v1/usage").body)
    assert after["total"]["requests"] == before["total"]["requests"] + 1 and after["days"] == []


def test_metrics_name_keys(keyed):
    s = keyed()
    ask(s, "sk-alice")
    ask(s, "sk-nameless")
    for _ in range(5):
        ask(s, "sk-slow")
    m = s.metrics()
    assert m['sluice:key_requests_total{key="alice"}'] == 1 and m['sluice:key_requests_total{key="slow"}'] == 3
    assert m['sluice:key_rejected_total{key="slow"}'] == 2 and m['sluice:key_requests_total{key="key-6"}'] == 1
    assert m['sluice:key_completion_tokens_total{key="alice"}'] > 0
    assert b"sk-" not in s.get("/metrics").body


# ---------------------------------------------------------------- wishes of time
def test_timeout_ends_with_504(start):
    s = start("--sim-step-us", "10000")
    for stream in False, True:
        began = time.monotonic()
        r = s.post(CHAT, chat(max_tokens=1000, ignore_eos=True, timeout_ms=300, stream=stream))
        assert 0.25 < time.monotonic() - began < 0.6
        if stream:
            data = events_of(r.body)
            assert r.status == 200 and data[-1] == "[DONE]" and json.loads(data[-2])["error"]["code"] == "timeout"
        else:
            e = error_of(r)
            assert r.status == 504 and (e["code"], e["param"]) == ("timeout", "timeout_ms")
            assert r.getheader("x-should-retry") == "false"
    s.wait_metric("vllm:num_requests_running", 0, 1)
    m = s.metrics()
    assert m['sluice:slo_late_total{cause="timeout"}'] == 2 and m["sluice:slo_good_requests_total"] == 0
    assert s.post(CHAT, chat(max_tokens=5, timeout_ms=5000)).status == 200
    assert s.metrics()["sluice:slo_good_requests_total"] == 1


def test_late_first_token_ends(start):
    """One slot, taken for a second: who wishes a first token within 200 ms is told so in time."""
    s = start("--sim-step-us", "10000", "--max-num-seqs", "1")
    t = threading.Thread(target=s.chat, kwargs={"max_tokens": 100, "ignore_eos": True})
    t.start()
    s.wait_metric("vllm:num_requests_running", 1, 2)
    began = time.monotonic()
    r = s.post(CHAT, chat(ttft_ms=200))
    assert r.status == 504 and error_of(r)["param"] == "ttft_ms" and 0.15 < time.monotonic() - began < 0.4
    t.join()
    assert s.post(CHAT, chat(ttft_ms=2000)).status == 200
    m = s.metrics()
    assert m['sluice:slo_wishes_total{slo="ttft",outcome="met"}'] == 1
    assert m['sluice:slo_wishes_total{slo="ttft",outcome="missed"}'] == 1 and m["sluice:slo_requests_total"] == 2


def test_due_time_orders_the_queue(start):
    """Of two that wait, the later one with the nearer due time runs first."""
    s = start("--sim-step-us", "5000", "--max-num-seqs", "1")
    order = []

    def go(name, **fields):
        assert s.post(CHAT, chat(max_tokens=20, ignore_eos=True, **fields)).status == 200
        order.append(name)

    threads = []
    for name, fields in ("first", {}), ("patient", {}), ("urgent", {"ttft_ms": 5000}):
        threads.append(threading.Thread(target=go, args=(name,), kwargs=fields))
        threads[-1].start()
        time.sleep(0.03)
    for t in threads:
        t.join()
    assert order == ["first", "urgent", "patient"]


def test_hopeless_is_refused_at_once(start):
    """7,500 prompt tokens at 64 a step of 20 ms take two seconds: behind them no first token comes within one."""
    s = start("--sim-step-us", "20000", "--max-num-seqs", "1", "--max-num-batched-tokens", "64")
    s.chat("word " * 300)  # a step's cost is known
    got = []

    def go(i):
        began = time.monotonic()
        r = s.post(CHAT, chat(f"{i} " + "word " * 1500, ttft_ms=1000 + i))
        got.append((r.status, error_of(r)["param"], r.getheader("Retry-After"), time.monotonic() - began))

    threads = [threading.Thread(target=go, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
        time.sleep(0.05)
    for t in threads:
        t.join()
    assert [g[:3] for g in got] == [(503, "ttft_ms", "1")] * 3 + [(504, "ttft_ms", None)]
    assert all(g[3] < 0.4 for g in got[:3]) and 0.9 < got[3][3] < 1.4, got
    assert s.metrics()['sluice:slo_late_total{cause="refused"}'] == 3
    assert s.post(CHAT, chat("hello", ttft_ms=500)).status == 200


@pytest.mark.parametrize("field,bad", [("ttft_ms", 0), ("ttft_ms", "1"), ("timeout_ms", -1), ("tpot_ms", 0), ("timings", 3)])
def test_bad_wishes(server, field, bad):
    assert server.error(CHAT, chat(**{field: bad}))["param"] == field


# ---------------------------------------------------------------- timings
def test_timings(start):
    s = start("--sim-step-us", "10000")
    for path, body in (CHAT, chat(max_tokens=10, ignore_eos=True)), ("/v1/completions", {"prompt": "a b c", "max_tokens": 10, "ignore_eos": True}):
        assert "timings" not in s.ok(path, body)
        for field in "timings", "timings_per_token":
            a = s.ok(path, {**body, field: True})
            t = a["timings"]
            assert t["predicted_n"] == 10 and t["prompt_n"] + t["cache_n"] == a["usage"]["prompt_tokens"]
            assert 80 < t["predicted_ms"] < 400 and t["prompt_ms"] > 5 and t["queue_ms"] >= 0
            assert abs(t["predicted_per_second"] - 1e3 * 10 / t["predicted_ms"]) < 0.1
            assert abs(t["predicted_per_token_ms"] - t["predicted_ms"] / 10) < 0.1
    for more in {}, {"stream_options": {"include_usage": True}}:
        last = s.stream(CHAT, chat(max_tokens=10, ignore_eos=True, timings=True, **more))[-1]
        assert last["choices"] == [] and last["timings"]["predicted_n"] == 10 and ("usage" in last) == bool(more)


# ---------------------------------------------------------------- the response cache
def same(a, b):
    return [c.get("message") or c["text"] for c in a["choices"]] == [c.get("message") or c["text"] for c in b["choices"]]


def test_cache_is_off_by_default(server):
    for _ in range(2):
        assert server.post(CHAT, chat(temperature=0)).getheader("x-cache") is None


def test_cache_hits(start):
    s = start("--response-cache-bytes", "1m")
    hit = lambda body, path=CHAT: s.post(path, body).getheader("x-cache") == "hit"
    body = chat("tell me", temperature=0, max_tokens=30)
    first = s.ok(CHAT, body)
    second = s.ok(CHAT, body)
    assert same(first, second) and first["id"] != second["id"] and first["usage"] == second["usage"]
    assert hit(dict(reversed(body.items()))) and hit({**body, "user": "u", "metadata": {"a": "b"}, "stop": None})
    streamed = s.stream(CHAT, body)
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in streamed) == first["choices"][0]["message"]["content"]
    assert s.post(CHAT, {**body, "stream": True}).getheader("x-cache") == "hit"
    for change in {"max_tokens": 29}, {"stop": ["q"]}, {"logprobs": True}, {"seed": 1}, {"unheard_of": 1}, {"cache_salt": "s"}:
        assert not hit({**body, **change}), change
        assert hit({**body, **change}), change
    assert not hit(chat("tell me", temperature=1)) and not hit(chat("tell me", temperature=1))
    many = {"prompt": ["a", "b"], "n": 2, "seed": 5, "temperature": 1, "max_tokens": 8, "logprobs": 2, "stop": ["e"]}
    a = s.ok("/v1/completions", many)
    assert hit(many, "/v1/completions")
    b = s.ok("/v1/completions", many)
    assert [{**c} for c in a["choices"]] == [{**c} for c in b["choices"]]
    m = s.metrics()
    assert m["sluice:response_cache_hits_total"] >= 10 and m["sluice:response_cache_entries"] == 8
    assert 0 < m["sluice:response_cache_bytes"] <= 1 << 20


def test_cache_is_bounded(start):
    s = start("--response-cache-bytes", "64k")
    for i in range(60):
        s.chat(f"question {i}", temperature=0, max_tokens=60, ignore_eos=True)
    m = s.metrics()
    assert m["sluice:response_cache_bytes"] <= 65536 and 5 < m["sluice:response_cache_entries"] < 60
    body = chat("long", temperature=0, max_tokens=2000, ignore_eos=True)
    for _ in range(2):
        assert s.post(CHAT, body).getheader("x-cache") is None  # larger than a share of the cache


def test_cache_keeps_tenants_apart(start):
    s = start("--response-cache-bytes", "1m", "--api-key", "one", "--api-key", "two")
    body = chat(temperature=0)
    got = [s.post(CHAT, body, headers=auth(k)).getheader("x-cache") for k in ("one", "two", "one", "two")]
    assert got == [None, None, "hit", "hit"]


def test_cache_keeps_no_broken_answer(start):
    """Cut off by a deadline or by the client: the next one is computed in full."""
    s = start("--response-cache-bytes", "1m", "--sim-step-us", "5000")
    body = chat(temperature=0, max_tokens=60, ignore_eos=True)
    assert s.post(CHAT, {**body, "timeout_ms": 100}).status == 504
    with s.socket() as c:
        from harness import http_post
        c.sendall(http_post(CHAT, {**body, "stream": True}))
        time.sleep(0.1)
    r = s.post(CHAT, body)
    assert r.getheader("x-cache") is None and json.loads(r.body)["usage"]["completion_tokens"] == 60
    assert s.post(CHAT, body).getheader("x-cache") == "hit"
