"""POST /v1/responses and the routes beside it, on the sim device and through openai-python and the Agents SDK.

Numbers are those of the wire specification: 109 to 115. Beyond the list: items, kept responses and their isolation,
truncation, errors by field, cancel on disconnect."""
import json, time

import openai
import pytest

from harness import MODEL, REPLAY_FLAGS, THINK_SAY_CALL, Server, error_of, replay

URL = "/v1/responses"
KEYS = {"id", "object", "created_at", "completed_at", "status", "error", "incomplete_details", "instructions",
        "max_output_tokens", "model", "output", "parallel_tool_calls", "previous_response_id", "reasoning", "store",
        "temperature", "text", "tool_choice", "tools", "top_p", "truncation", "service_tier", "usage", "user",
        "metadata"}
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def server():
    with Server() as s:
        yield s


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=60)


def events(server, **body):
    """(name, data) of each event; checks the framing, the numbering and that there is no [DONE]."""
    r = server.post(URL, {"input": "hello", "max_output_tokens": 8, **body, "stream": True})
    assert r.status == 200, r.body
    assert r.getheader("Content-Type").startswith("text/event-stream")
    blocks = r.body.decode().split("\n\n")
    assert blocks.pop() == ""
    out = []
    for i, block in enumerate(blocks):
        name, data = [l for l in block.split("\n") if not l.startswith(":")]
        assert name.startswith("event: ") and data.startswith("data: ")
        event = json.loads(data[6:])
        assert event["type"] == name[7:] and event["sequence_number"] == i
        out.append(event)
    return out


# ---------------------------------------------------------------- 109 to 114
def test_109_string_input(server):
    r = server.ok(URL, {"model": "m", "input": "hello", "max_output_tokens": 9, "ignore_eos": True})
    assert KEYS <= set(r) and r["object"] == "response" and r["id"].startswith("resp_")
    (item,) = r["output"]
    assert item["type"] == "message" and item["role"] == "assistant" and item["id"].startswith("msg_")
    (part,) = item["content"]
    assert part["type"] == "output_text" and part["annotations"] == [] and part["text"]
    u = r["usage"]
    assert u["input_tokens"] + u["output_tokens"] == u["total_tokens"] and u["output_tokens"] == 9
    assert u["input_tokens_details"].keys() >= {"cached_tokens"} and u["output_tokens_details"]["reasoning_tokens"] == 0
    assert r["error"] is None and r["tools"] == [] and r["tool_choice"] == "auto" and r["metadata"] == {}


def test_110_stream(server, client):
    got = events(server, temperature=0)
    assert [e["type"] for e in got[:4]] == ["response.created", "response.in_progress", "response.output_item.added",
                                            "response.content_part.added"]
    assert got[0]["response"]["output"] == [] and got[0]["response"]["status"] == "in_progress"
    deltas = [e for e in got if e["type"] == "response.output_text.delta"]
    assert all(e["output_index"] == 0 and e["content_index"] == 0 and e["logprobs"] == [] for e in deltas)
    text = "".join(e["delta"] for e in deltas)
    done, part, item, last = got[-4:]
    assert [e["type"] for e in got[-4:-1]] == ["response.output_text.done", "response.content_part.done",
                                               "response.output_item.done"]
    assert done["text"] == part["part"]["text"] == item["item"]["content"][0]["text"] == text
    assert {e["item_id"] for e in deltas} == {done["item_id"], item["item"]["id"]}
    assert last["type"] in ("response.completed", "response.incomplete")
    assert last["response"]["output"] == [item["item"]] and last["response"]["usage"]["output_tokens"] > 0
    assert len([e for e in got if e["type"] in ("response.completed", "response.incomplete", "response.failed")]) == 1
    whole = server.ok(URL, {"input": "hello", "max_output_tokens": 8, "temperature": 0})
    assert whole["output"][0]["content"] == last["response"]["output"][0]["content"]
    with client.responses.stream(model="m", input="hello", temperature=0) as stream:
        said = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == said != ""


