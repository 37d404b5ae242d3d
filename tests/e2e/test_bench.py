"""`sluice bench serve` and `sluice bench engine` against servers whose figures are known.

The sim device makes a token a step for every stream, and a step lasts --sim-step-us: TPOT and TTFT follow. Servers of a
few lines play the broken ones. On a shared machine the client is late by milliseconds now and then, so that all but the
tests of the refusal allow it to be.
"""
import contextlib, http.server, json, os, signal, subprocess, threading, time

import pytest

from harness import BIN, ROOT, TINY, Server, free_port

CALM = ["--max-send-lateness-ms", "1000", "--max-client-cpu", "100"]


def bench(port, *flags, status=0, timeout=120):
    """The JSON of `sluice bench serve`, its text added; the exit status is checked."""
    cmd = [BIN, "bench", "serve", "--port", str(port), "--json", "-", *flags]
    p = subprocess.run(cmd, capture_output=True, text=True, timeout=timeout)
    assert p.returncode == status, (p.returncode, p.stdout[-500:], p.stderr)
    result = json.loads(p.stdout) if p.stdout else {"runs": [{}]}
    return {**result, **result["runs"][-1], "text": p.stderr}


# -------------------------------------------------------------------- figures


@pytest.fixture(scope="module")
def slow():
    """10 ms a step."""
    with Server("--sim-step-us", "10000", "--max-num-seqs", "64") as s:
        yield s


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_times_agree_with_the_step(slow, backend):
    r = bench(slow.port, *CALM, "--backend", backend, "--num-prompts", "32", "--input-len", "20", "--output-len", "40",
              "--ignore-eos")
    assert (r["completed"], r["failed"], r["total_output_tokens"], r["chunks"]) == (32, 0, 1280, 1280)
    assert r["p50_tpot_ms"] == pytest.approx(10, abs=1) and r["p50_itl_ms"] == pytest.approx(10, abs=1)
    assert 10 <= r["p50_ttft_ms"] < 60  # some steps: prompts are prefilled in one, after they are parsed
    assert r["p50_e2el_ms"] == pytest.approx(r["p50_ttft_ms"] + 39 * r["p50_tpot_ms"], abs=25)
    assert r["full_load_output_throughput"] == pytest.approx(3200, rel=0.15)
    assert r["output_throughput"] < r["full_load_output_throughput"] * 1.02
    assert backend != "openai" or r["total_input_tokens"] == 32 * 20
    assert 0 < r["engine_step_cpu_us"]["mean"] < 5000 and r["device_idle_us"]["p50"] <= 100


def test_concurrency_is_a_limit(slow):
    r = bench(slow.port, *CALM, "--num-prompts", "24", "--max-concurrency", "4", "--input-len", "8", "--output-len", "10",
              "--ignore-eos")
    assert r["completed"] == 24 and r["peak_concurrency"] == 4
    assert r["duration"] > 6 * 10 * 0.01  # six waves of ten steps


def test_arrivals_keep_the_rate(slow, tmp_path):
    out = tmp_path / "r.json"
    cmd = [BIN, "bench", "serve", "--port", str(slow.port), *CALM, "--num-prompts", "100", "--request-rate", "50", "--input-len",
           "8", "--output-len", "4", "--ignore-eos", "--save-detailed", "--json", str(out), "--seed", "3", "--goodput",
           "ttft:1000", "e2el:1000"]
    subprocess.run(cmd, check=True, timeout=60, capture_output=True)
    run = json.loads(out.read_text())["runs"][0]
    sent = [r["sent"] for r in run["requests"]]
    assert sent == sorted(sent) and sent[-1] == pytest.approx(100 / 50, abs=0.1)
    gaps = [b - a for a, b in zip(sent, sent[1:])]
    assert min(gaps) < 0.005 and max(gaps) > 0.04  # exponential, not even: mean 0.02
    assert run["request_goodput"] == pytest.approx(run["request_throughput"]) and run["completed"] == 100


