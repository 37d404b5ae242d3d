"""Chat completions, numbered as in the wire specification's conformance list: 24 to 84 (tools and
structured output, 87 to 101: test_tools.py, test_structured.py). Validation runs on the sim device, answers on SmolLM2.

24 to 47 are one parametrised test: `pytest -k 30_temperature` runs one of them. The SDKs of 72 and 85 are in
test_openai.py."""
import json, subprocess

import openai
import pytest

from harness import MODEL, Server, text_of

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]
PARIS = "The capital of France is"


@pytest.fixture(scope="module")
def sim():
    with Server("--max-model-len", "2048") as s:
        yield s


@pytest.fixture(scope="module")
def llm():
    with Server(model=MODEL) as s:
        yield s


def client(s):
    return openai.OpenAI(base_url=s.base_url, api_key="none", max_retries=0, timeout=60)


# ---------------------------------------------------------------- validation: 400, param set, nothing generated

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
INVALID = {
    "24_missing_messages": ({"messages": None}, "messages", "missing_required_parameter"),
    "25_empty_messages": ({"messages": []}, "messages", "empty_array"),
    "26_messages_is_text": ({"messages": "x"}, "messages", "invalid_type"),
    "27_message_without_role": ({"messages": [{"content": "x"}]}, "messages[0].role", None),
    "28_unknown_role": ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "invalid_value"),
    "29_content_is_number": ({"messages": [{"role": "user", "content": 123}]}, "messages[0].content", "invalid_type"),
    "30_temperature_3": ({"temperature": 3}, "temperature", "decimal_above_max_value"),
    "31_temperature_text": ({"temperature": "1"}, "temperature", "invalid_type"),
    "32_top_p_1_5": ({"top_p": 1.5}, "top_p", "decimal_above_max_value"),
    "33_n_0": ({"n": 0}, "n", "integer_below_min_value"),
    "34_max_tokens_0": ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    "35_presence_penalty_5": ({"presence_penalty": 5}, "presence_penalty", "decimal_above_max_value"),
    "36_top_logprobs_alone": ({"top_logprobs": 5}, "top_logprobs", None),
    "37_top_logprobs_21": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    "38_stream_options_alone": ({"stream_options": {"include_usage": True}}, "stream_options", None),
    "39_empty_stop": ({"stop": [""]}, "stop", None),
    "40_logit_bias_key": ({"logit_bias": {"abc": 1}}, "logit_bias", None),
    "40_logit_bias_value": ({"logit_bias": {"1": 101}}, "logit_bias", None),
    "41_required_without_tools": ({"tool_choice": "required"}, "tool_choice", None),
    "42_unknown_named_tool": ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
                              "tool_choice", None),
    "43_bad_tool_name": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", None),
    "44_format_xml": ({"response_format": {"type": "xml"}}, "response_format", None),
    "45_schema_type_hiccup": ({"response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"type": "hiccup"}}}}, "response_format", None),
    "46_image_on_text_model": ({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]},
        "messages[0].content[0]", "unsupported_value"),
    "47_modalities_audio": ({"modalities": ["audio"]}, "modalities", "unsupported_value"),
    "temperature_nan": ('{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":NaN}', None, None),
    "temperature_1e999": ('{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":1e999}', None, None),
    "seed_text": ({"seed": "7"}, "seed", "invalid_type"),
    "n_17": ({"n": 17}, "n", "integer_above_max_value"),
    "stop_33": ({"stop": ["x"] * 33}, "stop", "array_above_max_length"),
    "allowed_token_out_of_range": ({"allowed_token_ids": [1 << 20]}, "allowed_token_ids", None),
    "bad_cache_salt": ({"cache_salt": "a/b"}, "cache_salt", None),
    "logit_bias_out_of_range": ({"logit_bias": {"99999999": 1}}, "logit_bias", None),
}


@pytest.mark.parametrize("case", INVALID)
def test_24_to_47_validation(sim, case):
    body, param, code = INVALID[case]
    before = sim.metric("vllm:generation_tokens_total")
    e = sim.error(CHAT, body if isinstance(body, str) else {"model": "m", "messages": USER, **body})
    assert e["type"] == "invalid_request_error"
    if param:
        assert (e["param"] or "").startswith(param), e
    if code:
        assert e["code"] == code, e
    assert sim.metric("vllm:generation_tokens_total") == before