def test_111_function_items(server):
    """The history of a call reaches the template; ids are kept where they were given."""
    items = [{"role": "user", "content": "weather?"},
             {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
             {"type": "function_call", "call_id": "call_7", "name": "weather", "arguments": "{}"},
             {"type": "function_call_output", "call_id": "call_7", "output": [{"type": "input_text", "text": "sun"}]}]
    r = server.ok(URL, {"input": items, "tools": [TOOL], "max_output_tokens": 4})
    assert r["tools"] == [TOOL] and r["parallel_tool_calls"] is True
    kept = json.loads(server.get(f"{URL}/{r['id']}/input_items?order=asc").body)["data"]
    assert [i["type"] for i in kept] == ["message", "reasoning", "function_call", "function_call_output"]
    assert kept[2]["call_id"] == kept[3]["call_id"] == "call_7" and kept[1]["id"] == "rs_1"


def test_112_parse(server, client):
    """openai-python's parse on the sim device, which writes anything that the schema allows."""
    from pydantic import BaseModel

    class Place(BaseModel):
        name: str
        floors: int
        tags: list[bool]

    r = client.responses.parse(model="m", input="a place", text_format=Place, temperature=0, max_output_tokens=2000)
    assert r.status == "completed" and isinstance(r.output_parsed, Place)
    assert r.text.format.type == "json_schema" and r.text.format.name == "Place"
    with client.responses.stream(model="m", input="a place", text_format=Place, temperature=0,
                                 max_output_tokens=2000) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed == r.output_parsed
    any_object = server.ok(URL, {"input": "x", "text": {"format": {"type": "json_object"}}, "max_output_tokens": 3000})
    if any_object["status"] == "completed":
        assert isinstance(json.loads(any_object["output"][0]["content"][0]["text"]), dict)
    e = server.error(URL, {"input": "x", "text": {"format": {"type": "json_schema", "name": "n",
                                                            "schema": {"type": "hiccup"}}}})
    assert e["param"].startswith("text.format") and e["code"] == "invalid_json_schema"


def test_113_incomplete(server):
    r = server.ok(URL, {"input": "hello", "max_output_tokens": 1})
    assert r["status"] == "incomplete" and r["incomplete_details"] == {"reason": "max_output_tokens"}
    assert r["output"][0]["status"] == "incomplete" and r["completed_at"] is None
    assert events(server, max_output_tokens=1)[-1]["type"] == "response.incomplete"


def test_114_previous_without_store(start):
    s = start("--max-stored-responses", "0")
    e = s.error(URL, {"input": "hi", "previous_response_id": "resp_1"})
    assert e["param"] == "previous_response_id" and e["code"] == "unsupported_parameter"
    r = s.ok(URL, {"input": "hi", "max_output_tokens": 1})
    assert r["store"] is False and s.get(f"{URL}/{r['id']}").status == 404


# ---------------------------------------------------------------- calls and thinking
CITY = {**TOOL, "strict": False, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture(scope="module")
def agent_server():
    with Server(*REPLAY_FLAGS) as s:
        yield s


def test_111_round_trip(agent_server):
    """openai-python: thinking, text and two calls; their results go back, and the answer comes."""
    c = openai.OpenAI(base_url=agent_server.base_url, api_key="none", max_retries=0, timeout=60)
    first = c.responses.create(model="m", input=replay(THINK_SAY_CALL), tools=[CITY])
    assert [o.type for o in first.output] == ["reasoning", "message", "function_call", "function_call"]
    thought, said, call, empty = first.output
    assert thought.content[0].text == "hm" and said.content[0].text == "I look." and first.status == "completed"
    assert call.name == "weather" and json.loads(call.arguments) == {"city": "Rome"} and call.call_id != empty.call_id
    assert json.loads(empty.arguments) == {} and first.usage.output_tokens_details.reasoning_tokens > 0
    results = [{"type": "function_call_output", "call_id": o.call_id, "output": replay("Sun.")} for o in (call, empty)]
    kept = c.responses.create(model="m", input=results, previous_response_id=first.id, tools=[CITY])
    items = [{"role": "user", "content": replay(THINK_SAY_CALL)}, *[o.to_dict() for o in first.output], *results]
    sent = c.responses.create(model="m", input=items, tools=[CITY])
    assert kept.output_text == sent.output_text == "Sun."
    assert kept.usage.input_tokens == sent.usage.input_tokens


def test_calls_in_a_stream(agent_server):
    got = events(agent_server, input=replay(THINK_SAY_CALL), tools=[CITY], max_output_tokens=500)
    added = [e["item"]["type"] for e in got if e["type"] == "response.output_item.added"]
    assert added == ["reasoning", "message", "function_call", "function_call"]
    names = [e["type"] for e in got if e.get("output_index") == 2]
    assert names[0] == "response.output_item.added" and names[-2:] == ["response.function_call_arguments.done",
                                                                       "response.output_item.done"]
    assert set(names[1:-2]) == {"response.function_call_arguments.delta"}
    deltas = "".join(e["delta"] for e in got if e["type"] == "response.function_call_arguments.delta"
                     and e["output_index"] == 2)
    done = [e for e in got if e["type"] == "response.function_call_arguments.done"]
    assert deltas == done[0]["arguments"] and done[0]["name"] == "weather"
    last = got[-1]["response"]
    whole = agent_server.ok(URL, {"input": replay(THINK_SAY_CALL), "tools": [CITY], "max_output_tokens": 500})
    plain = lambda r: [{k: v for k, v in o.items() if k not in ("id", "call_id")} for o in r["output"]]
    assert plain(last) == plain(whole) and last["status"] == "completed"
    assert last["output"] == [e["item"] for e in got if e["type"] == "response.output_item.done"]


def test_reasoning_summary(agent_server):
    """Where a summary is asked for, the thinking comes as one: AI SDK shows no other."""
    got = events(agent_server, input=replay(THINK_SAY_CALL), reasoning={"summary": "auto"}, max_output_tokens=500)
    names = [e["type"] for e in got if e.get("output_index") == 0]
    assert [n for i, n in enumerate(names) if n != names[i - 1] or i == 0] == [
        "response.output_item.added", "response.reasoning_summary_part.added", "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done", "response.reasoning_summary_part.done", "response.output_item.done"]
    item = got[-1]["response"]["output"][0]
    assert item["type"] == "reasoning" and item["summary"] == [{"type": "summary_text", "text": "hm"}]


def test_cut_call_is_incomplete(agent_server):
    r = agent_server.ok(URL, {"input": replay(THINK_SAY_CALL), "tools": [CITY], "max_output_tokens": 80})
    assert r["status"] == "incomplete" and r["output"][-1]["status"] == "incomplete"
    assert [o["status"] for o in r["output"][:-1]] == ["completed"] * (len(r["output"]) - 1)


def test_115_agents_sdk(agent_server):
    """The OpenAI Agents SDK runs one tool and answers, streamed and whole."""
    import asyncio

    from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
    set_tracing_disabled(True)
    asked = []

    @function_tool
    def weather(city: str) -> str:
        asked.append(city)
        return replay("It is sunny.")

    client = openai.AsyncOpenAI(base_url=agent_server.base_url, api_key="none", max_retries=0)
    agent = Agent(name="a", instructions="Help.", tools=[weather], model_settings=ModelSettings(temperature=0),
                  model=OpenAIResponsesModel(model="m", openai_client=client))
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'

    async def run():
        whole = await Runner.run(agent, replay(call))
        streamed = Runner.run_streamed(agent, replay(call))
        async for _ in streamed.stream_events():
            pass
        return whole.final_output, streamed.final_output

    assert asyncio.run(run()) == ("It is sunny.", "It is sunny.") and asked == ["Rome", "Rome"]


# ---------------------------------------------------------------- kept responses
def test_kept(server, client):
    first = client.responses.create(model="m", input="one", instructions="be brief", max_output_tokens=5,
                                    metadata={"a": "b"})
    assert client.responses.retrieve(first.id) == first and first.store is True
    second = client.responses.create(model="m", input="two", previous_response_id=first.id, max_output_tokens=5)
    assert second.previous_response_id == first.id and second.instructions is None
    items = client.responses.input_items.list(second.id, order="asc").data
    assert [i.role for i in items] == ["user", "assistant", "user"]
    assert items[0].content[0].text == "one" and items[1].id == first.output[0].id
    newest = list(client.responses.input_items.list(second.id, limit=1))
    assert [i.id for i in newest] == [i.id for i in reversed(items)]
    assert client.responses.create(model="m", previous_response_id=second.id, max_output_tokens=5).output
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    third = client.responses.create(model="m", input="three", previous_response_id=second.id, max_output_tokens=5)
    assert len(client.responses.input_items.list(third.id).data) == 5
    with pytest.raises(openai.NotFoundError) as e:
        client.responses.create(model="m", input="x", previous_response_id=first.id)
    assert e.value.code == "previous_response_not_found"


def test_same_prompt_as_the_whole_conversation(server):
    """previous_response_id gives the prompt that sending all items again would give."""
    first = server.ok(URL, {"input": "one", "max_output_tokens": 5, "temperature": 0})
    said = first["output"][0]
    joined = server.ok(URL, {"input": "two", "previous_response_id": first["id"], "instructions": "x",
                             "max_output_tokens": 20, "temperature": 0})
    items = [{"role": "user", "content": "one"}, said, {"role": "user", "content": "two"}]
    whole = server.ok(URL, {"input": items, "instructions": "x", "max_output_tokens": 20, "temperature": 0})
    assert joined["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert joined["output"][0]["content"] == whole["output"][0]["content"]


def test_store_false_and_stream(server):
    r = server.ok(URL, {"input": "hi", "store": False, "max_output_tokens": 2})
    assert r["store"] is False and server.get(f"{URL}/{r['id']}").status == 404
    last = events(server)[-1]["response"]
    kept = json.loads(server.get(f"{URL}/{last['id']}").body)
    assert {**kept, "completed_at": 0} == {**last, "completed_at": 0}


def test_isolated_by_key(start):
    s = start("--api-key", "one", "--api-key", "two")
    one, two = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    r = json.loads(s.post(URL, {"input": "hi", "max_output_tokens": 2}, headers=one).body)
    path = f"{URL}/{r['id']}"
    assert s.get(path, headers=one).status == 200
    assert s.get(path, headers=two).status == 404 and s.get(path).status == 401
    assert s.get(path + "/input_items", headers=two).status == 404
    assert s.request("DELETE", path, headers=two).status == 404
    stolen = {"input": "hi", "previous_response_id": r["id"]}
    assert s.post(URL, stolen, headers=two).status == 404 and s.post(URL, stolen, headers=one).status == 200
    assert s.request("DELETE", path, headers=one).status == 200 and s.get(path, headers=one).status == 404


def test_bounded(start):
    s = start("--max-stored-responses", "3", "--stored-responses-ttl", "3")
    ids = [s.ok(URL, {"input": "hi", "max_output_tokens": 2})["id"] for _ in range(3)]
    assert s.get(f"{URL}/{ids[0]}").status == 200  # used: the second goes first now
    ids.append(s.ok(URL, {"input": "hi", "max_output_tokens": 2})["id"])
    assert [s.get(f"{URL}/{i}").status for i in ids] == [200, 404, 200, 200]
    m = s.metrics()
    assert m["sluice:stored_responses"] == 3 and 1000 < m["sluice:stored_responses_bytes"] < 10000
    time.sleep(5)
    assert [s.get(f"{URL}/{i}").status for i in ids] == [404] * 4 and s.metrics()["sluice:stored_responses"] == 0


def test_routes(server):
    r = server.ok(URL, {"input": "hi", "max_output_tokens": 2})
    path = f"{URL}/{r['id']}"
    assert "synchronous" in error_of(server.post(path + "/cancel", {}))["message"]
    assert server.post(URL + "/resp_nope/cancel", {}).status == 404
    assert server.get(path + "/nope").status == 404 and server.get(path + "?stream=true").status == 400
    assert server.get(path + "/input_items?limit=0").status == 400
    put = server.request("PUT", path)
    assert put.status == 405 and put.getheader("Allow") == "GET, HEAD, POST, DELETE, OPTIONS"
    counted = server.ok(URL + "/input_tokens", {"input": "hi"})
    assert counted == {"object": "response.input_tokens", "input_tokens": r["usage"]["input_tokens"]}


# ---------------------------------------------------------------- fields
REFUSED = [
    ({}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "empty_array"),
    ({"input": 5}, "input", "invalid_type"),
    ({"input": [5]}, "input[0]", "invalid_type"),
    ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type",
     "unsupported_value"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "unsupported_value"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id",
     "missing_required_parameter"),
    ({"input": "x", "max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
    ({"input": "x", "temperature": 3}, "temperature", "decimal_above_max_value"),
    ({"input": "x", "truncation": "some"}, "truncation", "invalid_value"),
    ({"input": "x", "background": True}, "background", "unsupported_parameter"),
    ({"input": "x", "conversation": "c"}, "conversation", "unsupported_parameter"),
    ({"input": "x", "prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
    ({"input": "x", "max_tool_calls": 1}, "max_tool_calls", "unsupported_parameter"),
    ({"input": "x", "tools": [{"type": "smell"}]}, "tools[0].type", "unsupported_value"),
    ({"input": "x", "tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "invalid_value"),
    ({"input": "x", "tool_choice": {"type": "web_search"}}, "tool_choice.type", "unsupported_value"),
    ({"input": "x", "tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "invalid_value"),
    ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format", "invalid_value"),
    ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.schema", "missing_required_parameter"),
    ({"input": "x", "reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
    ({"input": "x", "metadata": 5}, "metadata", "invalid_type"),
    ({"input": "x", "include": "all"}, "include", "invalid_type"),
    ({"input": "x", "previous_response_id": 5}, "previous_response_id", "invalid_type"),
    ({"input": "x" * 9000}, "input", "context_length_exceeded"),
]


@pytest.mark.parametrize("body,param,code", REFUSED, ids=[str(i) for i in range(len(REFUSED))])
@pytest.mark.parametrize("stream", [False, True])
def test_refused(server, body, param, code, stream):
    e = server.error(URL, {**body, "stream": stream})
    assert (e["param"], e["code"]) == (param, code), e


def test_nulls_and_unknown_fields(server):
    names = ["instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning", "include", "metadata",
             "store", "previous_response_id", "truncation", "user", "temperature", "top_p", "background", "prompt",
             "conversation", "max_tool_calls", "stream", "parallel_tool_calls", "service_tier", "top_logprobs"]
    r = server.ok(URL, {"input": "hi", "max_output_tokens": 2, "foo": 1, **{n: None for n in names[:1] + names[2:]}})
    assert r["status"] in ("completed", "incomplete")


def test_hosted_tools_are_left_out(server):
    r = server.ok(URL, {"input": "hi", "max_output_tokens": 2, "tools": [{"type": "web_search"}, TOOL,
                                                                       {"type": "custom", "name": "patch"}]})
    assert r["tools"] == [TOOL]


def test_logprobs(server):
    include = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "temperature": 0}
    r = server.ok(URL, {"input": "hello", "max_output_tokens": 8, **include})
    part = r["output"][0]["content"][0]
    assert "".join(l["token"] for l in part["logprobs"]) == part["text"]
    assert all(len(l["top_logprobs"]) == 2 for l in part["logprobs"]) and r["top_logprobs"] == 2
    got = events(server, **include)
    streamed = [l for e in got if e["type"] == "response.output_text.delta" for l in e["logprobs"]]
    assert streamed == part["logprobs"] == got[-1]["response"]["output"][0]["content"][0]["logprobs"]


def test_truncation_auto(start):
    s = start("--max-model-len", "200")
    items = []
    for i in range(40):
        items += [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}]
    body = {"input": items + [{"role": "user", "content": "last"}], "instructions": "tone", "max_output_tokens": 16}
    assert s.error(URL, body)["code"] == "context_length_exceeded"
    r = s.ok(URL, {**body, "truncation": "auto"})
    assert r["truncation"] == "auto" and 150 < r["usage"]["input_tokens"] <= 184
    e = s.error(URL, {"input": "x" * 500, "truncation": "auto"})
    assert e["code"] == "context_length_exceeded"


def test_cancel_on_disconnect(start):
    s = start("--sim-step-us", "20000")
    body = json.dumps({"input": "hi", "ignore_eos": True, "stream": True, "max_output_tokens": 4000}).encode()
    running = 'vllm:num_requests_running'
    with s.socket() as c:
        c.sendall(b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert b" 200 OK" in c.recv(65536)
        s.wait_metric(running, 1, 5)
    assert s.wait_metric(running, 0, 1) < 1


def test_failure_in_the_stream(start):
    s = start("--sim-fail-step", "4")
    got = events(s, ignore_eos=True, max_output_tokens=100)
    assert got[-1]["type"] == "response.failed" and got[-1]["response"]["error"]["code"] == "server_error"
    assert s.stop() == 70


# ---------------------------------------------------------------- a real model
@pytest.fixture(scope="module")
def real():
    with Server(model=MODEL) as s:
        yield s


def test_openai_python(real):
    c = openai.OpenAI(base_url=real.base_url, api_key="none", max_retries=0, timeout=60)
    r = c.responses.create(model="m", input="Name the capital of France.", temperature=0, max_output_tokens=32)
    assert "Paris" in r.output_text and r.status == "completed" and r.completed_at
    with c.responses.stream(model="m", input="Name the capital of France.", temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == r.output_text
    again = c.responses.create(model="m", input="And of Italy?", previous_response_id=r.id, temperature=0,
                               max_output_tokens=32)
    assert again.usage.input_tokens_details.cached_tokens > 0
