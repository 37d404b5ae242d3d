"""POST /v1/messages and /v1/messages/count_tokens (Anthropic's format), by hand and through the anthropic SDK.

The wire specification has these in section 7.5, without numbers of their own."""
import json, os

import anthropic
import pytest

from harness import MODEL, REPLAY_FLAGS, ROOT, THINK_SAY_CALL, Server, replay

URL = "/v1/messages"
TOOL = {"name": "weather", "description": "of a city", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def server():
    with Server() as s:
        yield s


def body(content="hello", **fields):
    messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
    return {"model": "m", "max_tokens": 8, "messages": messages, **fields}


def events(server, **fields):
    """The events; checks the framing, and that no [DONE] is sent."""
    r = server.post(URL, body(**{**fields, "stream": True}))
    assert r.status == 200, r.body
    assert r.getheader("Content-Type").startswith("text/event-stream")
    blocks = r.body.decode().split("\n\n")
    assert blocks.pop() == ""
    out = []
    for block in blocks:
        name, data = [l for l in block.split("\n") if not l.startswith(":")]
        assert name.startswith("event: ") and data.startswith("data: ")
        out.append(json.loads(data[6:]))
        assert out[-1]["type"] == name[7:]
    return out


def fails(server, request, status, kind, path=URL, **kw):
    r = server.post(path, request, **kw)
    e = json.loads(r.body)
    assert r.status == status and e["type"] == "error" and e["error"]["type"] == kind, (r.status, r.body)
    assert r.getheader("x-request-id")
    return e["error"]["message"]


# ---------------------------------------------------------------- shapes
def test_message(server):
    r = server.ok(URL, body(ignore_eos=True))
    assert r["id"].startswith("msg_") and r["type"] == "message" and r["role"] == "assistant" and r["model"] == "m"
    (block,) = r["content"]
    assert block["type"] == "text" and block["text"]
    assert r["stop_reason"] == "max_tokens" and r["stop_sequence"] is None
    assert r["usage"]["output_tokens"] == 8 and r["usage"]["input_tokens"] > 0


def test_stream(server):
    got = events(server, temperature=0)
    assert [e["type"] for e in got[:2]] == ["message_start", "content_block_start"]
    start = got[0]["message"]
    assert start["content"] == [] and start["stop_reason"] is None and start["usage"]["input_tokens"] > 0
    assert got[1] == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert [e["type"] for e in got[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    deltas = got[2:-3]
    assert {e["type"] for e in deltas} == {"content_block_delta"} and {e["index"] for e in deltas} == {0}
    assert {e["delta"]["type"] for e in deltas} == {"text_delta"}
    whole = server.ok(URL, body(temperature=0))
    assert "".join(e["delta"]["text"] for e in deltas) == whole["content"][0]["text"]
    assert got[-2]["delta"]["stop_reason"] == whole["stop_reason"]
    assert got[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_stop_sequences(server):
    whole = server.ok(URL, body(temperature=0, max_tokens=200, ignore_eos=True))["content"][0]["text"]
    stop = whole[40:44]
    r = server.ok(URL, body(temperature=0, max_tokens=200, ignore_eos=True, stop_sequences=[stop, "never there"]))
    assert r["stop_reason"] == "stop_sequence" and r["stop_sequence"] == stop
    assert r["content"][0]["text"] == whole[: whole.index(stop)]
    last = events(server, temperature=0, max_tokens=200, ignore_eos=True, stop_sequences=[stop])[-2]
    assert last["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": stop}


def test_end_turn():
    with Server(model=MODEL) as s:
        r = s.ok(URL, body("Name the capital of France.", max_tokens=32, temperature=0))
        assert "Paris" in r["content"][0]["text"] and r["stop_reason"] == "end_turn"
        again = s.ok(URL, body("Name the capital of France.", max_tokens=32, temperature=0))
        assert again["content"] == r["content"] and again["usage"]["cache_read_input_tokens"] > 0
        total = again["usage"]["input_tokens"] + again["usage"]["cache_read_input_tokens"]
        assert total == r["usage"]["input_tokens"] + r["usage"]["cache_read_input_tokens"]
        started = s.ok(URL, body([{"role": "user", "content": "Name the capital of France."},
                                  {"role": "assistant", "content": "The capital of France"}], temperature=0))
        assert "Paris" in started["content"][0]["text"] and "The capital" not in started["content"][0]["text"]


# ---------------------------------------------------------------- what goes in
HISTORY = [
    {"role": "user", "content": [{"type": "text", "text": "weather"}, {"type": "text", "text": "?"}]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
                                      {"type": "text", "text": "I look."},
                                      {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1",
                                  "content": [{"type": "text", "text": "sun"}]},
                                 {"type": "text", "text": "and tomorrow?"}]},
]


def test_the_same_prompt_as_a_chat(server):
    """System, blocks, tool calls and their results render as the chat messages that they mean."""
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "I look.", "reasoning_content": "hm",
             "tool_calls": [{"id": "toolu_1", "type": "function",
                             "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "sun"},
            {"role": "user", "content": "and tomorrow?"}]
    tools = [{"type": "function", "function": {"name": "weather", "description": "of a city",
                                               "parameters": TOOL["input_schema"]}}]
    system = [{"type": "text", "text": "be "}, {"type": "text", "text": "brief", "cache_control": {"type": "ephemeral"}}]
    request = body(HISTORY, system=system, tools=[TOOL], temperature=0, max_tokens=20)
    r = server.ok(URL, request)
    want = server.chat(chat, tools=tools, temperature=0, max_tokens=20)
    assert r["content"][0]["text"] == want["choices"][0]["message"]["content"]
    used = r["usage"]["input_tokens"] + r["usage"]["cache_read_input_tokens"]
    assert used == want["usage"]["prompt_tokens"]
    counted = server.ok(URL + "/count_tokens", {k: v for k, v in request.items() if k != "max_tokens"})
    assert counted == {"input_tokens": used}


REFUSED = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "role"),
    ({"messages": [{"role": "user"}]}, "content"),
    ({"messages": [{"role": "user", "content": []}]}, "content"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "text only"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}]}, "type"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
    ({"system": 5}, "system"),
    ({"stop_sequences": "x"}, "stop_sequences"),
    ({"temperature": 3}, "temperature"),
    ({"tools": [{"name": "f"}]}, "input_schema"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search"),
    ({"tool_choice": {"type": "maybe"}}, "maybe"),
    ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice"),
    ({"thinking": {"type": "deep"}}, "deep"),
    ({"thinking": {"type": "enabled", "budget_tokens": 8}}, "max_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": "many"}}, "thinking.budget_tokens"),
    ({"messages": [{"role": "user", "content": "x" * 9000}]}, "maximum context length"),
]