def test_48_unknown_model(sim):
    e = sim.error(CHAT, {"model": "nope-7b", "messages": USER}, 404)
    assert e["code"] == "model_not_found" and "nope-7b" in e["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_49_prompt_beyond_context(sim, stream):
    e = sim.error(CHAT, {"model": "m", "messages": [{"role": "user", "content": "x" * 5000}], "stream": stream})
    assert e["code"] == "context_length_exceeded" and e["param"] == "messages"
    assert "maximum context length is 2048 tokens" in e["message"]


OPTIONAL = ("temperature top_p max_tokens max_completion_tokens n stream stream_options stop frequency_penalty "
            "presence_penalty logit_bias logprobs top_logprobs seed response_format tools tool_choice "
            "parallel_tool_calls reasoning_effort user metadata store service_tier modalities audio prediction "
            "top_k min_p repetition_penalty stop_token_ids ignore_eos min_tokens cache_salt priority").split()


def test_50_nulls_are_absent(sim):
    sim.chat("hi", **{**dict.fromkeys(OPTIONAL), "max_tokens": 4})


def test_51_unknown_field(sim):
    sim.chat("hi", foo=1, max_tokens=2)


def test_52_empty_tools(sim):
    sim.chat("hi", tools=[], max_tokens=2)


def test_53_max_tokens_is_clamped(sim):
    r = sim.chat("hi", max_tokens=1000000, ignore_eos=True)
    assert r["choices"][0]["finish_reason"] == "length" and r["usage"]["total_tokens"] == 2048


# ---------------------------------------------------------------- not streamed

def test_54_object_shape(llm):
    r = llm.chat("Hi!", max_tokens=8)
    assert r["id"].startswith("chatcmpl-") and len(r["id"]) >= 33 and r["object"] == "chat.completion"
    assert isinstance(r["created"], int) and r["model"] == "m" and r["system_fingerprint"].startswith("fp_")
    c = r["choices"][0]
    assert c["index"] == 0 and c["message"]["role"] == "assistant" and c["message"]["refusal"] is None
    assert c["logprobs"] is None and c["finish_reason"] in ("stop", "length")
    u = r["usage"]
    assert u["total_tokens"] == u["prompt_tokens"] + u["completion_tokens"]
    assert u["prompt_tokens_details"]["cached_tokens"] >= 0 and u["completion_tokens_details"]["reasoning_tokens"] == 0
    assert "tool_calls" not in c["message"] and "error" not in r


def test_55_one_token(llm):
    r = llm.chat("Count to ten.", max_tokens=1)
    assert r["choices"][0]["finish_reason"] == "length" and r["usage"]["completion_tokens"] == 1


def test_56_max_completion_tokens_wins(llm):
    assert llm.chat("Count to ten.", max_tokens=9, max_completion_tokens=3)["usage"]["completion_tokens"] == 3


def test_57_stop_strings(llm):
    full = llm.complete(PARIS, temperature=0, max_tokens=24)["choices"][0]["text"]
    for a, b in ((4, 9), (6, 14), (1, 3)):
        stop = full[a:b]  # cuts across tokens
        c = llm.complete(PARIS, temperature=0, max_tokens=24, stop=["never seen", stop])["choices"][0]
        assert c["text"] == full[:full.index(stop)] and c["finish_reason"] == "stop" and c["stop_reason"] == stop
    two = [full[10:13], full[3:6]]
    c = llm.complete(PARIS, temperature=0, max_tokens=24, stop=two)["choices"][0]
    assert c["text"] == full[:min(full.index(s) for s in two)]


def test_58_greedy_twice(llm):
    a, b = (llm.chat("Tell me a story.", temperature=0, max_tokens=40) for _ in range(2))
    assert a["choices"] == b["choices"]


def test_59_seeds(llm):
    a, b, c = (llm.chat("Tell me a story.", temperature=1, seed=s, max_tokens=40)["choices"] for s in (7, 7, 8))
    assert a == b and a != c


def test_60_n_3(llm):
    one, three = (llm.chat("Say something.", temperature=1, seed=5, n=n, max_tokens=12) for n in (1, 3))
    assert [c["index"] for c in three["choices"]] == [0, 1, 2]
    assert one["usage"]["prompt_tokens"] == three["usage"]["prompt_tokens"]
    assert one["choices"][0] == three["choices"][0]
    assert len({c["message"]["content"] for c in three["choices"]}) == 3


def test_61_logprobs(llm):
    c = llm.chat("Name a colour.", temperature=0, max_tokens=10, logprobs=True, top_logprobs=5)["choices"][0]
    entries = c["logprobs"]["content"]
    for e in entries:
        assert e["logprob"] <= 0 and len(e["top_logprobs"]) == 5
        tops = [t["logprob"] for t in e["top_logprobs"]]
        assert tops == sorted(tops, reverse=True) and e["logprob"] == tops[0]
    assert bytes(b for e in entries for b in e["bytes"]).decode() == c["message"]["content"]


def test_62_logit_bias(llm):
    first = llm.complete(PARIS, temperature=0, max_tokens=1, logprobs=0, return_token_ids=True)
    token = first["choices"][0]["token_ids"][0]
    banned = llm.complete(PARIS, temperature=0, max_tokens=1, logit_bias={str(token): -100})
    assert banned["choices"][0]["text"] != first["choices"][0]["text"]
    forced = llm.complete("One two", temperature=0, max_tokens=3, logit_bias={str(token): 100}, return_token_ids=True)
    assert forced["choices"][0]["token_ids"] == [token] * 3


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "Hi"}]


