"""openai-python and LangChain against the server: chat, streaming, n, stop, logprobs, usage, errors, timeouts.

openai-node and the AI SDK (in numbers 22, 72 and 85 of the wire specification) need npm and are not run; what they read
is held by the shapes that test_chat.py checks."""
import time

import openai
import pytest

from harness import MODEL, Server

# a question that SmolLM2-135M in 4 bits answers, and ends: "The capital of France is Paris."
USER = [{"role": "user", "content": "Name the capital of France."}]


@pytest.fixture(scope="module")
def server():
    with Server("--api-key", "secret", model=MODEL) as s:
        yield s


@pytest.fixture()
def client(server):
    return openai.OpenAI(base_url=server.base_url, api_key="secret", max_retries=0, timeout=60)


def test_chat_and_usage(client):
    r = client.chat.completions.create(model="m", messages=USER, temperature=0, max_tokens=32)
    assert "Paris" in r.choices[0].message.content
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens


def test_85_stream(client):
    kw = dict(model="m", messages=USER, temperature=0, max_tokens=32)
    whole = client.chat.completions.create(**kw).choices[0].message.content
    stream = client.chat.completions.create(**kw, stream=True, stream_options={"include_usage": True})
    text, usage = "", None
    for chunk in stream:
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    assert text == whole and usage.completion_tokens > 0
    with client.chat.completions.stream(**kw) as s:
        assert s.get_final_completion().choices[0].message.content == whole


def test_n_stop_logprobs(client):
    r = client.chat.completions.create(model="m", messages=USER, n=3, seed=1, max_tokens=10, logprobs=True,
                                       top_logprobs=2)
    assert [c.index for c in r.choices] == [0, 1, 2]
    assert all(len(t.top_logprobs) == 2 for c in r.choices for t in c.logprobs.content)
    r = client.chat.completions.create(model="m", messages=USER, temperature=0, max_tokens=32, stop=["Paris"])
    assert r.choices[0].finish_reason == "stop" and "Paris" not in r.choices[0].message.content


def test_completions_and_models(client):
    r = client.completions.create(model="m", prompt="The capital of France is", temperature=0, max_tokens=4)
    assert r.choices[0].text.startswith(" Paris")
    assert [m.id for m in client.models.list()] == ["m"] and client.models.retrieve("m").id == "m"


def test_error_classes(server, client):
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model="m", messages=USER, temperature=9)
    assert e.value.param == "temperature" and e.value.request_id
    with pytest.raises(openai.NotFoundError) as e:
        client.chat.completions.create(model="none", messages=USER)
    assert e.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.base_url, api_key="wrong", max_retries=0).models.list()


def test_timeout_frees_the_sequence(server, client):
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(
            model="m", messages=USER, max_tokens=4000, extra_body={"ignore_eos": True})
    for _ in range(20):
        if server.metric("vllm:num_requests_running") == 0:
            return
        time.sleep(0.05)
    raise AssertionError("still running after the client's timeout")


def test_abandoned_stream(server, client):
    stream = client.chat.completions.create(model="m", messages=USER, max_tokens=4000, stream=True,
                                            extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    client.chat.completions.create(model="m", messages=USER, max_tokens=2)
    assert server.metric("vllm:num_requests_running") == 0


def test_queue_full_is_a_rate_limit_error():
    with Server("--max-queue-size", "1", "--max-num-seqs", "1", "--sim-step-us", "20000") as s:
        c = openai.OpenAI(base_url=s.base_url, api_key="x", max_retries=0, timeout=60)
        with pytest.raises(openai.RateLimitError) as e:
            c.chat.completions.create(model="m", messages=USER, n=16, max_tokens=100)
        assert 1 <= int(e.value.response.headers["retry-after"]) <= 60


@pytest.fixture(scope="module")
def langchain(server):
    langchain = pytest.importorskip("langchain_openai")
    return langchain.ChatOpenAI(base_url=server.base_url, api_key="secret", model="m", temperature=0, max_tokens=32)


def test_72_langchain(langchain):
    whole = langchain.invoke(USER[0]["content"])
    assert "Paris" in whole.content and whole.usage_metadata["output_tokens"] > 0


def test_85_langchain(langchain):
    text = "".join(chunk.content for chunk in langchain.stream(USER[0]["content"]))
    assert "Paris" in text and text == langchain.invoke(USER[0]["content"]).content


NPM = {22: "openai-node's fields of an error", 72: "AI SDK generateText", 85: "openai-node .stream(), AI SDK streamText"}


@pytest.mark.skip(reason="openai-node and the AI SDK need npm")
@pytest.mark.parametrize("number", NPM, ids=lambda n: f"{n}_npm")
def test_with_npm(number):
    """Named, not run."""
