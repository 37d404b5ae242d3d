"""Completions, embeddings of models: 102 to 108 and 118 of the wire specification, and vLLM's extensions."""
import json

import pytest

from harness import MODEL, TINY, Server

PARIS = "The capital of France is"


@pytest.fixture(scope="module")
def llm():
    with Server(model=MODEL, name="org/model") as s:
        yield s


def test_102_default_max_tokens(llm):
    r = llm.complete("Once upon a time", ignore_eos=True)
    assert r["usage"]["completion_tokens"] == 16 and r["object"] == "text_completion" and r["id"].startswith("cmpl-")


def test_103_prompt_forms(llm):
    ids = llm.ok("/tokenize", {"model": llm.name, "prompt": PARIS})["tokens"]
    fields = dict(temperature=0, max_tokens=4)
    text = llm.complete(PARIS, **fields)["choices"][0]["text"]
    assert llm.complete([PARIS], **fields)["choices"][0]["text"] == text
    assert llm.complete(ids, **fields)["choices"][0]["text"] == text
    assert llm.complete([ids], **fields)["choices"][0]["text"] == text
    r = llm.complete([PARIS, "One, two,"], n=2, temperature=0, max_tokens=4)
    assert [c["index"] for c in r["choices"]] == [0, 1, 2, 3]
    other = llm.complete("One, two,", **fields)["choices"][0]["text"]
    assert [c["text"] for c in r["choices"]] == [text, text, other, other]
    assert r["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("prompt", [[], "", [[]], [1, "a"], 5, None, [-1], [10 ** 9], [[1], "a"], {"a": 1}])
def test_103_bad_prompts(llm, prompt):
    e = llm.error("/v1/completions", {"model": llm.name, "prompt": prompt})
    assert (e["param"] or "").startswith("prompt"), e


def test_104_echo(llm):
    c = llm.complete(PARIS, echo=True, temperature=0, max_tokens=3)["choices"][0]
    assert c["text"].startswith(PARIS + " Paris")
    r = llm.complete(PARIS, echo=True, max_tokens=0)
    assert r["choices"][0]["text"] == PARIS and r["usage"]["completion_tokens"] == 0


def test_105_scoring_as_lm_eval_does(llm):
    ids = llm.ok("/tokenize", {"model": llm.name, "prompt": PARIS})["tokens"]
    lp = llm.complete(ids, echo=True, logprobs=1, max_tokens=1, temperature=0)["choices"][0]["logprobs"]
    n = len(ids) + 1
    assert all(len(lp[k]) == n for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset"))
    assert lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None
    assert all(x <= 0 for x in lp["token_logprobs"][1:])
    assert lp["tokens"][-1] in lp["top_logprobs"][-1]


def test_106_text_offset(llm):
    c = llm.complete(PARIS + " 😀", echo=True, logprobs=0, max_tokens=8, temperature=0)["choices"][0]
    lp = c["logprobs"]
    for token, at in zip(lp["tokens"], lp["text_offset"]):
        if "\ufffd" not in token:
            assert c["text"][at:at + len(token)] == token


def test_107_stream_shape(llm):
    events = llm.stream("/v1/completions", dict(prompt=PARIS, max_tokens=5, temperature=0, echo=True))
    assert all(e["object"] == "text_completion" and "index" in e["choices"][0] for e in events)
    assert events[0]["choices"][0]["text"] == PARIS
    assert [e["choices"][0]["finish_reason"] for e in events][-1] == "length"
    assert all(e["choices"][0]["finish_reason"] is None for e in events[:-1])


def test_108_suffix(llm):
    e = llm.error("/v1/completions", {"model": llm.name, "prompt": "a", "suffix": "b"})
    assert e["param"] == "suffix" and e["code"] == "unsupported_parameter"


def test_118_models(llm):
    listed = json.loads(llm.get("/v1/models").body)
    assert listed["object"] == "list" and listed["data"][0]["id"] == llm.name and listed["data"][0]["max_model_len"]
    for path in ("/v1/models/org/model", "/v1/models/org%2Fmodel"):
        assert json.loads(llm.get(path).body)["id"] == llm.name
    assert llm.get("/v1/models/other").status == 404


def test_best_of(llm):
    llm.error("/v1/completions", {"model": llm.name, "prompt": "a", "n": 1, "best_of": 2})


def test_prompt_logprobs(llm):
    c = llm.complete(PARIS, prompt_logprobs=2, max_tokens=1)["choices"][0]
    rows = c["prompt_logprobs"]
    assert rows[0] is None and all(2 <= len(r) <= 3 for r in rows[1:])
    assert all(set(v) >= {"logprob", "rank", "decoded_token"} for r in rows[1:] for v in r.values())


def test_token_ids(llm):
    r = llm.complete(PARIS, return_token_ids=True, return_tokens_as_token_ids=True, logprobs=1, max_tokens=3)
    c = r["choices"][0]
    assert c["prompt_token_ids"] and len(c["token_ids"]) == 3
    assert c["logprobs"]["tokens"] == [f"token_id:{i}" for i in c["token_ids"]]


def test_tokenize_round_trip(llm):
    text = "Hello, wörld 😀!"
    r = llm.ok("/tokenize", {"model": llm.name, "prompt": text})
    assert r["count"] == len(r["tokens"]) and r["max_model_len"] > 0
    assert llm.ok("/detokenize", {"model": llm.name, "tokens": r["tokens"]})["prompt"] == text
    messages = [{"role": "user", "content": "hi"}]
    chat = llm.ok("/tokenize", {"model": llm.name, "messages": messages})
    assert chat["count"] == llm.chat("hi", max_tokens=1)["usage"]["prompt_tokens"]


def test_safetensors_folder():
    """A Hugging Face folder serves like a GGUF file, and gives the reference's greedy tokens."""
    with Server(model=TINY) as s, open(TINY + "/golden.json") as f:
        for case in json.load(f)["cases"][:3]:
            c = s.complete(case["prompt_token_ids"], temperature=0, max_tokens=8, ignore_eos=True,
                           return_token_ids=True)["choices"][0]
            agree = next((i for i, m in enumerate(case["greedy_margin"][:8]) if m < 0.02), 8)
            assert c["token_ids"][:agree] == case["greedy_token_ids"][:agree]
