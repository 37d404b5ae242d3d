"""/v1/batches: wire specification 120 to 126, restarts, and what online requests notice of it."""
import json, random, signal, threading, time

import openai
import pytest

from harness import Server

CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS, RESPONSES = "/v1/embeddings", "/v1/responses"
OVER = {"completed", "failed", "expired", "cancelled"}


def client(server, key="none"):
    return openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0)


def line(custom_id, url=CHATS, **body):
    if url == CHATS:
        body.setdefault("messages", [{"role": "user", "content": f"line {custom_id}"}])
        body.setdefault("max_tokens", 4)
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(lines):
    return "".join(json.dumps(l) + "\n" for l in lines).encode()


def begin(c, lines, url=CHATS, window="24h", **more):
    data = lines if isinstance(lines, bytes) else jsonl(lines)
    f = c.files.create(file=("in.jsonl", data), purpose="batch")
    return c.batches.create(input_file_id=f.id, endpoint=url, completion_window=window, **more)


def wait(c, batch, seconds=50):
    end = time.monotonic() + seconds
    while (b := c.batches.retrieve(batch.id)).status not in OVER:
        assert time.monotonic() < end, b
        time.sleep(0.02)
    return b


def rows(c, file_id):
    return [json.loads(l) for l in c.files.content(file_id).read().splitlines()] if file_id else []


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    with Server("--data-dir", str(tmp_path_factory.mktemp("data")), name="sim") as s:
        yield s


# ---------------------------------------------------------------- the numbered ones
def test_120_good_and_bad_lines(kept):
    c = client(kept)
    b = begin(c, [line("good", ignore_eos=True), line("bad", temperature=9), line("gone", model="nobody")], metadata={"k": "v"})
    assert b.status == "validating" and b.metadata == {"k": "v"} and b.expires_at == b.created_at + 86400
    b = wait(c, b)
    assert b.status == "completed" and b.completed_at >= b.finalizing_at >= b.in_progress_at >= b.created_at
    assert (b.request_counts.total, b.request_counts.completed, b.request_counts.failed) == (3, 1, 2)
    [good] = rows(c, b.output_file_id)
    assert good["custom_id"] == "good" and good["id"].startswith("batch_req_") and good["error"] is None
    assert good["response"]["status_code"] == 200 and good["response"]["request_id"].startswith("req_")
    answer = good["response"]["body"]
    assert answer["object"] == "chat.completion" and answer["usage"]["completion_tokens"] == 4
    bad = {r["custom_id"]: r for r in rows(c, b.error_file_id)}
    assert set(bad) == {"bad", "gone"} and all(r["error"] is None for r in bad.values())
    assert bad["bad"]["response"]["status_code"] == 400
    assert bad["bad"]["response"]["body"]["error"]["param"] == "temperature"
    assert bad["gone"]["response"]["body"]["error"]["code"] == "model_not_found"
    usage = b.model_dump()["usage"]
    assert usage["output_tokens"] == 4 and usage["total_tokens"] == usage["input_tokens"] + 4
    for f in b.output_file_id, b.error_file_id:
        assert c.files.retrieve(f).purpose == "batch_output"


def test_120_same_as_online(kept):
    """A line's answer is that of the same request online, but for ids and time."""
    c = client(kept)
    body = {"messages": [{"role": "user", "content": "hello there"}], "seed": 7, "temperature": 1, "max_tokens": 12, "n": 3,
            "logprobs": True, "top_logprobs": 2}
    b = wait(c, begin(c, [line("x", **body)]))
    [row] = rows(c, b.output_file_id)
    online = kept.ok(CHATS, {"model": "sim", **body})
    for answer in row["response"]["body"], online:
        for key in "id", "created":
            del answer[key]
        answer["usage"].pop("prompt_tokens_details")
    assert row["response"]["body"] == online


