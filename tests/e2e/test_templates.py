"""Chat templates over HTTP: numbers 127 to 130 of the wire specification.

The golden files are those of check_text.py (the conformance folder beside the checkout): transformers' rendering of each
family's template. /apply-template renders the same cases, but first puts them into words that the template takes
(section 9.6): where that changes what is rendered, NORMALISED says so."""
import glob, json, os, time

import pytest

from harness import CHAT, MODEL, ROOT, TINY, Server, chat

GOLDEN = os.path.join(ROOT, "../shared/conformance/chat_templates")
FIELDS = {"messages", "tools", "documents", "add_generation_prompt"}  # of a request; all else is chat_template_kwargs

# Cases that transformers renders otherwise, or refuses, since nobody normalises them there.
PARTS = "parts"                         # an array of text parts, for a template that wants a string
ARGS = "tool_round_trip_string_args"    # arguments as text, for a template that wants an object
OBJECTS = "tool_round_trip"             # arguments as an object, for a template that wants text
NULL = "content null"                   # null beside calls, for a template that prints or searches it
NORMALISED = {
    "Qwen-Qwen2.5-7B-Instruct": {PARTS, ARGS},
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": {PARTS, OBJECTS},
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": {PARTS, OBJECTS},
    "google-gemma-2-2b-it": {PARTS, "system_user", "multi_turn", "unicode", "tools", "empty_content", "many_turns"},  # system
    "llama-cpp-deepseek-r1": {PARTS},
    "meetkai-functionary-medium-v3.1": {PARTS, OBJECTS, "parallel_tool_calls"},
    "meta-llama-Llama-3.1-8B-Instruct": {PARTS, ARGS},
    "meta-llama-Llama-3.2-3B-Instruct": {PARTS, ARGS},
    "mistralai-Mistral-Nemo-Instruct-2407": {PARTS, ARGS},
    "tokenizer_config-llama3_1": {PARTS, OBJECTS, ARGS},  # content null, printed as None
    "tokenizer_config-qwen3": {PARTS, OBJECTS, ARGS},     # content null, searched
}


def names():
    return sorted(os.path.basename(f)[: -len(".golden.json")] for f in glob.glob(GOLDEN + "/*.golden.json"))


def body_of(case):
    kwargs = {k: v for k, v in case["input"].items() if k not in FIELDS}
    body = {k: v for k, v in case["input"].items() if k in FIELDS}
    return {**body, "chat_template_kwargs": kwargs} if kwargs else body


@pytest.mark.parametrize("name", names() or [pytest.param(None, marks=pytest.mark.skip(reason="no conformance folder"))])
def test_127_apply_template(name):
    """The model's own special tokens are those of the golden files; its clock is today's."""
    with open(f"{GOLDEN}/{name}.golden.json") as f:
        golden = json.load(f)
    then = time.strftime("%d %b %Y", time.strptime(golden["now"], "%Y-%m-%dT%H:%M:%S"))
    wrong = []
    with Server("--chat-template", f"{GOLDEN}/{name}.jinja", model=TINY) as s:
        for case in golden["cases"]:
            r = s.post("/apply-template", body_of(case))
            got = json.loads(r.body)
            if case["case"] in NORMALISED.get(name, ()):
                good = r.status == 200 and got["prompt"] != case.get("output")
            elif "error" in case:
                good = r.status == 400 and got["error"]["message"]
            else:
                good = r.status == 200 and got["prompt"] == case["output"].replace(then, time.strftime("%d %b %Y"))
            if not good:
                wrong.append((case["case"], r.status, got, case.get("output", case.get("error"))))
    assert not wrong, wrong[:2]


def template(tmp_path, text):
    path = tmp_path / "chat.jinja"
    path.write_text(text)
    return Server("--chat-template", str(path))


@pytest.mark.parametrize("stream", [False, True])
def test_128_raise_exception(tmp_path, stream):
    text = "{% if messages|length > 1 %}{{ raise_exception('Only one message — no more!') }}{% endif %}{{ messages[0].content }}"
    with template(tmp_path, text) as s:
        assert s.ok("/apply-template", chat("one"))["prompt"] == "one"
        two = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "max_tokens": 4}
        for path in (CHAT, "/apply-template", "/tokenize"):
            e = s.error(path, {**two, "stream": stream} if path == CHAT else two)
            assert e["type"] == "invalid_request_error" and "Only one message — no more!" in e["message"]


def test_129_tojson(tmp_path):
    text = "{% set x = tools[0].function.parameters %}{{ x|tojson }}\n{{ x|tojson(indent=2) }}\n{{ x|tojson(separators=(',', ':')) }}\n{{ x|tojson(ensure_ascii=True) }}"
    x = {"z": "Zürich 😀 <tag> & 'a'", "a": [1, 2.0, True, None], "m": {"y": {}, "b": "\u001f/"}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": x}}]
    with template(tmp_path, text) as s:
        prompt = s.ok("/apply-template", chat("x", tools=tools))["prompt"]
    plain = {"ensure_ascii": False}
    assert prompt == "\n".join([json.dumps(x, **plain), json.dumps(x, indent=2, **plain),
                                json.dumps(x, separators=(",", ":"), **plain), json.dumps(x, ensure_ascii=True)])


@pytest.mark.parametrize("model", [None, MODEL], ids=["sim", "smollm2"])
def test_130_tokenize_of_apply_template(model):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Zürich 😀?"},
                {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "<|im_end|> and so on"}]
    with Server(model=model) as s:
        prompt = s.ok("/apply-template", {"messages": messages})["prompt"]
        tokens = s.ok("/tokenize", {"prompt": prompt, "add_special_tokens": False})
        used = s.chat(messages, max_tokens=1)["usage"]["prompt_tokens"]
        assert tokens["count"] == len(tokens["tokens"]) == used
        assert s.ok("/tokenize", {"messages": messages})["tokens"] == tokens["tokens"]