def test_63_system_and_developer(llm):
    text = llm.ok("/apply-template", {"model": "m", "messages": MESSAGES})["prompt"]
    assert "<|im_start|>system\nBe brief." in text and "<|im_start|>system\nBe kind." in text
    assert llm.chat(MESSAGES, max_tokens=4)["usage"]["prompt_tokens"] > 10


def test_64_text_parts(llm):
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello"}]
    a = llm.chat([{"role": "user", "content": parts}], temperature=0, max_tokens=8)
    b = llm.chat("Say\nhello", temperature=0, max_tokens=8)
    assert a["choices"] == b["choices"] and a["usage"]["prompt_tokens"] == b["usage"]["prompt_tokens"]


def test_65_tool_history(llm):
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}
    llm.chat([{"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": [call]},
              {"role": "tool", "tool_call_id": "call_1", "content": "2"}], max_tokens=4)


def test_66_emoji_and_cjk(llm):
    c = llm.chat("Repeat exactly: 你好 😀 café", temperature=0, max_tokens=24)["choices"][0]["message"]["content"]
    assert "\ufffd" not in c


def test_67_cached_tokens(llm):
    body = dict(temperature=0, max_tokens=8)
    prompt = "An entirely new and rather long prompt, so that it fills more than one page of the cache: " * 3
    a, b = llm.chat(prompt, **body), llm.chat(prompt, **body)
    assert a["choices"] == b["choices"]
    assert b["usage"]["prompt_tokens_details"]["cached_tokens"] >= 32


def test_68_ignore_eos(llm):
    assert llm.chat("Say hi.", ignore_eos=True, max_tokens=50)["usage"]["completion_tokens"] == 50


def test_69_min_tokens(llm):
    r = llm.chat("Answer with one word: yes or no?", min_tokens=20, max_tokens=30, temperature=0)
    assert r["usage"]["completion_tokens"] >= 20


def test_70_stop_token_ids(llm):
    ids = llm.complete(PARIS, temperature=0, max_tokens=6, return_token_ids=True)["choices"][0]["token_ids"]
    c = llm.complete(PARIS, temperature=0, max_tokens=6, stop_token_ids=[ids[2]], return_token_ids=True)["choices"][0]
    assert c["finish_reason"] == "stop" and c["stop_reason"] == ids[2] and len(c["token_ids"]) == 3


def test_71_continue_final_message(llm):
    messages = [{"role": "user", "content": "What is the capital of France?"},
                {"role": "assistant", "content": "The capital of France is"}]
    r = llm.chat(messages, temperature=0, max_tokens=6, continue_final_message=True, add_generation_prompt=False)
    assert "Paris" in r["choices"][0]["message"]["content"] and "capital" not in r["choices"][0]["message"]["content"]


def test_72_openai_python(llm):
    r = client(llm).chat.completions.create(model="m", messages=USER, max_tokens=8)
    assert r.choices[0].message.content and r._request_id.startswith("req_")


# ---------------------------------------------------------------- streamed

@pytest.fixture(scope="module")
def joke(llm):
    """The chunks of one streamed answer, and of one with two choices."""
    fields = dict(max_tokens=16, temperature=0, logprobs=True)
    return llm.stream_chat("Tell me a joke.", **fields), llm.stream_chat("Tell me a joke.", n=2, **fields)


def test_73_role_chunk(joke):
    first = joke[0][0]["choices"][0]
    assert first["delta"] == {"role": "assistant", "content": ""} and first["logprobs"] is None
    assert all("role" not in c["delta"] for e in joke[0][1:] for c in e["choices"])