BAD_LINES = [
    (b"{not json}\n", "invalid_json_line"),
    (b"[1]\n", "invalid_json_line"),
    (b'{"custom_id":"a","custom_id":"b"}\n', "invalid_json_line"),
    (b"\xff\xfe\n", "invalid_json_line"),
    (jsonl([{**line("x"), "body": 3}]), "invalid_json_line"),
    (jsonl([{**line("x"), "custom_id": ""}]), "invalid_custom_id"),
    (jsonl([{**line("x"), "custom_id": 7}]), "invalid_custom_id"),
    (jsonl([{**line("x"), "custom_id": "x" * 600}]), "invalid_custom_id"),
    (jsonl([{**line("x"), "method": "GET"}]), "invalid_method"),
    (jsonl([{**line("x"), "url": COMPLETIONS}]), "url_mismatch"),
    (jsonl([{k: v for k, v in line("x").items() if k != "body"}]), "missing_required_parameter"),
    (jsonl([line("ok")]), "duplicate_custom_id"),
]


BAD_IDS = [("122_" if code == "duplicate_custom_id" else "121_") + code for _, code in BAD_LINES]


@pytest.mark.parametrize("bad,code", BAD_LINES, ids=BAD_IDS)
def test_validation(kept, bad, code):
    c = client(kept)
    b = wait(c, begin(c, jsonl([line("ok")]) + bad))
    assert b.status == "failed" and b.failed_at and b.output_file_id is None and b.error_file_id is None
    assert b.errors.data[0].code == code and b.errors.data[0].line == 2 and b.errors.data[0].message
    assert b.request_counts.completed == 0


def test_121_several_errors_and_limits(kept):
    c = client(kept)
    b = wait(c, begin(c, b"x\n" * 50))
    assert [e.line for e in b.errors.data] == list(range(1, 21))
    for empty in b"\n \r\n\t\n", b"":
        b = wait(c, begin(c, empty))
        assert b.errors.data[0].code == "empty_file" and b.errors.data[0].line is None
    many = b"".join(b'{"custom_id":"%d","method":"POST","url":"/v1/chat/completions","body":{}}\n' % i for i in range(50001))
    assert wait(c, begin(c, many)).errors.data[0].code == "too_many_tasks"


def test_blank_lines_and_no_last_newline(kept):
    c = client(kept)
    data = b"\n" + jsonl([line("a")]) + b"  \r\n" + jsonl([line("b")])[:-1]
    b = wait(c, begin(c, data))
    assert b.request_counts.total == 2 and {r["custom_id"] for r in rows(c, b.output_file_id)} == {"a", "b"}


def test_stream_fails_its_line(kept):
    c = client(kept)
    b = wait(c, begin(c, [line("s", stream=True)]))
    assert b.status == "completed" and b.output_file_id is None
    [row] = rows(c, b.error_file_id)
    assert row["response"]["status_code"] == 400 and row["response"]["body"]["error"]["param"] == "stream"


def test_123_cancel(start, tmp_path):
    s = start("--data-dir", str(tmp_path), "--sim-step-us", "2000", "--max-num-seqs", "8")
    c = client(s)
    b = begin(c, [line(f"r{i}", max_tokens=20) for i in range(400)])
    while c.batches.retrieve(b.id).request_counts.completed < 20:
        time.sleep(0.01)
    assert c.batches.cancel(b.id).status == "cancelling"
    b = wait(c, b, 10)
    counts = b.request_counts
    assert b.status == "cancelled" and b.cancelled_at >= b.cancelling_at and counts.total == 400
    good, bad = rows(c, b.output_file_id), rows(c, b.error_file_id)
    assert 20 <= len(good) == counts.completed < 400 and len(bad) == counts.failed == 400 - len(good)
    assert all(r["response"] is None and r["error"]["code"] == "batch_cancelled" for r in bad)
    assert len({r["custom_id"] for r in good + bad}) == 400
    with pytest.raises(openai.BadRequestError):
        c.batches.cancel(b.id)
    s.wait_metric("sluice:background_requests_running", 0, 2)


