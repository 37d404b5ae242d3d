"""Tools and thinking in chat completions: numbers 65, 87 to 95 and 101 of the wire specification, and what client
libraries do with them. (24 to 52, what is refused: test_chat.py; 96 to 100: test_structured.py.)

The sim device answers with the prompt's last text between U+0002 and U+0003 (--sim-replay): a test says in the user's
message what the model is to write, and a tool's result says what it is to write next. What each format of calls means
is held by tests/unit/test_answer_parse.c over tests/data/tools."""
import asyncio, glob, json, os

import openai
import pydantic
import pytest

from harness import CHAT, MODEL, ROOT, Server, chat

DATA = os.path.join(ROOT, "tests/data/tools")
FLAGS = ("--sim-replay", "--chat-template", os.path.join(DATA, "chat.jinja"), "--max-model-len", "20000")

WEATHER = {"type": "function", "function": {"name": "wx", "description": "Weather.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}}
NOOP = {"type": "function", "function": {"name": "noop"}}
TOOLS = [WEATHER, NOOP]
OSLO, ROME = {"city": "Oslo", "days": 3}, {"city": "Rome", "days": 1}


def say(text):
    """What the model is to answer."""
    return f"\x02{text}\x03"


def call(arguments, name="wx"):
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


def think(text, rest):
    return f"<think>\n{text}\n</think>\n\n{rest}"


@pytest.fixture(scope="module")
def server():
    with Server(*FLAGS) as s:
        yield s


@pytest.fixture()
def client(server):
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=30)


def body(text, **fields):
    return chat(say(text), **{"tools": TOOLS, "max_tokens": 2000, **fields})


def answer(server, text, **fields):
    return server.ok(CHAT, body(text, **fields))["choices"][0]


def deltas(server, text, **fields):
    """The deltas of a streamed answer, and its finish reason."""
    chunks = [c["choices"][0] for c in server.stream(CHAT, body(text, **fields))]
    assert [c["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 1) and chunks[-1]["delta"] == {}
    return [c["delta"] for c in chunks[:-1]], chunks[-1]["finish_reason"]


def gather(parts):
    """A message from its deltas, by the rules that clients hold a stream to."""
    m = {"content": "", "reasoning_content": "", "tool_calls": []}
    assert parts[0] == {"role": "assistant", "content": ""}
    for d in parts[1:]:
        assert len(d) == 1
        for key in ("content", "reasoning_content"):
            assert d.get(key) != ""
            m[key] += d.get(key, "")
        for t in d.get("tool_calls", []):
            if "id" in t:
                assert t["index"] == len(m["tool_calls"]) and t["type"] == "function"
                assert set(t) == {"index", "id", "type", "function"} and t["function"]["arguments"] == ""
                m["tool_calls"].append({"id": t["id"], "name": t["function"]["name"], "arguments": ""})
            else:
                assert set(t) == {"index", "function"} and set(t["function"]) == {"arguments"}
                assert t["index"] == len(m["tool_calls"]) - 1 and t["function"]["arguments"]
                m["tool_calls"][-1]["arguments"] += t["function"]["arguments"]
    return m


def calls_of(message):
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", [])]


# ---------------------------------------------------------------- whole answers
def test_a_call(server):
    c = answer(server, call(OSLO))
    assert c["finish_reason"] == "tool_calls" and c["message"]["content"] is None
    assert calls_of(c["message"]) == [("wx", OSLO)]
    assert [set(t) for t in c["message"]["tool_calls"]] == [{"id", "type", "function"}]
    assert c["message"]["tool_calls"][0]["id"].startswith("call_")


def test_89_none_keeps_the_text(server):
    c = answer(server, call(OSLO), tool_choice="none")
    assert c["message"]["content"] == call(OSLO) and "tool_calls" not in c["message"] and c["finish_reason"] == "stop"
    assert server.ok(CHAT, chat(say(call(OSLO)), max_tokens=500))["choices"][0]["message"]["content"] == call(OSLO)


def test_90_no_parallel_calls(server):
    text = "Both. " + call(OSLO) + call(ROME)
    assert calls_of(answer(server, text)["message"]) == [("wx", OSLO), ("wx", ROME)]
    r = server.ok(CHAT, body(text, parallel_tool_calls=False))
    assert calls_of(r["choices"][0]["message"]) == [("wx", OSLO)] and r["choices"][0]["finish_reason"] == "tool_calls"
    assert r["usage"]["completion_tokens"] < len(text) - len(call(ROME)) + 1  # ended, not only cut
    parts, finish = deltas(server, text, parallel_tool_calls=False)
    assert len(gather(parts)["tool_calls"]) == 1 and finish == "tool_calls"


def test_93_no_arguments(server):
    for text in (call({}, "noop"), '<tool_call>{"name": "noop"}</tool_call>'):
        assert answer(server, text)["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_94_no_key_without_a_call(server):
    m = answer(server, "Just text.")["message"]
    assert "tool_calls" not in m and m["content"] == "Just text." and "reasoning_content" not in m


def test_text_around_calls(server):
    m = answer(server, "\nFirst.\n\n" + call(OSLO) + "\nThen.\n")["message"]
    assert m["content"].strip() == "First.\n\n\nThen." and calls_of(m) == [("wx", OSLO)]


def test_what_is_no_call_is_content(server):
    for text in ("<tool_call> opens a call", '<tool_call>\n{"title": 1}\n</tool_call>', '<tool_call>\n{"name": "wx", "arg'):
        c = answer(server, text)
        assert c["message"]["content"] == text and c["finish_reason"] == "stop" and "tool_calls" not in c["message"]


def test_cut_in_arguments(server):
    text = call(OSLO)
    c = answer(server, text, max_tokens=text.index("slo"))
    assert c["finish_reason"] == "length"
    assert c["message"]["tool_calls"][0]["function"] == {"name": "wx", "arguments": '{"city": "O'}


def test_unknown_function_passes(server):
    assert calls_of(answer(server, call({"x": 1}, "other"))["message"]) == [("other", {"x": 1})]


def test_choices_have_their_own_ids(server):
    r = server.ok(CHAT, body(call(OSLO) + call(ROME), n=3))
    ids = [t["id"] for c in r["choices"] for t in c["message"]["tool_calls"]]
    assert len(set(ids)) == 6


def test_allowed_tools(server):
    def choice(mode, *names):
        return {"type": "allowed_tools", "allowed_tools": {
            "mode": mode, "tools": [{"type": "function", "function": {"name": n}} for n in names]}}
    prompt = server.ok("/apply-template", body("x", tool_choice=choice("auto", "noop")))["prompt"]
    assert '"noop"' in prompt and '"wx"' not in prompt
    assert calls_of(answer(server, call({}, "noop"), tool_choice=choice("auto", "noop"))["message"]) == [("noop", {})]
    assert server.error(CHAT, body("x", tool_choice=choice("auto", "nope")))["param"].startswith("tool_choice")
    assert server.error(CHAT, body("x", tool_choice=choice("sometimes", "noop")))["param"].startswith("tool_choice")


def test_bad_parser_names_are_refused_at_start():
    for flag in ("--tool-call-parser", "--reasoning-parser"):
        with pytest.raises(RuntimeError, match="one of .*"):
            Server(flag, "nope")


# ---------------------------------------------------------------- forced calls
CITY = {"type": "function", "function": {"name": "city", "parameters": {
    "type": "object", "properties": {"name": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["name", "days"], "additionalProperties": False}}}
EMPTY = {"type": "function", "function": {"name": "noop", "parameters": {
    "type": "object", "properties": {}, "additionalProperties": False}}}
NAMED = {"type": "function", "function": {"name": "city"}}


def check_city(name, arguments):
    if name == "noop":
        assert arguments == {}
        return
    assert name == "city" and set(arguments) == {"name", "days"}
    assert arguments["name"] in ("Oslo", "Rome") and 1 <= arguments["days"] <= 9


@pytest.fixture(scope="module", params=["template", "qwen3_coder", "mistral", "deepseek_v31", "none"])
def forcing(request):
    """Servers whose model writes calls in one way or another; the sim device draws among what is allowed."""
    flags = FLAGS[1:] if request.param == "template" else ("--tool-call-parser", request.param)
    with Server(*flags) as s:
        yield s


def test_87_required(forcing):
    for seed in range(8):
        kw = dict(tools=[CITY, EMPTY], tool_choice="required", max_tokens=1500, seed=seed)
        r = forcing.ok(CHAT, chat("?", **kw))["choices"][0]
        assert r["finish_reason"] == "tool_calls" and r["message"]["content"] is None
        assert len(r["message"]["tool_calls"]) >= 1
        for name, arguments in calls_of(r["message"]):
            check_city(name, arguments)
        m = gather([c["choices"][0]["delta"] for c in forcing.stream(CHAT, chat("?", **kw))][:-1])
        assert [c["arguments"] for c in m["tool_calls"]] == \
               [t["function"]["arguments"] for t in r["message"]["tool_calls"]]


def test_88_named(forcing):
    for seed in range(8):
        r = forcing.ok(CHAT, chat("?", tools=[CITY, EMPTY], tool_choice=NAMED, max_tokens=500, seed=seed))["choices"][0]
        [(name, arguments)] = calls_of(r["message"])
        assert name == "city" and r["finish_reason"] == "tool_calls"
        check_city(name, arguments)


def test_90_required_and_not_parallel(forcing):
    for seed in range(8):
        r = forcing.ok(CHAT, chat("?", tools=[CITY, EMPTY], tool_choice="required", parallel_tool_calls=False,
                                  max_tokens=500, seed=seed))["choices"][0]
        assert len(calls_of(r["message"])) == 1 and r["finish_reason"] == "tool_calls"


def test_forced_call_cut_by_length(server):
    r = answer(server, call({"name": "Oslo", "days": 3}, "city"), tools=[CITY], tool_choice="required", max_tokens=50)
    assert r["finish_reason"] == "length"


def test_forced_call_keeps_what_fits(server):
    """What the model would say anyway, if it is allowed, is what comes."""
    text = call({"name": "Oslo", "days": 3}, "city")
    assert calls_of(answer(server, text, tools=[CITY, EMPTY], tool_choice="required")["message"]) == \
           [("city", {"name": "Oslo", "days": 3})]


def test_forced_allowed_tools(server):
    choice = {"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "noop"}}]}}
    r = server.ok(CHAT, chat("?", tools=[CITY, EMPTY], tool_choice=choice, max_tokens=2000, parallel_tool_calls=False))
    assert calls_of(r["choices"][0]["message"]) == [("noop", {})]


def test_forced_call_after_thinking(server):
    text = "The user wants Oslo.\n</think>" + call({"name": "Oslo", "days": 3}, "city")
    m = answer(server, text, tools=[CITY], tool_choice=NAMED, chat_template_kwargs={"enable_thinking": True})["message"]
    assert m["reasoning_content"] == "The user wants Oslo." and calls_of(m) == [("city", {"name": "Oslo", "days": 3})]


def test_forced_call_refusals(server):
    for choice in ("required", NAMED):
        e = server.error(CHAT, body("x", tools=[CITY], tool_choice=choice, response_format={"type": "json_object"}))
        assert e["param"] == "response_format"
    bad = {"type": "function", "function": {"name": "f", "parameters": {"type": "hiccup"}}}
    e = server.error(CHAT, body("x", tools=[bad], tool_choice="required"))
    assert e["param"] == "tools" and e["code"] == "invalid_json_schema"


def test_87_88_on_a_model():
    """SmolLM2's template knows no tools: the calls are a plain JSON list."""
    with Server(model=MODEL) as s:
        for choice in ("required", NAMED):
            r = s.ok(CHAT, chat("How is the weather in Rome?", tools=[CITY, EMPTY], tool_choice=choice, temperature=0,
                                parallel_tool_calls=False, max_tokens=200))["choices"][0]
            assert r["finish_reason"] == "tool_calls"
            for name, arguments in calls_of(r["message"]):
                check_city(name, arguments)


# ---------------------------------------------------------------- strict tools under auto
def strict(tool, **more):
    return {"type": "function", "function": {**tool["function"], "strict": True, **more}}


STRICT = [strict(CITY), strict(EMPTY)]
# What opens a call, and the parser's name: what the model says behind it is up to the mask.
OPENERS = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "mistral_v11": "[TOOL_CALLS]", "functionary": "<function=",
           "deepseek_v31": "<｜tool▁calls▁begin｜>", "kimi_k2": "<|tool_calls_section_begin|>", "granite": "<|tool_call|>",
           "command_r": "<|START_ACTION|>", "llama3_json": "<|python_tag|>", "phi4_mini_json": "functools["}


@pytest.mark.parametrize("parser", OPENERS)
def test_strict_under_auto(parser):
    """Whatever the model goes on with behind an opener, the call is one of the tools, its arguments by the schema."""
    said = 0
    with Server("--sim-replay", "--tool-call-parser", parser, "--max-model-len", "20000") as s:
        for seed in range(6):
            text = "I look. " + OPENERS[parser] + "z" * seed
            kw = dict(tools=STRICT, max_tokens=4000, seed=seed)
            r = s.ok(CHAT, body(text, **kw))["choices"][0]
            assert r["finish_reason"] == "tool_calls" and r["message"]["content"].startswith("I look.")
            for name, arguments in calls_of(r["message"]):
                check_city(name, arguments)
                said += name == "city"
            m = gather([c["choices"][0]["delta"] for c in s.stream(CHAT, body(text, **kw))][:-1])
            assert [c["arguments"] for c in m["tool_calls"]] == \
                   [t["function"]["arguments"] for t in r["message"]["tool_calls"]]
    assert said


def test_strict_harmony_under_auto():
    flags = ("--sim-replay", "--tool-call-parser", "openai", "--reasoning-parser", "openai_gptoss", "--max-model-len", "20000")
    with Server(*flags) as s:
        for header in ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.city",
                       "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.city<|channel|>commentary json",
                       " to=functions.city<|channel|>commentary"):
            m = s.ok(CHAT, body(header + "<|message|>{zzz", tools=STRICT, max_tokens=2000))["choices"][0]["message"]
            [(name, arguments)] = calls_of(m)[:1]
            assert name == "city"
            check_city(name, arguments)


def test_strict_without_a_call_is_free_text(server):
    for text in ("Just text with <tool_cal and {braces}.", "", "<b>x</b> é 😀", '{"name": "x"}'):
        want = answer(server, text)
        got = answer(server, text, tools=STRICT)
        assert got["message"] == want["message"] and got["finish_reason"] == want["finish_reason"] == "stop"


def test_strict_call_that_fits_is_what_comes(server):
    text = "One. " + call({"name": "Oslo", "days": 3}, "city") + "\nTwo. " + call({}, "noop") + " Done."
    want, got = answer(server, text, tools=[CITY, EMPTY]), answer(server, text, tools=STRICT)
    assert calls_of(got["message"]) == calls_of(want["message"]) == [("city", {"name": "Oslo", "days": 3}), ("noop", {})]
    assert got["message"]["content"] == want["message"]["content"]
    one = answer(server, text, tools=STRICT, parallel_tool_calls=False)["message"]
    assert calls_of(one) == [("city", {"name": "Oslo", "days": 3})]


def test_strict_only_where_it_is_asked_for(server):
    """A tool that is not strict takes any object beside one that is; without any strict tool all is as the model says."""
    text = call({"name": "Paris", "days": 99}, "city")
    loose = {"type": "function", "function": {**CITY["function"], "name": "loose"}}
    other = call({"anything": [1]}, "loose")
    assert calls_of(answer(server, other, tools=[strict(CITY), loose])["message"]) == [("loose", {"anything": [1]})]
    assert calls_of(answer(server, text, tools=[CITY])["message"]) == [("city", {"name": "Paris", "days": 99})]
    [(name, arguments)] = calls_of(answer(server, text, tools=[strict(CITY)])["message"])
    check_city(name, arguments)
    assert answer(server, text, tools=STRICT, tool_choice="none")["message"]["content"] == text


def test_strict_after_thinking(server):
    text = "Should I <tool_call> it?\n</think>" + call({"name": "Paris", "days": 3}, "city")
    m = answer(server, text, tools=STRICT, chat_template_kwargs={"enable_thinking": True})["message"]
    assert m["reasoning_content"] == "Should I <tool_call> it?"
    for name, arguments in calls_of(m):
        check_city(name, arguments)
    assert calls_of(m)


def test_strict_at_the_beginning_of_a_bare_answer():
    """Llama 3 writes calls without an opener: an answer that begins with {" is one."""
    with Server("--sim-replay", "--tool-call-parser", "llama3_json", "--max-model-len", "20000") as s:
        m = s.ok(CHAT, body('{"name": "city", "parameters": {"name": "Paris"', tools=STRICT, max_tokens=2000))["choices"][0]["message"]
        [(name, arguments)] = calls_of(m)
        check_city(name, arguments)
        assert s.ok(CHAT, body("{x} is {y}", tools=STRICT, max_tokens=99))["choices"][0]["message"]["content"] == "{x} is {y}"


def test_strict_refusals(server):
    for parameters, word in (({"type": "hiccup"}, "type"), ({"type": "array", "uniqueItems": True, "items": {}}, "uniqueItems")):
        e = server.error(CHAT, body("x", tools=[strict(CITY, parameters=parameters)]))
        assert e["param"] == "tools" and e["code"] == "invalid_json_schema" and word in e["message"]
    assert answer(server, "x", tools=[strict(CITY)], response_format={"type": "text"})["message"]["content"] == "x"
    m = answer(server, "x", tools=[strict(CITY)], response_format={"type": "json_object"})["message"]
    assert m["content"].startswith("{")


def test_strict_in_the_other_surfaces(server):
    """Responses and Messages hand `strict` on."""
    text, schema = "<tool_call>zz", CITY["function"]["parameters"]
    r = server.ok("/v1/responses", {"input": say(text), "max_output_tokens": 2000, "tools": [
        {"type": "function", "name": "city", "parameters": schema, "strict": True}]})
    [item] = [o for o in r["output"] if o["type"] == "function_call"][:1]
    check_city(item["name"], json.loads(item["arguments"]))
    r = server.ok("/v1/messages", {"messages": [{"role": "user", "content": say(text)}], "max_tokens": 2000, "tools": [
        {"name": "city", "input_schema": schema, "strict": True}]})
    [block] = [b for b in r["content"] if b["type"] == "tool_use"][:1]
    check_city(block["name"], block["input"])


# ---------------------------------------------------------------- streams
def test_91_streamed_call(server):
    parts, finish = deltas(server, "Let me see. " + call(OSLO))
    m = gather(parts)
    whole = answer(server, "Let me see. " + call(OSLO))["message"]
    assert finish == "tool_calls" and m["content"] == whole["content"] == "Let me see."
    assert m["tool_calls"][0]["arguments"] == whole["tool_calls"][0]["function"]["arguments"]
    assert sum("tool_calls" in d for d in parts) > 4  # arguments come as they are written


def test_92_two_calls(server):
    parts, _ = deltas(server, call(OSLO) + "\n" + call(ROME))
    calls = gather(parts)["tool_calls"]
    assert [json.loads(c["arguments"]) for c in calls] == [OSLO, ROME] and calls[0]["id"] != calls[1]["id"]


def test_streams_equal_whole_answers(server):
    texts = [call(OSLO), think("Hm.", call(OSLO)), think("Hm.", "Yes."), "<tool_call>\n{\"na", "<think>\nnever closed",
             "a " + call(OSLO) + " b " + call(ROME) + " c", '<tool_call>{"name": "wx", "arguments": {"city": ?}}']
    for text in texts:
        whole = answer(server, text)
        parts, finish = deltas(server, text)
        m, w = gather(parts), whole["message"]
        assert finish == whole["finish_reason"] and m["content"] == (w["content"] or "")
        assert m["reasoning_content"] == w.get("reasoning_content", "")
        assert [(c["name"], c["arguments"]) for c in m["tool_calls"]] == \
               [(c["function"]["name"], c["function"]["arguments"]) for c in w.get("tool_calls", [])]


def test_logprobs_are_the_contents(server):
    text = think("Hm.", "Yes, " + call(OSLO))
    for stream in (False, True):
        if stream:
            chunks = server.stream(CHAT, body(text, logprobs=True))
            found = [e for c in chunks for e in ((c["choices"][0]["logprobs"] or {}).get("content") or [])]
        else:
            found = answer(server, text, logprobs=True)["logprobs"]["content"]
        assert b"".join(bytes(e["bytes"]) for e in found) == b"Yes,"


def test_stop_string_inside_arguments(server):
    c = answer(server, call(OSLO), stop=["Oslo"])
    assert c["finish_reason"] == "stop" and c["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "'


# ---------------------------------------------------------------- history
def test_65_history_with_calls(server):
    history = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "reasoning_content": "Oslo.", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "wx", "arguments": json.dumps(OSLO)}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": say("Dry.")}]},
    ]
    r = server.ok(CHAT, {"messages": history, "tools": TOOLS, "max_tokens": 50})
    assert r["choices"][0]["message"]["content"] == "Dry."
    prompt = server.ok("/apply-template", {"messages": history, "tools": TOOLS})["prompt"]
    assert '"arguments": {"city": "Oslo", "days": 3}' in prompt  # an object, not text in text
    assert "<think>\nOslo.\n</think>" in prompt


# ---------------------------------------------------------------- thinking
def test_101_reasoning(server):
    text = think("The user wants Oslo.", "It is dry.")
    r = server.ok(CHAT, body(text))
    m = r["choices"][0]["message"]
    assert m["reasoning_content"] == "The user wants Oslo." and m["content"] == "It is dry."
    n = r["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert n == len("<think>\nThe user wants Oslo.\n</think>")  # bytes are tokens here
    parts, finish = deltas(server, text)
    kinds = [next(iter(d)) for d in parts[1:]]
    assert kinds == sorted(kinds, reverse=True) and set(kinds) == {"reasoning_content", "content"} and finish == "stop"


def test_101_thinking_opened_by_the_prompt(server):
    m = answer(server, "Hm.\n</think>\n\nYes.", chat_template_kwargs={"enable_thinking": True})["message"]
    assert m["reasoning_content"] == "Hm." and m["content"] == "Yes."


@pytest.mark.parametrize("fields", [{"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}])
def test_101_thinking_off(server, fields):
    r = server.ok(CHAT, body("Yes.", **fields))
    m = r["choices"][0]["message"]
    assert m["content"] == "Yes." and "reasoning_content" not in m
    assert r["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_thinking_that_never_ends(server):
    c = answer(server, "<think>\nOn and on", max_tokens=12)
    assert c["finish_reason"] == "length" and c["message"]["content"] is None
    assert c["message"]["reasoning_content"] == "On a"


@pytest.mark.parametrize("field", ["thinking_token_budget", "reasoning_budget"])
def test_thinking_budget(server, field):
    close, text = "</think>", "abcdefghijklmnopqrstuvwxyz"
    kw = {"chat_template_kwargs": {"enable_thinking": True}}
    for n in (0, 1, 10):
        r = server.ok(CHAT, body(text, **{field: n}, **kw))
        m = r["choices"][0]["message"]
        assert m.get("reasoning_content", "") == text[:n] and m["content"] == text[n + len(close):]
        assert r["usage"]["completion_tokens_details"]["reasoning_tokens"] == n + len(close)
    for n in (-1, 10**12):
        assert answer(server, text, **{field: n}, **kw)["message"]["reasoning_content"] == text
    # thinking that ends in time is left alone, as is an answer without any
    assert answer(server, "ab" + close + "yes", **{field: 20}, **kw)["message"]["content"] == "yes"
    assert answer(server, text, **{field: 3})["message"]["content"] == text
    assert server.error(CHAT, body(text, **{field: -2}))["param"] == field
    parts, _ = deltas(server, text, **{field: 10}, **kw)
    assert gather(parts)["reasoning_content"] == text[:10]


def test_thinking_budget_in_front_of_a_form(server):
    r = answer(server, "abcdefghijklmno", thinking_token_budget=5, response_format={"type": "json_object"},
               chat_template_kwargs={"enable_thinking": True}, tools=None, max_tokens=60)["message"]
    assert r["reasoning_content"] == "abcde" and r["content"].startswith("{")


def test_include_reasoning(server):
    r = server.ok(CHAT, body(think("Hm.", "Yes."), include_reasoning=False))
    assert "reasoning_content" not in r["choices"][0]["message"] and r["choices"][0]["message"]["content"] == "Yes."
    assert r["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    assert gather(deltas(server, think("Hm.", "Yes."), include_reasoning=False)[0])["reasoning_content"] == ""


def test_reasoning_format(server):
    text = think("Hm.", "Yes.")
    assert answer(server, text, reasoning_format="none")["message"]["content"] == text
    assert answer(server, text, reasoning_format="deepseek")["message"]["content"] == "Yes."
    assert server.error(CHAT, body(text, reasoning_format="x"))["param"] == "reasoning_format"


@pytest.mark.parametrize("field, names", [("reasoning", {"reasoning"}), ("both", {"reasoning", "reasoning_content"})])
def test_reasoning_field(field, names):
    with Server(*FLAGS, "--reasoning-field", field) as s:
        m = answer(s, think("Hm.", "Yes."))["message"]
        assert {k for k in m if "reasoning" in k} == names and all(m[k] == "Hm." for k in names)
        assert set().union(*deltas(s, think("Hm.", "Yes."))[0]) - {"role", "content"} == names


# ---------------------------------------------------------------- other formats, by name
@pytest.mark.parametrize("folder", sorted(d for d in os.listdir(DATA) if os.path.isdir(os.path.join(DATA, d))))
def test_95_formats(folder):
    """The corpus' first call of each format through the whole server, streamed and not."""
    for path in sorted(glob.glob(os.path.join(DATA, folder, "*.json"))):
        with open(path) as f:
            want = json.load(f)
        complete = [c for c in want["calls"] if c.get("complete", True)]
        if not complete or want.get("in_reasoning") or want.get("drop_reasoning") or want["calls"] != complete:
            continue
        with open(path[:-5] + ".txt", newline="") as f:
            text = f.read()
        flags = ("--sim-replay", "--tool-call-parser", want.get("parser", folder), "--reasoning-parser",
                 want.get("think", "none"))
        with Server(*flags, "--max-model-len", "20000") as s:
            known = [{"type": "function", "function": {"name": n}} for n in {c["name"] for c in complete} - {"wx"}]
            c = answer(s, text, tools=[WEATHER, *known])
            assert calls_of(c["message"]) == [(w["name"], w["arguments"]) for w in complete]
            assert c["message"]["content"] == want["content"] and c["finish_reason"] == "tool_calls"
            assert c["message"].get("reasoning_content") == want["reasoning"]
            m = gather(deltas(s, text, tools=[WEATHER, *known])[0])
            assert [c["arguments"] for c in m["tool_calls"]] == \
                   [t["function"]["arguments"] for t in c["message"]["tool_calls"]]
        return


# ---------------------------------------------------------------- client libraries: a round trip with a tool
ROUND = "What is the weather? " + say("I look. " + call(OSLO))


def result_of(city, days=1):
    """What the tool says; the model's next answer is in it."""
    assert (city, days) == ("Oslo", 3)
    return "dry " + say("It stays dry in Oslo.")


def test_openai_python(client):
    messages = [{"role": "user", "content": ROUND}]
    r = client.chat.completions.create(model="m", messages=messages, tools=TOOLS, max_tokens=500).choices[0]
    assert r.finish_reason == "tool_calls"
    messages.append(r.message)
    for t in r.message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": t.id, "content": result_of(**json.loads(t.function.arguments))})
    r = client.chat.completions.create(model="m", messages=messages, tools=TOOLS, max_tokens=500).choices[0]
    assert r.message.content == "It stays dry in Oslo." and r.message.tool_calls is None


def test_openai_python_stream_and_parse(client):
    class Weather(pydantic.BaseModel):
        """Weather."""
        city: str
        days: int

    kw = dict(model="m", messages=[{"role": "user", "content": say("I look. " + call(OSLO, "Weather"))}],
              tools=[openai.pydantic_function_tool(Weather)], max_tokens=500)
    parsed = client.chat.completions.parse(**kw).choices[0].message.tool_calls[0].function.parsed_arguments
    assert parsed == Weather(**OSLO)
    with client.chat.completions.stream(**kw) as stream:
        names = [e.type for e in stream]
        final = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in names and names.count("tool_calls.function.arguments.done") == 1
    assert final.message.tool_calls[0].function.parsed_arguments == Weather(**OSLO)
    assert final.finish_reason == "tool_calls" and final.message.content == "I look."


def test_langchain(server):
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI
    llm = ChatOpenAI(model="m", base_url=server.base_url, api_key="none", max_retries=0, max_tokens=500)
    llm = llm.bind_tools(TOOLS)
    messages = [HumanMessage(ROUND)]
    first = llm.invoke(messages)
    streamed = None
    for chunk in llm.stream(messages):
        streamed = chunk if streamed is None else streamed + chunk
    assert [(t["name"], t["args"]) for t in streamed.tool_calls] == [("wx", OSLO)] and streamed.content == first.content
    messages += [first] + [ToolMessage(result_of(**t["args"]), tool_call_id=t["id"]) for t in first.tool_calls]
    assert llm.invoke(messages).content == "It stays dry in Oslo."


def test_openai_agents(server):
    import agents
    agents.set_tracing_disabled(True)

    @agents.function_tool
    def wx(city: str, days: int) -> str:
        """Weather."""
        return result_of(city, days)

    client = openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0)
    model = agents.OpenAIChatCompletionsModel(model="m", openai_client=client)
    agent = agents.Agent(name="a", model=model, tools=[wx], model_settings=agents.ModelSettings(max_tokens=500))

    async def both():
        whole = await agents.Runner.run(agent, ROUND)
        streamed = agents.Runner.run_streamed(agent, ROUND)
        async for _ in streamed.stream_events():
            pass
        return whole.final_output, streamed.final_output

    assert asyncio.run(both()) == ("It stays dry in Oslo.",) * 2


def test_litellm(server, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask the network for prices
    import litellm
    messages = [{"role": "user", "content": ROUND}]
    kw = dict(model="openai/m", api_base=server.base_url, api_key="none", tools=TOOLS, max_tokens=500, num_retries=0)
    first = litellm.completion(messages=messages, **kw).choices[0]
    built = litellm.stream_chunk_builder(list(litellm.completion(messages=messages, stream=True, **kw)))
    assert first.finish_reason == built.choices[0].finish_reason == "tool_calls"
    for m in (first.message, built.choices[0].message):
        assert [json.loads(t.function.arguments) for t in m.tool_calls] == [OSLO] and m.content == "I look."
    messages.append(first.message.model_dump())
    for t in first.message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": t.id, "content": result_of(**json.loads(t.function.arguments))})
    assert litellm.completion(messages=messages, **kw).choices[0].message.content == "It stays dry in Oslo."