@pytest.mark.parametrize("fields,says", REFUSED, ids=[str(i) for i in range(len(REFUSED))])
@pytest.mark.parametrize("stream", [False, True])
def test_refused(server, fields, says, stream):
    assert says in fails(server, {**body(), **fields, "stream": stream}, 400, "invalid_request_error")


def test_errors_of_the_transport(start):
    s = start("--api-key", "k")
    fails(s, body(), 401, "authentication_error")
    fails(s, body(), 401, "authentication_error", headers={"x-api-key": "wrong"})
    key = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    fails(s, body(model="nope"), 404, "not_found_error", headers=key)
    fails(s, "{", 400, "invalid_request_error", headers=key)
    assert s.post(URL, body(model="sim"), headers=key).status == 200
    r = s.get(URL, headers=key)
    assert r.status == 405 and r.getheader("Allow") == "POST, OPTIONS"


def test_queue_full(start):
    s = start("--max-queue-size", "1", "--max-num-seqs", "1", "--sim-step-us", "100000")
    busy = [s.connect() for _ in range(2)]
    for c in busy:
        c.request("POST", URL, json.dumps(body(model="sim", stream=True, ignore_eos=True, max_tokens=1000)))
    for c in busy:
        assert c.getresponse().status == 200
    r = s.post(URL, body(model="sim"))
    assert r.status == 429 and json.loads(r.body)["error"]["type"] == "rate_limit_error" and r.getheader("Retry-After")
    for c in busy:
        c.close()


def test_failure_in_the_stream(start):
    s = start("--sim-fail-step", "4")
    got = events(s, model="sim", ignore_eos=True, max_tokens=100)
    assert got[-1]["type"] == "error" and got[-1]["error"]["type"] == "api_error" and got[-1]["error"]["message"]
    assert s.stop() == 70