def test_123_cancel_at_once(kept):
    """Before it was even validated."""
    c = client(kept)
    b = begin(c, [line(f"r{i}") for i in range(5000)])
    c.batches.cancel(b.id)
    b = wait(c, b)
    assert b.status in ("cancelled", "completed")
    assert b.request_counts.completed + b.request_counts.failed == b.request_counts.total


def test_124_expired(start, tmp_path):
    """A window of two seconds is the test's clock."""
    s = start("--data-dir", str(tmp_path), "--sim-step-us", "20000", "--max-num-seqs", "4")
    c = client(s)
    b = begin(c, [line(f"r{i}", max_tokens=10) for i in range(200)], window="2s")
    assert b.expires_at == b.created_at + 2
    b = wait(c, b, 10)
    assert b.status == "expired" and b.expired_at >= b.expires_at
    good, bad = rows(c, b.output_file_id), rows(c, b.error_file_id)
    assert len(good) == b.request_counts.completed > 0 and len(good) + len(bad) == 200
    assert all(r["response"] is None and r["error"]["code"] == "batch_expired" for r in bad)


def kill_again_and_again(tmp_path, lines, n_kills, step_us):
    """Starts, kills -9 at random moments, starts again; the batch and its rows at the end."""
    flags = ["--data-dir", str(tmp_path), "--max-num-seqs", "32", "--sim-step-us", str(step_us)]
    seed = random.SystemRandom().randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    s = Server(*flags, name="sim")
    b = begin(client(s), lines)
    seen = []
    for _ in range(n_kills):
        time.sleep(rng.uniform(0.01, 0.8))
        now = client(s).batches.retrieve(b.id)
        time.sleep(rng.uniform(0, 0.1))
        seen.append(now.request_counts.completed)
        s.process.send_signal(signal.SIGKILL)
        s.process.wait()
        s = Server(*flags, name="sim")
        if now.status in OVER:
            break
    with s:
        c = client(s)
        b = wait(c, b)
        return b, rows(c, b.output_file_id), rows(c, b.error_file_id), seen


def test_125_restart_in_the_middle(tmp_path):
    """10,000 lines, kill -9 at random moments: every line answered exactly once."""
    lines = [line(f"r{i}", **({"temperature": 9} if i % 50 == 0 else {})) for i in range(10000)]
    b, good, bad, seen = kill_again_and_again(tmp_path, lines, n_kills=12, step_us=4000)
    print("answered at each kill:", seen)
    assert b.status == "completed" and seen == sorted(seen)
    ids = [r["custom_id"] for r in good + bad]
    assert len(ids) == 10000 and set(ids) == {l["custom_id"] for l in lines}
    assert len(bad) == 200 and all(r["response"]["status_code"] == 400 for r in bad)
    assert (b.request_counts.completed, b.request_counts.failed) == (9800, 200)
    assert any(0 < n < 9800 for n in seen), "no kill came in the middle"


def test_125_terminate_and_go_on(start, tmp_path):
    """SIGTERM does not wait for the batch, and the next start goes on with it."""
    s = start("--data-dir", str(tmp_path), "--sim-step-us", "1000", "--max-num-seqs", "8")
    b = begin(client(s), [line(f"r{i}", max_tokens=20) for i in range(600)])
    while client(s).batches.retrieve(b.id).request_counts.completed < 50:
        time.sleep(0.01)
    began = time.monotonic()
    assert s.stop() == 0 and time.monotonic() - began < 3
    s = start("--data-dir", str(tmp_path), "--max-num-seqs", "8")
    c = client(s)
    b = wait(c, b)
    assert b.status == "completed" and len({r["custom_id"] for r in rows(c, b.output_file_id)}) == 600


