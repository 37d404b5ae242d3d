"""POST /v1/embeddings, /rerank and /score: the sim device for the surface, tiny checkpoints for the numbers.

Numbers are those of the wire specification: 116 and 117. Beyond the list: pooling from the model's own files, dimensions,
many inputs at once, limits, rerank and score, cancel on disconnect."""
import base64, json, math, os, shutil, struct

import openai
import pytest

from harness import ROOT, TINY, Server

URL = "/v1/embeddings"
WIDTH = 64  # hidden_size of the tiny checkpoints


@pytest.fixture(scope="module")
def server():
    with Server("--pooling", "mean", model=TINY) as s:
        yield s


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=60)


def embed(server, **body):
    return [d["embedding"] for d in server.ok(URL, {"model": server.name, **body})["data"]]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)


def model_folder(tmp_path, pooling=None, modules=None, config=None):
    """The tiny llama with sentence-transformers' files beside it."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    if pooling:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **pooling}))
    if modules:
        base = "sentence_transformers.models."
        rows = [{"idx": i, "name": str(i), "path": p, "type": base + t} for i, (p, t) in enumerate(modules)]
        (folder / "modules.json").write_text(json.dumps(rows))
    if config:
        own = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**own, **config}))
    return str(folder)


# ---------------------------------------------------------------- 116, 117
def test_116_base64_and_float(server, client):
    """openai-python asks for base64 when the caller says nothing."""
    default = client.embeddings.create(model="m", input="hello world")
    plain = client.embeddings.create(model="m", input="hello world", encoding_format="float")
    a, b = default.data[0].embedding, plain.data[0].embedding
    assert len(a) == len(b) == WIDTH and max(abs(x - y) for x, y in zip(a, b)) < 1e-6
    assert abs(math.hypot(*b) - 1) < 1e-6
    raw = server.ok(URL, {"input": "hello world", "encoding_format": "base64"})
    assert raw["object"] == "list" and raw["model"] == "m" and raw["data"][0]["object"] == "embedding"
    assert list(struct.unpack(f"<{WIDTH}f", base64.b64decode(raw["data"][0]["embedding"], validate=True))) == a


def test_117_order_and_usage(server):
    texts = [f"text {i}" for i in range(5)]
    r = server.ok(URL, {"input": texts})
    assert [d["index"] for d in r["data"]] == [0, 1, 2, 3, 4]
    assert [d["embedding"] for d in r["data"]] == [embed(server, input=t)[0] for t in texts]
    each = [server.ok(URL, {"input": t})["usage"]["prompt_tokens"] for t in texts]
    assert r["usage"] == {"prompt_tokens": sum(each), "total_tokens": sum(each)}
    assert server.error(URL, {"input": []})["code"] == "empty_array"


REFUSED = [
    ({}, "input", "missing_required_parameter"),
    ({"input": ""}, "input", "invalid_value"),
    ({"input": ["a", ""]}, "input[1]", "invalid_value"),
    ({"input": ["a", 5]}, "input[1]", "invalid_type"),
    ({"input": [[5], "a"]}, "input[1]", "invalid_type"),
    ({"input": [[]]}, "input[0]", "empty_array"),
    ({"input": 5}, "input", "invalid_type"),
    ({"input": {"a": 1}}, "input", "invalid_type"),
    ({"input": [5, 320]}, "input", "integer_above_max_value"),
    ({"input": ["a"] * 2049}, "input", "array_above_max_length"),
    ({"input": "a", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
    ({"input": "a", "dimensions": 0}, "dimensions", "integer_below_min_value"),
    ({"input": "a", "dimensions": 65}, "dimensions", "integer_above_max_value"),
    ({"input": "a", "dimensions": 32}, "dimensions", "unsupported_value"),
    ({"input": "hello " * 3000}, "input", "context_length_exceeded"),
    ({"input": "a", "model": "nope"}, "model", "model_not_found"),
]


@pytest.mark.parametrize("body,param,code", REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refused(server, body, param, code):
    e = server.error(URL, body, status=404 if code == "model_not_found" else 400)
    assert (e["param"], e["code"]) == (param, code), e


def test_foreign_token_ids_get_a_hint(server):
    assert "check_embedding_ctx_length" in server.error(URL, {"input": [[5, 99999]]})["message"]


def test_token_ids_are_the_text(server):
    ids = server.ok("/tokenize", {"prompt": "hello world"})["tokens"]
    by_ids = server.ok(URL, {"input": ids})
    assert by_ids["data"][0]["embedding"] == embed(server, input="hello world")[0]
    assert len(embed(server, input=[ids, ids[:2]])) == 2


def test_truncate_prompt_tokens(server):
    ids = list(range(10, 60))
    assert embed(server, input=ids, truncate_prompt_tokens=7) == embed(server, input=ids[-7:])
    assert len(embed(server, input="hello " * 3000, truncate_prompt_tokens=-1)[0]) == WIDTH


def test_many_inputs(server):
    texts = [f"number {i}" for i in range(2048)]
    got = embed(server, input=texts)
    assert len(got) == 2048
    for i in (0, 63, 64, 1000, 2047):
        assert got[i] == embed(server, input=texts[i])[0]


def test_beside_generation_in_small_batches():
    """The same vectors whatever runs beside them, and in chunks of 16 tokens."""
    texts = [f"number {i} " * 9 for i in range(24)]
    with Server("--pooling", "mean", model=TINY) as s:
        want = embed(s, input=texts)
    flags = ["--pooling", "mean", "--max-num-seqs", "4", "--max-num-batched-tokens", "16", "--max-queue-size", "8"]
    with Server(*flags, model=TINY) as s:
        c = s.connect()
        body = json.dumps({"prompt": "x", "max_tokens": 1500, "ignore_eos": True, "stream": True})
        c.request("POST", "/v1/completions", body)
        answer = c.getresponse()
        assert answer.status == 200 and embed(s, input=texts) == want
        c.close()


# ---------------------------------------------------------------- which pooling
@pytest.mark.parametrize("mode,flag", [("pooling_mode_mean_tokens", "mean"), ("pooling_mode_lasttoken", "last"),
                                       ("pooling_mode_cls_token", "cls")])
def test_pooling_of_the_folder(tmp_path, mode, flag):
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    with Server(model=model_folder(tmp_path, {mode: True}, modules)) as s:
        own = embed(s, input="hello world")[0]
    with Server("--pooling", flag, model=TINY) as s:
        assert own == embed(s, input="hello world")[0] and abs(math.hypot(*own) - 1) < 1e-6


def test_last_token_takes_a_prefix_hit():
    with Server("--pooling", "last", model=TINY) as s:
        cold = embed(s, input=list(range(10, 90)))
        hits = s.metric("vllm:prefix_cache_hits_total")
        assert embed(s, input=list(range(10, 90))) == cold
        assert s.metric("vllm:prefix_cache_hits_total") > hits


def test_without_normalize_module(tmp_path):
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    with Server(model=model_folder(tmp_path, {"pooling_mode_lasttoken": True}, modules)) as s:
        assert math.hypot(*embed(s, input="hello")[0]) > 2


@pytest.mark.parametrize("pooling,modules,says", [
    ({"pooling_mode_max_tokens": True}, None, "pooling_mode_max_tokens"),
    ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, None, "several"),
    ({"pooling_mode_mean_tokens": True}, [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")], "Dense"),
])
def test_what_is_not_done(tmp_path, pooling, modules, says):
    with Server("--pooling", "mean", model=model_folder(tmp_path, pooling, modules)) as s:
        assert says in s.error(URL, {"input": "a"})["message"]
        assert s.complete("a", max_tokens=1)["choices"]


def test_dimensions(tmp_path):
    path = model_folder(tmp_path, {"pooling_mode_mean_tokens": True}, config={"is_matryoshka": True})
    with Server(model=path) as s:
        whole, short = embed(s, input="hello")[0], embed(s, input="hello", dimensions=8)[0]
        assert len(short) == 8 and abs(math.hypot(*short) - 1) < 1e-6
        assert max(abs(x / math.hypot(*whole[:8]) - y) for x, y in zip(whole, short)) < 1e-6
    own = model_folder(tmp_path / "b", {"pooling_mode_mean_tokens": True}, config={"matryoshka_dimensions": [16, 32]})
    with Server(model=own) as s:
        assert len(embed(s, input="hello", dimensions=16)[0]) == 16
        assert s.error(URL, {"input": "hello", "dimensions": 8})["param"] == "dimensions"


def test_no_embedding_model():
    with Server(model=TINY) as s:
        for url, body in [(URL, {"input": "a"}), ("/rerank", {"query": "a", "documents": ["b"]}),
                          ("/score", {"text_1": "a", "text_2": "b"})]:
            e = s.error(url, body)
            assert e["param"] == "model" and e["code"] == "unsupported_value" and "--pooling" in e["message"]


# ---------------------------------------------------------------- rerank, score
@pytest.mark.parametrize("url", ["/rerank", "/v1/rerank"])
def test_rerank(server, url):
    documents = ["winter snow", "a summer day", {"text": "summer days"}]
    vectors = embed(server, input=["summer day", "winter snow", "a summer day", "summer days"])
    want = sorted(((cosine(vectors[0], v), i) for i, v in enumerate(vectors[1:])), reverse=True)
    r = server.ok(url, {"model": "m", "query": "summer day", "documents": documents})
    assert [x["index"] for x in r["results"]] == [i for _, i in want]
    assert all(abs(x["relevance_score"] - s) < 1e-6 for x, (s, _) in zip(r["results"], want))
    assert r["results"][0]["document"]["text"] in ("a summer day", "summer days") and r["usage"]["total_tokens"] > 0
    top = server.ok(url, {"query": "summer day", "documents": documents, "top_n": 1, "return_documents": False})
    assert len(top["results"]) == 1 and "document" not in top["results"][0]


@pytest.mark.parametrize("url", ["/score", "/v1/score"])
def test_score(server, url):
    one = server.ok(url, {"model": "m", "text_1": "a cat", "text_2": ["a cat", "two dogs"]})
    assert one["object"] == "list" and [d["index"] for d in one["data"]] == [0, 1]
    assert abs(one["data"][0]["score"] - 1) < 1e-6 > one["data"][1]["score"] - 1
    pairs = server.ok(url, {"text_1": ["a cat", "two dogs"], "text_2": ["two dogs", "a cat"]})
    assert abs(pairs["data"][0]["score"] - pairs["data"][1]["score"]) < 1e-6
    assert server.error(url, {"text_1": ["a", "b"], "text_2": ["c"]})["param"] == "text_2"
    assert server.error(url, {"text_1": "a"})["param"] == "text_2"
    assert server.error("/rerank", {"query": ["a", "b"], "documents": ["c"]})["param"] == "query"
    assert server.error("/rerank", {"query": "a", "documents": []})["param"] == "documents"


# ---------------------------------------------------------------- the surface, on the sim device
def test_sim_and_keys(start):
    s = start("--pooling", "last", "--api-key", "k")
    assert s.post(URL, {"input": "a"}).status == 401
    r = s.post(URL, {"input": ["a", "b"]}, headers={"Authorization": "Bearer k"})
    vectors = [d["embedding"] for d in json.loads(r.body)["data"]]
    assert r.status == 200 and vectors[0] != vectors[1] and abs(math.hypot(*vectors[0]) - 1) < 1e-6
    assert s.get(URL, headers={"Authorization": "Bearer k"}).status == 405


def test_cancel_on_disconnect(start):
    s = start("--pooling", "mean", "--sim-step-us", "20000", "--max-num-batched-tokens", "64", "--max-num-seqs", "8")
    body = json.dumps({"input": ["some text " * 20] * 500}).encode()
    with s.socket() as c:
        c.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while s.metrics()["vllm:num_requests_running"] == 0:
            pass
    assert s.wait_metric("vllm:num_requests_running", 0, 1) < 1
    assert s.metrics()["vllm:num_requests_waiting"] == 0
    assert s.ok(URL, {"input": "still here"})["data"]


def test_a_queue_smaller_than_the_inputs(start):
    s = start("--pooling", "mean", "--max-queue-size", "2", "--max-num-seqs", "3")
    assert len(embed(s, input=[f"t{i}" for i in range(300)])) == 300


def test_failure(start):
    s = start("--pooling", "mean", "--sim-fail-step", "1")
    assert s.post(URL, {"input": ["a", "b"]}).status == 500
    assert s.stop() == 70


def test_langchain(server):
    from langchain_openai import OpenAIEmbeddings
    e = OpenAIEmbeddings(model="m", base_url=server.base_url, api_key="none", check_embedding_ctx_length=False)
    assert max(abs(x - y) for x, y in zip(e.embed_documents(["a b", "c"])[0], embed(server, input="a b")[0])) < 1e-6