def test_sweep(slow):
    r = bench(slow.port, *CALM, "--request-rate", "20,40,inf", "--sweep-seconds", "1", "--num-prompts", "30", "--input-len", "8",
              "--output-len", "4", "--ignore-eos")
    assert [x["num_prompts"] for x in r["runs"]] == [20, 40, 30] and len({x["seed"] for x in r["runs"]}) == 3
    assert [x["request_rate"] for x in r["runs"]] == [20, 40, "inf"] and "TTFT p99" in r["text"]


def test_sweep_ends_when_the_ttft_diverges(start):
    """Two sequences of 20 steps of 10 ms: 10 requests a second at most."""
    s = start("--sim-step-us", "10000", "--max-num-seqs", "2")
    r = bench(s.port, *CALM, "--request-rate", "4,40,50,60", "--sweep-seconds", "2", "--input-len", "8", "--output-len", "20",
              "--ignore-eos")
    assert [x["request_rate"] for x in r["runs"]] == [4, 40] and "diverges" in r["text"]


def test_whole_answers(slow):
    r = bench(slow.port, *CALM, "--no-stream", "--num-prompts", "8", "--input-len", "8", "--output-len", "10", "--ignore-eos")
    assert r["total_output_tokens"] == 80 and "mean_ttft_ms" not in r
    assert r["mean_e2el_ms"] == pytest.approx(110, abs=40)


def test_threads_and_prefix(slow):
    r = bench(slow.port, *CALM, "--num-threads", "3", "--num-prompts", "40", "--max-concurrency", "8", "--input-len", "8",
              "--random-prefix-len", "64", "--output-len", "4", "--num-warmups", "2")
    assert r["completed"] == 40 and r["peak_concurrency"] == 8 and r["prefix_cache_hit_rate"] > 0.5
    other = bench(slow.port, *CALM, "--num-prompts", "16", "--input-len", "100", "--output-len", "2", "--seed", "9")
    assert other["prefix_cache_hit_rate"] < 0.05


@pytest.mark.skipif("SLUICE_TSAN_BIN" not in os.environ, reason="SLUICE_TSAN_BIN is not set")
def test_no_data_race(slow):
    """Client threads and the engine's, as ThreadSanitizer sees them: a report makes the exit status 66."""
    tsan = os.environ["SLUICE_TSAN_BIN"]
    for cmd in (["serve", "--port", str(slow.port), *CALM, "--num-threads", "4", "--num-prompts", "100", "--max-concurrency", "16",
                 "--input-len", "8", "--output-len", "5"],
                ["engine", "--device", "sim", "--batch-size", "1,8", "--input-len", "20", "--output-len", "50", "-r", "1"]):
        subprocess.run([tsan, "bench", *cmd], check=True, timeout=120)


def test_traces(slow, tmp_path):
    azure, mooncake = tmp_path / "a.csv", tmp_path / "m.jsonl"
    azure.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0,37,4\n2023-11-16 18:15:46.5,39,9\n"
                     "2023-11-16 18:15:46.6,99999,9\n")
    r = bench(slow.port, *CALM, "--dataset-name", "azure", "--dataset-path", str(azure), "--use-trace-timestamps", "--ignore-eos")
    assert (r["completed"], r["left_out"], r["total_input_tokens"], r["total_output_tokens"]) == (2, 1, 76, 13)
    assert r["duration"] == pytest.approx(0.5 + 0.1, abs=0.15)
    mooncake.write_text("".join(json.dumps({"timestamp": i, "input_length": 600, "output_length": 2, "hash_ids": [5, 10 + i]}) + "\n"
                                for i in range(8)))
    r = bench(slow.port, *CALM, "--dataset-name", "mooncake", "--dataset-path", str(mooncake), "--max-concurrency", "1")
    assert r["total_input_tokens"] == 4800 and r["prefix_cache_hit_rate"] == pytest.approx(7 * 512 / 4800, abs=0.02)


def test_sharegpt(slow, tmp_path):
    f = tmp_path / "s.json"
    turns = [{"from": "human", "value": "What is the answer?"}, {"from": "gpt", "value": "It is forty-two."}]
    f.write_text(json.dumps([{"conversations": turns}, {"conversations": turns[:1]}]))
    r = bench(slow.port, *CALM, "--dataset-name", "sharegpt", "--dataset-path", str(f), "--ignore-eos")
    assert (r["completed"], r["left_out"], r["total_input_tokens"], r["total_output_tokens"]) == (1, 1, 19, 16)