def test_126_completions(kept):
    c = client(kept)
    b = wait(c, begin(c, [line(str(i), COMPLETIONS, prompt=["a", "b"], max_tokens=3) for i in range(3)], COMPLETIONS))
    got = rows(c, b.output_file_id)
    assert len(got) == 3 and all(len(r["response"]["body"]["choices"]) == 2 for r in got)


def test_126_embeddings(start, tmp_path):
    s = start("--data-dir", str(tmp_path), "--pooling", "mean")
    c = client(s)
    lines = [{"custom_id": str(i), "method": "POST", "url": EMBEDDINGS, "body": {"model": s.name, "input": ["a", f"b{i}"]}}
             for i in range(40)]
    b = wait(c, begin(c, lines, EMBEDDINGS))
    got = {r["custom_id"]: r["response"]["body"]["data"] for r in rows(c, b.output_file_id)}
    assert b.status == "completed" and len(got) == 40 and all(len(d) == 2 for d in got.values())
    online = c.embeddings.create(model=s.name, input=["a", "b7"], encoding_format="float")
    assert [d["embedding"] for d in got["7"]] == [d.embedding for d in online.data]


def test_126_responses(kept):
    c = client(kept)
    lines = [{"custom_id": str(i), "method": "POST", "url": RESPONSES, "body": {"model": kept.name, "input": f"hi {i}",
                                                                                  "max_output_tokens": 4}} for i in range(20)]
    b = wait(c, begin(c, lines, RESPONSES))
    got = rows(c, b.output_file_id)
    assert b.status == "completed" and len(got) == 20
    assert all(r["response"]["body"]["object"] == "response" for r in got)


# ---------------------------------------------------------------- creating and listing
@pytest.mark.parametrize("change,status,param", [
    ({"input_file_id": None}, 400, "input_file_id"),
    ({"input_file_id": "file-nothing"}, 404, "input_file_id"),
    ({"endpoint": "/v1/models"}, 400, "endpoint"),
    ({"endpoint": 3}, 400, "endpoint"),
    ({"completion_window": "soon"}, 400, "completion_window"),
    ({"completion_window": "31d"}, 400, "completion_window"),
    ({"completion_window": None}, 400, "completion_window"),
    ({"metadata": {"a": 1}}, 400, "metadata"),
    ({"metadata": {str(i): "" for i in range(17)}}, 400, "metadata"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, 400, "output_expires_after.seconds"),
])
def test_create_refuses(kept, change, status, param):
    f = client(kept).files.create(file=("in.jsonl", jsonl([line("a")])), purpose="batch")
    body = {"input_file_id": f.id, "endpoint": CHATS, "completion_window": "24h", **change}
    assert kept.error("/v1/batches", body, status)["param"] == param


def test_create_wants_purpose_batch(kept):
    f = client(kept).files.create(file=("in.jsonl", jsonl([line("a")])), purpose="user_data")
    body = {"input_file_id": f.id, "endpoint": CHATS, "completion_window": "24h"}
    assert kept.error("/v1/batches", body)["param"] == "input_file_id"


def test_list_pages(start, tmp_path):
    c = client(start("--data-dir", str(tmp_path)))
    made = [begin(c, [line("a")]).id for _ in range(7)]
    assert [b.id for b in c.batches.list(limit=3)] == made[::-1]
    assert [b.id for b in c.batches.list(limit=1)] == made[::-1]
    page = c.batches.list(limit=7)
    assert page.has_more is False and len(page.data) == 7


def test_input_in_use_stays(start, tmp_path):
    s = start("--data-dir", str(tmp_path), "--sim-step-us", "20000", "--max-num-seqs", "2")
    c = client(s)
    b = begin(c, [line(f"r{i}") for i in range(200)], output_expires_after={"anchor": "created_at", "seconds": 3600})
    with pytest.raises(openai.BadRequestError, match=b.id):
        c.files.delete(b.input_file_id)
    c.batches.cancel(b.id)
    b = wait(c, b)
    assert c.files.delete(b.input_file_id).deleted
    f = c.files.retrieve(b.error_file_id)
    assert f.expires_at == f.created_at + 3600


