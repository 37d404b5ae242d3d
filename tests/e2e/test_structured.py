"""Structured output, 45 and 96 to 100 of the wire specification, and beyond: every constraint under every name, on chat and
completions, alone, in batches and streamed. The sim device writes random tokens, so whatever it writes is a walk of the
grammar; two tests ask a real model. jsonschema judges what came."""
import concurrent.futures, json, re, time

import jsonschema
import openai
import pytest

from harness import CHAT, MODEL, Server, chat
from harness import text_of as events_text

PERSON = {"type": "object", "properties": {
    "name": {"type": "string", "minLength": 1, "maxLength": 12},
    "age": {"type": "integer", "minimum": 0, "maximum": 130},
    "tags": {"type": "array", "items": {"enum": ["a", "bb", "ccc"]}, "minItems": 1, "maxItems": 3},
    "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "when": {"type": "string", "format": "date"},
    "home": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]}},
    "required": ["name", "age", "tags", "code", "when", "home"], "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {
        "city": {"type": "string", "maxLength": 8}, "inside": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]}},
        "required": ["city", "inside"], "additionalProperties": False}}}


def schema_format(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


@pytest.fixture(scope="module")
def sim():
    with Server("--max-num-seqs", "16", name="m") as s:
        yield s


def memory(server):
    status = open(f"/proc/{server.process.pid}/status").read()
    return int(status.split("RssAnon:")[1].split()[0])


def ask(server, path=CHAT, **fields):
    body = chat(**fields) if path == CHAT else {"prompt": "hello", **fields}
    r = server.post(path, body)
    return r.status, json.loads(r.body)


def text_of(answer):
    choice = answer["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def finished(server, **fields):
    """The text of an answer that ended by itself, over seeds until one did."""
    for seed in range(40):
        status, answer = ask(server, max_tokens=2000, temperature=1, **{"seed": seed, **fields})
        assert status == 200, answer
        if answer["choices"][0]["finish_reason"] == "stop":
            return text_of(answer)
    raise AssertionError("no answer ended by itself")


def test_96_json_object(sim):
    ended = 0
    for seed in range(20):
        _, answer = ask(sim, response_format={"type": "json_object"}, temperature=1, seed=seed, max_tokens=3000)
        if answer["choices"][0]["finish_reason"] == "stop":
            assert isinstance(json.loads(text_of(answer)), dict)
            ended += 1
    assert ended >= 5


def test_97_json_schema_strict(sim):
    ended = 0
    for seed in range(20):
        status, answer = ask(sim, response_format=schema_format(PERSON, strict=True), temperature=1, seed=seed, max_tokens=3000)
        assert status == 200, answer
        if answer["choices"][0]["finish_reason"] == "stop":
            value = json.loads(text_of(answer))
            jsonschema.validate(value, PERSON, format_checker=jsonschema.FormatChecker())
            assert list(value) == list(PERSON["properties"])
            ended += 1
    assert ended == 20


def test_98_too_few_tokens(sim):
    status, answer = ask(sim, response_format=schema_format(PERSON), max_tokens=5)
    assert status == 200 and answer["choices"][0]["finish_reason"] == "length"
    client = openai.OpenAI(base_url=sim.base_url, api_key="x", max_retries=0)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="m", messages=[{"role": "user", "content": "x"}], max_tokens=5,
                                      response_format=schema_format(PERSON, strict=True))


GRAMMARS = {
    "regex": ("[a-f]{3}-[0-9]+z", re.compile("[a-f]{3}-[0-9]+z")),
    "choice": (["positive", "negative", "neutral"], re.compile("positive|negative|neutral")),
    "grammar": ('root ::= "x" pair "y"\npair ::= "(" pair? ")"', re.compile(r"x\(+\)+y")),
}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("kind", GRAMMARS)
def test_99_regex_choice_grammar(sim, kind, path):
    source, pattern = GRAMMARS[kind]
    for fields in ({"structured_outputs": {kind: source}}, {f"guided_{kind}": source}):
        for seed in range(5):
            text = finished(sim, path=path, seed=seed, **fields)
            assert pattern.fullmatch(text), text


@pytest.mark.parametrize("fields", [
    {"guided_json": PERSON}, {"guided_json": json.dumps(PERSON)}, {"structured_outputs": {"json": PERSON}},
    {"json_schema": PERSON}, {"response_format": {"type": "json_schema", "schema": PERSON}},
    {"response_format": {"type": "json_object", "schema": PERSON}}])
def test_99_schema_by_other_names(sim, fields):
    jsonschema.validate(json.loads(finished(sim, **fields)), PERSON)


def test_99_lark_and_other_names(sim):
    lark = 'start: "SELECT " NAME ("," NAME)*\nNAME: /[a-z]+/'
    for fields in ({"guided_grammar": lark}, {"grammar": 'root ::= "SELECT " [a-z]+'}, {"ebnf": 'root ::= "SELECT " [a-z]+'},
                   {"regex": "SELECT [a-z]+"}):
        assert finished(sim, **fields).startswith("SELECT ")
    assert isinstance(json.loads(finished(sim, structured_outputs={"json_object": True})), dict)


CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"], "additionalProperties": False}
TAG = {"type": "tag", "begin": "<f=wx>", "content": {"type": "json_schema", "json_schema": CITY}, "end": "</f>"}
TRIGGERED = {"type": "triggered_tags", "triggers": ["<f="], "tags": [TAG]}
OLD_FORM = {"structures": [{"begin": "<f=wx>", "schema": CITY, "end": "</f>"}], "triggers": ["<f="]}
CALL = re.compile(r"<f=wx>(.*?)</f>", re.S)


def test_99_structural_tags(sim):
    """The random model must write the whole of it."""
    number = {"type": "regex", "pattern": "[0-9]{1,3}"}
    tags = {"type": "tags_with_separator", "tags": [TAG], "separator": ";", "at_least_one": True}
    source = {"type": "structural_tag", "format": {"type": "sequence", "elements": [
        {"type": "const_string", "value": "n="}, number, {"type": "const_string", "value": ": "}, tags]}}
    for seed in range(5):
        for fields in ({"response_format": source}, {"structured_outputs": {"structural_tag": source}},
                       {"structured_outputs": {"structural_tag": json.dumps(source)}}):
            text = finished(sim, seed=seed, **fields)
            head, rest = re.fullmatch(r"(n=[0-9]{1,3}: )(.*)", text, re.S).groups()
            assert CALL.sub("", rest).strip(";") == ""
            for found in CALL.findall(rest):
                jsonschema.validate(json.loads(found), CITY)


@pytest.mark.parametrize("source", [TRIGGERED, {"format": TRIGGERED}, OLD_FORM], ids=["bare", "format", "structures"])
def test_99_triggered_tags(source):
    """Free text is the model's own; where a trigger stands, it is held to the tag."""
    with Server("--sim-replay", "--max-model-len", "20000") as s:
        def ask_for(said, path=CHAT):
            r = s.ok(path, chat(f"\x02{said}\x03", response_format={"type": "structural_tag", **source}, max_tokens=3000)
                     if "type" not in source else
                     chat(f"\x02{said}\x03", structured_outputs={"structural_tag": source}, max_tokens=3000))
            assert r["choices"][0]["finish_reason"] == "stop"
            return text_of(r)

        assert ask_for("Nothing < f= here.") == "Nothing < f= here."
        assert ask_for('a <f=wx>{"city": "Oslo"}</f> b') == 'a <f=wx>{"city": "Oslo"}</f> b'
        for said in ("a <f=zz", "a <f=wx>zzzzzz", "a <f=wx>{}</f> and <f=!!"):
            text = ask_for(said)
            assert text.startswith("a <f=wx>") and text.count("<f=") == len(CALL.findall(text))
            for found in CALL.findall(text):
                jsonschema.validate(json.loads(found), CITY)


@pytest.mark.parametrize("fields, param, word", [
    ({"structured_outputs": {"structural_tag": {"type": "poem"}}}, "structured_outputs", "poem"),
    ({"structured_outputs": {"structural_tag": "{"}}, "structured_outputs", ""),
    ({"structured_outputs": {"structural_tag": 7}}, "structured_outputs", "object"),
    ({"response_format": {"type": "structural_tag"}}, "response_format", "'format'"),
    ({"response_format": {"type": "structural_tag", "format": {**TRIGGERED, "triggers": ["<g="]}}}, "response_format", "trigger"),
    ({"response_format": schema_format({"type": "hiccup"})}, "response_format", "#/type"),
    ({"response_format": schema_format({"properties": {"a": {"unevaluatedItems": False}}})}, "response_format", "unevaluatedItems"),
    ({"response_format": schema_format({"type": "object", "properties": {"a": {}}}, strict=True)}, "response_format", "required"),
    ({"response_format": schema_format({"$ref": "http://example.com/x"})}, "response_format", "$ref"),
    ({"structured_outputs": {"regex": "(a"}}, "structured_outputs", "( without )"),
    ({"structured_outputs": {"regex": "(?=.*a.{30}b)(?=.*b.{30}c)(?=.*c.{30}d).*"}}, "structured_outputs", None),
    ({"structured_outputs": {"grammar": "root ::= missing"}}, "structured_outputs", "missing"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs", "at least one"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "Only one"),
    ({"guided_grammar": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000}, "guided_grammar", "nest")])
def test_100_refused_within_a_second(sim, fields, param, word):
    start = time.monotonic()
    status, answer = ask(sim, **fields)
    assert time.monotonic() - start < 1
    if word is None and status == 200:  # may be taken, and then stays within its budget
        return
    assert status == 400 and answer["error"]["param"] == param, answer
    assert answer["error"]["type"] == "invalid_request_error" and word in answer["error"]["message"]


def test_84_stop_string_inside_a_grammar(sim):
    """The model must write xENyEND...: what could have begun the stop string comes late, and no part of it leaks."""
    fields = dict(structured_outputs={"regex": "xENyEND[a-z]+"}, stop=["END"], max_tokens=50)
    status, answer = ask(sim, **fields)
    assert status == 200 and text_of(answer) == "xENy" and answer["choices"][0]["finish_reason"] == "stop"
    events = sim.stream(CHAT, chat(**fields))
    assert events_text(events) == "xENy" and events[-1]["choices"][0]["finish_reason"] == "stop"


def test_same_alone_streamed_and_in_a_batch(sim):
    def one(seed, stream=False):
        body = chat(response_format=schema_format(PERSON), temperature=1, seed=seed, max_tokens=600)
        return events_text(sim.stream(CHAT, body)) if stream else text_of(sim.ok(CHAT, body))

    alone = [one(seed) for seed in range(24)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        free = [pool.submit(ask, sim, temperature=1, seed=i, max_tokens=300) for i in range(8)]
        together = list(pool.map(one, range(24)))
        assert all(f.result()[0] == 200 for f in free)
    assert together == alone
    assert one(3, stream=True) == alone[3]


def test_n_choices_differ_and_fit(sim):
    _, answer = ask(sim, guided_regex="[a-z]{20}", n=4, temperature=1, seed=1, max_tokens=100)
    texts = [c["message"]["content"] for c in answer["choices"]]
    assert len(set(texts)) == 4 and all(re.fullmatch("[a-z]{20}", t) for t in texts)
    assert all(c["finish_reason"] == "stop" for c in answer["choices"])


@pytest.mark.parametrize("fields", [{"min_tokens": 30}, {"ignore_eos": True}, {"logit_bias": {str(ord("b")): -100}},
                                    {"logprobs": True, "top_logprobs": 3}])
def test_with_other_fields(sim, fields):
    text = finished(sim, structured_outputs={"regex": "[ab]{4,8}"}, **fields)
    assert re.fullmatch("[ab]{4,8}", text)


def test_whitespace(sim):
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["a"],
              "additionalProperties": False}
    texts = {finished(sim, structured_outputs={"json": schema, "disable_any_whitespace": True}, seed=s) for s in range(8)}
    assert texts and all(re.fullmatch(r'\{"a":\d\}', t) for t in texts)
    loose = {finished(sim, structured_outputs={"json": schema}, seed=s) for s in range(8)}
    assert any(len(t) > 7 for t in loose)


def test_many_schemas_leave_memory_flat(start):
    server = start()

    def use(first, n):
        for i in range(first, first + n):
            schema = {"type": "object", "properties": {f"k{i}": {"type": "integer"}}, "required": [f"k{i}"]}
            status, answer = ask(server, response_format=schema_format(schema), max_tokens=4)
            assert status == 200, answer

    use(0, 5000)  # the cache is full
    before = memory(server)
    use(5000, 5000)
    assert memory(server) < before * 1.05


def test_real_model_writes_the_form():
    with Server(model=MODEL) as server:
        schema = {"type": "object", "properties": {"capital": {"type": "string", "maxLength": 20},
                                                   "population": {"type": "integer", "minimum": 0, "maximum": 100000000}},
                  "required": ["capital", "population"], "additionalProperties": False}
        status, answer = ask(server, text="What is the capital of France? Answer in JSON.", temperature=0, max_tokens=80,
                             response_format=schema_format(schema, strict=True))
        assert status == 200 and answer["choices"][0]["finish_reason"] == "stop", answer
        jsonschema.validate(json.loads(text_of(answer)), schema)
        status, answer = ask(server, text="Is Paris in France?", temperature=0, guided_choice=["yes", "no"])
        assert text_of(answer) in ("yes", "no")