# -------------------------------------------------------------------- refusal


def test_a_busy_client_is_refused(slow):
    r = bench(slow.port, "--max-client-cpu", "0.0001", "--max-send-lateness-ms", "1000", "--num-prompts", "8", "--input-len", "8",
              "--output-len", "4", status=3)
    assert "busy" in r["refused"] and "REFUSED" in r["text"] and "TTFT" not in r["text"]


def test_a_late_client_is_refused(slow):
    """It is stopped for half a second of two, with a request due every 10 ms."""
    cmd = [BIN, "bench", "serve", "--port", str(slow.port), "--num-prompts", "200", "--request-rate", "100", "--input-len", "4",
           "--output-len", "2", "--json", "-"]
    p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    p.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    p.send_signal(signal.SIGCONT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 3 and "late" in json.loads(out)["runs"][0]["refused"], err


# -------------------------------------------------------------------- broken servers

EVENT = b'data: {"choices":[{"index":0,"text":"x"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def playing(answers):
    """A server that gives its POSTs these raw answers in turn, the last one for ever; None: it hangs."""
    state = {"n": 0}

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            body = b'{"data":[{"id":"m"}]}' if self.path == "/v1/models" else b"{}"
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = answers[min(state["n"], len(answers) - 1)]
            state["n"] += 1
            if answer is None:
                time.sleep(3)
            else:
                self.wfile.write(answer)
            self.close_connection = True

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *args):
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