# ---------------------------------------------------------------- calls and thinking
CITY = {**TOOL, "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture(scope="module")
def agent_server():
    with Server(*REPLAY_FLAGS) as s:
        yield s


def test_tool_use(agent_server):
    r = agent_server.ok(URL, body(replay(THINK_SAY_CALL), tools=[CITY], max_tokens=500))
    assert [b["type"] for b in r["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert r["content"][0]["thinking"] == "hm" and r["content"][1]["text"] == "I look."
    assert r["content"][2]["input"] == {"city": "Rome"} and r["content"][3]["input"] == {}
    assert r["stop_reason"] == "tool_use"
    got = events(agent_server, content=replay(THINK_SAY_CALL), tools=[CITY], max_tokens=500)
    starts = [e for e in got if e["type"] == "content_block_start"]
    assert [e["index"] for e in starts] == [0, 1, 2, 3] and starts[2]["content_block"]["input"] == {}
    parts = [e["delta"]["partial_json"] for e in got if e["type"] == "content_block_delta" and e["index"] == 2]
    assert json.loads("".join(parts)) == {"city": "Rome"}
    assert got[-2]["delta"]["stop_reason"] == "tool_use"
    off = agent_server.ok(URL, body(replay(THINK_SAY_CALL), tools=[CITY], max_tokens=500, thinking={"type": "disabled"}))
    assert [b["type"] for b in off["content"]] == ["text", "tool_use", "tool_use"]


def test_thinking_budget():
    """Thinking, here opened by the prompt, is closed when its budget is spent; the rest of the text is the answer."""
    letters = "abcdefghij" * 30
    flags = ("--sim-replay", "--max-model-len", "20000", "--chat-template", os.path.join(ROOT, "tests/data/tools/chat.jinja"))

    def ask(**fields):
        r = s.ok(URL, body(replay(letters), max_tokens=2000, **fields))
        return {b["type"]: b[b["type"]] for b in r["content"]}

    with Server(*flags) as s:
        got = ask(thinking={"type": "enabled", "budget_tokens": 20})
        assert got == {"thinking": letters[:20], "text": letters[20 + len("</think>"):]}
        for fields in ({"thinking": {"type": "enabled", "budget_tokens": 1999}}, {"thinking": {"type": "enabled"}},
                       {"thinking": {"type": "adaptive"}},
                       {"thinking": {"type": "enabled", "budget_tokens": 20}, "thinking_token_budget": -1}):
            assert ask(**fields) == {"thinking": letters}
        assert ask(thinking={"type": "disabled", "budget_tokens": 20}) == {"text": letters}


def test_cut_tool_use(agent_server):
    r = agent_server.ok(URL, body(replay(THINK_SAY_CALL), tools=[CITY], max_tokens=85))
    assert r["stop_reason"] == "max_tokens" and r["content"][-1]["type"] == "tool_use" and r["content"][-1]["input"] == {}


def test_sdk_tool_round_trip(agent_server):
    sdk = anthropic.Anthropic(base_url=agent_server.base_url[: -len("/v1")], api_key="k", max_retries=0, timeout=60)
    messages = [{"role": "user", "content": replay(THINK_SAY_CALL)}]
    with sdk.messages.stream(model="m", max_tokens=500, messages=messages, tools=[CITY]) as stream:
        first = stream.get_final_message()
    calls = [b for b in first.content if b.type == "tool_use"]
    assert [c.input for c in calls] == [{"city": "Rome"}, {}]
    results = [{"type": "tool_result", "tool_use_id": c.id, "content": replay("Sun.")} for c in calls]
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    last = sdk.messages.create(model="m", max_tokens=500, messages=messages, tools=[CITY])
    assert last.content[0].text == "Sun." and last.stop_reason == "end_turn"


# ---------------------------------------------------------------- the anthropic SDK
@pytest.fixture(scope="module")
def sdk():
    with Server("--api-key", "k", model=MODEL) as s:
        yield anthropic.Anthropic(base_url=s.base_url[: -len("/v1")], api_key="k", max_retries=0, timeout=60)


def test_sdk(sdk):
    kw = dict(model="m", max_tokens=32, extra_body={"temperature": 0}, messages=[{"role": "user", "content": "Name the capital of France."}])
    whole = sdk.messages.create(**kw)
    assert "Paris" in whole.content[0].text and whole.stop_reason == "end_turn"
    with sdk.messages.stream(**kw) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text and final.usage.output_tokens == whole.usage.output_tokens
    count = sdk.messages.count_tokens(model="m", messages=kw["messages"]).input_tokens
    assert count == whole.usage.input_tokens + whole.usage.cache_read_input_tokens


def test_sdk_errors(sdk):
    hi = [{"role": "user", "content": "hi"}]
    with pytest.raises(anthropic.BadRequestError) as e:
        sdk.messages.create(model="m", max_tokens=0, messages=hi)
    assert "max_tokens" in e.value.body["error"]["message"]
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.create(model="nope", max_tokens=5, messages=hi)
    with pytest.raises(anthropic.AuthenticationError):
        sdk.with_options(api_key="wrong").messages.create(model="m", max_tokens=5, messages=hi)