def test_isolation_and_lost_key(start, tmp_path):
    s = start("--data-dir", str(tmp_path), "--api-key", "one", "--api-key", "two", "--sim-step-us", "5000")
    one, two = client(s, "one"), client(s, "two")
    b = begin(one, [line(f"r{i}", max_tokens=50) for i in range(1000)])
    assert list(two.batches.list()) == []
    for call in two.batches.retrieve, two.batches.cancel:
        with pytest.raises(openai.NotFoundError):
            call(b.id)
    assert s.stop() == 0
    s = start("--data-dir", str(tmp_path), "--api-key", "two")  # a key that is gone runs nothing more
    time.sleep(0.5)
    s.wait_metric("sluice:background_requests_running", 0, 1)
    assert list(client(s, "two").batches.list()) == []
    assert s.stop() == 0
    s = start("--data-dir", str(tmp_path), "--api-key", "one")
    assert wait(client(s, "one"), b).request_counts.completed == 1000


def test_batches_take_turns(start, tmp_path):
    """A short batch does not wait for a long one that came before it."""
    s = start("--data-dir", str(tmp_path), "--sim-step-us", "1000", "--max-num-seqs", "4")
    c = client(s)
    long = begin(c, [line(f"r{i}", max_tokens=20) for i in range(2000)])
    short = begin(c, [line(f"s{i}", max_tokens=20) for i in range(8)])
    assert wait(c, short, 10).status == "completed"
    assert c.batches.retrieve(long.id).status in ("in_progress", "validating")
    c.batches.cancel(long.id)


# ---------------------------------------------------------------- what online requests notice
def test_online_first(start, tmp_path):
    """With every slot wanted by a batch, online requests still run at once and in full number."""
    s = start("--data-dir", str(tmp_path), "--sim-step-us", "1000", "--max-num-seqs", "8", "--num-gpu-blocks-override", "600")
    c = client(s)
    b = begin(c, [line(f"r{i}", max_tokens=200, ignore_eos=True) for i in range(500)])
    while s.metrics()["sluice:background_requests_running"] < 7:
        time.sleep(0.01)
    took = []
    def ask():
        began = time.monotonic()
        s.chat("hi", max_tokens=20, ignore_eos=True)
        took.append(time.monotonic() - began)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert max(took) < 1.0, took
    assert s.metrics()["vllm:num_preemptions_total"] > 0
    c.batches.cancel(b.id)


def first_tokens(s, n=40):
    """Seconds to the first token of n requests, one after another."""
    times = []
    for i in range(n):
        conn = s.connect()
        body = {"messages": [{"role": "user", "content": f"{random.random()} " * 20}], "max_tokens": 3, "stream": True}
        began = time.monotonic()
        conn.request("POST", CHATS, json.dumps(body), {"Content-Type": "application/json"})
        r = conn.getresponse()
        while b'"content":""' in (l := r.readline()) or not l.startswith(b"data: {"):
            pass
        times.append(time.monotonic() - began)
        conn.close()
    return sorted(times)


def test_126_latency_within_twice(start, tmp_path):
    """In turns without and with a batch that wants every slot; bench/batch_latency.py measures it better."""
    s = start("--data-dir", str(tmp_path), "--sim-step-us", "2000", "--max-num-seqs", "16")
    c = client(s)
    p90 = {False: [], True: []}
    for i in range(6):
        full = i % 2 == 1
        b = begin(c, [line(f"r{i}", max_tokens=100) for i in range(2000)]) if full else None
        while full and s.metrics()["sluice:background_requests_running"] < 13:
            time.sleep(0.01)
        times = first_tokens(s)
        p90[full].append(times[int(0.9 * len(times))])
        if full:
            c.batches.cancel(b.id)
            wait(c, b)
    alone, beside = sorted(p90[False])[1], sorted(p90[True])[1]
    assert beside < 2 * alone, p90