GOOD = HEAD + EVENT + USAGE + DONE
BROKEN = {
    "http_status": b'HTTP/1.1 503 x\r\nContent-Length: 29\r\n\r\n{"error":{"message":"full!!"}}'[:-1] + b"}",
    "in_stream": HEAD + EVENT + b'data: {"error":{"message":"lost the GPU"}}\n\n' + DONE,
    "unfinished": HEAD + EVENT,
    "closed": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 5000\r\n\r\n" + EVENT,
    "bad_http": b"SSH-2.0-OpenSSH\r\n",
    "bad_event": HEAD + b"data: {broken\n\n" + DONE,
    "empty": HEAD + DONE,
    "timeout": None,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_errors_are_counted_and_named(kind):
    """The first answer, to the request that comes before the measurement, is a good one."""
    with playing([GOOD, GOOD, BROKEN[kind], GOOD]) as port:
        r = bench(port, *CALM, "--num-prompts", "4", "--max-concurrency", "1", "--timeout", "1", status=1)
    assert (r["completed"], r["failed"]) == (3, 1) and list(r["errors"]) == [kind] and r["errors"][kind]["n"] == 1
    assert r["total_output_tokens"] == 3 and kind in r["text"]


def test_a_server_without_usage():
    with playing([HEAD + EVENT * 5 + DONE]) as port:
        r = bench(port, *CALM, "--num-prompts", "2")
    assert r["answers_without_usage"] == 2 and r["total_output_tokens"] == 10 and "counted by chunks" in r["text"]


def test_tokens_without_text():
    """A token may have no text (a special one): the answer counts, its first token is seen at the end."""
    finish = b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'
    with playing([HEAD + finish + USAGE + DONE]) as port:
        r = bench(port, *CALM, "--num-prompts", "2")
    assert (r["completed"], r["total_output_tokens"], r["chunks"]) == (2, 2, 0) and 0 < r["p50_ttft_ms"] == r["p50_e2el_ms"]


def test_a_first_request_that_fails_says_why():
    with playing([BROKEN["http_status"]]) as port:
        assert "503" in bench(port, "--num-prompts", "2", status=1)["text"]
    assert "refused" in bench(free_port(), "--num-prompts", "2", status=1)["text"]


def test_the_server_goes_away(start):
    s = start("--sim-step-us", "10000")
    cmd = [BIN, "bench", "serve", "--port", str(s.port), *CALM, "--num-prompts", "200", "--max-concurrency", "20", "--output-len",
           "100", "--input-len", "8", "--json", "-", "--ignore-eos"]
    p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    s.process.kill()
    s.process.wait()
    out, err = p.communicate(timeout=60)
    run = json.loads(out)["runs"][0]
    assert p.returncode == 1 and run["failed"] == 200 and set(run["errors"]) <= {"closed", "connect"}, err


# -------------------------------------------------------------------- the engine


def engine(*flags):
    p = subprocess.run([BIN, "bench", "engine", *flags, "--json", "-"], capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)


def test_engine_on_the_sim_device():
    r = engine("--device", "sim", "--sim-step-us", "10000", "--batch-size", "1,16", "--input-len", "30", "--output-len", "30", "-r", "2",
               "-p", "100")
    for d, batch in zip(r["decode"], (1, 16)):
        assert d["batch_size"] == batch and d["step_ms"] == pytest.approx(10, rel=0.15)
        assert d["tokens_per_second"] == pytest.approx(batch * 100, rel=0.15) and d["device_step_ms"] == pytest.approx(10, rel=0.01)
        assert 0 < d["engine_cpu_us"]["mean"] < 5000 and d["device_idle_us"]["p50"] <= 100
    assert r["prefill"][0]["ms"] == pytest.approx(10, abs=3)


def test_engine_on_dummy_weights():
    """FLOPs of the tiny model: its matrix products, and attention over the prompt."""
    r = engine(TINY, "--device", "cpu", "--load-format", "dummy", "--batch-size", "2", "--input-len", "20", "--output-len", "8",
               "-r", "2", "-p", "64")
    assert r["device"] == "cpu" and r["decode"][0]["tokens_per_second"] > 10
    with open(os.path.join(TINY, "config.json")) as f:
        c = json.load(f)
    h, ffn, layers, heads, kv = (c[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                                "num_key_value_heads"))
    dim = c.get("head_dim") or h // heads
    products = 2 * layers * (h * dim * (2 * heads + 2 * kv) + 3 * h * ffn)
    flops = 64 * products + 2 * h * c["vocab_size"] + layers * 4 * heads * dim * (64 * 65 / 2)
    p = r["prefill"][0]
    assert p["tflops"] * 1e12 * p["ms"] * 1e-3 == pytest.approx(flops, rel=0.02)


def test_engine_asks_for_no_log_probabilities(tmp_path):
    """They would make every prompt token a row of logits; a step has room for 130 of so large a vocabulary."""
    with open(os.path.join(TINY, "config.json")) as f:
        config = {**json.load(f), "vocab_size": 128256}
    (tmp_path / "config.json").write_text(json.dumps(config))
    r = engine(str(tmp_path), "--device", "cpu", "--load-format", "dummy", "--batch-size", "4", "--input-len", "200", "--output-len",
               "4", "-r", "2", "-p", "300", "--max-num-batched-tokens", "300", "--max-model-len", "2000")
    assert r["prefill"][0]["steps"] == 1 and r["decode"][0]["batch_size"] == 4


def test_engine_skips_what_does_not_fit():
    p = subprocess.run([BIN, "bench", "engine", "--device", "sim", "--batch-size", "4", "--num-gpu-blocks-override", "100", "-p", "",
                        "--input-len", "1000"], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0 and "skipped" in p.stdout


def test_a_dummy_model_without_tokenizer(tmp_path):
    """Every id has a text, text prompts are bytes, and bench serve can load it."""
    with open(os.path.join(TINY, "config.json")) as f:
        config = {**json.load(f), "vocab_size": 1000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with Server("--device", "cpu", "--load-format", "dummy", model=str(tmp_path)) as s:
        answer = s.complete([1, 999, 500], max_tokens=6, ignore_eos=True, logprobs=0)
        assert len(answer["choices"][0]["logprobs"]["tokens"]) == 6
        assert all(answer["choices"][0]["logprobs"]["tokens"])
        assert s.complete("two", max_tokens=1)["usage"]["prompt_tokens"] == 3 and s.chat("hi", max_tokens=2)
        r = bench(s.port, *CALM, "--num-prompts", "4", "--input-len", "30", "--output-len", "20", "--ignore-eos")
        assert r["total_output_tokens"] == 80 and r["failed"] == 0
    p = subprocess.run([BIN, "serve", str(tmp_path), "--device", "cpu"], capture_output=True, text=True, timeout=20)
    assert p.returncode == 1 and "tokenizer.json" in p.stderr