def test_74_finish_chunk(joke):
    for events, n in zip(joke, (1, 2)):
        ends = [c for e in events for c in e["choices"] if c["finish_reason"]]
        assert sorted(c["index"] for c in ends) == list(range(n)) and all(c["delta"] == {} for c in ends)
        for end in ends:  # and nothing of that choice behind it
            assert [c for e in events for c in e["choices"] if c["index"] == end["index"]][-1] == end


def test_75_chunks_share(joke):
    for events in joke:
        for key in ("id", "created", "model", "object"):
            assert len({e[key] for e in events}) == 1
        assert events[0]["object"] == "chat.completion.chunk" and isinstance(events[0]["created"], int)


def test_76_no_error_key(joke):
    assert not any("error" in x for events in joke for e in events for x in (e, *e["choices"]))


def test_77_include_usage(llm):
    events = llm.stream_chat("Hi", max_tokens=5, stream_options={"include_usage": True})
    assert events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] <= 5
    assert all(e.get("usage") is None for e in events[:-1])


def test_78_no_usage_chunk(llm):
    assert all(e["choices"] for e in llm.stream_chat("Hi", max_tokens=5))


PROMPTS = ["The capital of France is", "Write a haiku with emoji 🌸", "List 3 fruits."]


@pytest.fixture(scope="module", params=PROMPTS)
def whole_and_stream(llm, request):
    fields = dict(temperature=0, max_tokens=48)
    return llm.chat(request.param, **fields), \
        llm.stream_chat(request.param, stream_options={"include_usage": True}, **fields)


def test_79_streamed_text(whole_and_stream):
    whole, events = whole_and_stream
    assert text_of(events) == whole["choices"][0]["message"]["content"]


def test_80_streamed_usage(whole_and_stream):
    whole, events = whole_and_stream
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert events[-1]["usage"][key] == whole["usage"][key] > 0


def test_81_n_2(llm):
    events = llm.stream_chat("Say something.", n=2, seed=1, max_tokens=10)
    assert [e["choices"][0]["index"] for e in events[:2]] == [0, 1]
    assert sorted(c["index"] for e in events for c in e["choices"] if c["finish_reason"]) == [0, 1]
    # the SDK's helper raises where an answer was cut: this question's answer ends by itself
    ask = [{"role": "user", "content": "Name the capital of France."}]
    with client(llm).chat.completions.stream(model="m", messages=ask, n=2, temperature=0, max_tokens=32) as s:
        assert len(s.get_final_completion().choices) == 2


def test_82_stream_logprobs(llm):
    fields = dict(temperature=0, max_tokens=20, logprobs=True, top_logprobs=2)
    whole = llm.chat("Name colours 🎨", **fields)["choices"][0]["logprobs"]["content"]
    events = llm.stream_chat("Name colours 🎨", **fields)
    parts = [x for e in events for c in e["choices"] if c["logprobs"] for x in c["logprobs"]["content"]]
    assert parts == whole
    assert all(c["logprobs"] is None for e in events for c in e["choices"] if c["finish_reason"] or "role" in c["delta"])


def test_83_characters_are_whole(sim):
    """The sim device's bytes are random: every event must still be valid UTF-8 on its own."""
    for seed in range(10):
        sim.stream_chat("bytes", temperature=1, seed=seed, max_tokens=60, allowed_token_ids=list(range(120, 256)),
                        ignore_eos=True)


def test_84_stop_never_leaks(llm):
    """While the text grows towards a stop string, no part of it may be sent."""
    full = llm.complete(PARIS, temperature=0, max_tokens=24)["choices"][0]["text"]
    stop = full[8:16]
    events = llm.stream("/v1/completions", dict(prompt=PARIS, temperature=0, max_tokens=24, stop=stop))
    assert "".join(e["choices"][0]["text"] for e in events) == full[:8]


# ---------------------------------------------------------------- the answer itself

def test_paris(llm):
    """The quick start's own line, and the same text streamed, and through a client library."""
    printed = subprocess.run(llm.try_line(), shell=True, capture_output=True, check=True)
    whole = json.loads(printed.stdout)["choices"][0]["text"]
    fields = dict(prompt=PARIS, temperature=0, stop="\n")
    events = llm.stream("/v1/completions", fields)
    assert whole == " Paris." and "".join(e["choices"][0]["text"] for e in events) == whole
    chunks = client(llm).completions.create(model="m", **fields, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == whole
