"""The chat page in headless Chromium: what it does, what it withstands, and how it looks.

Most tests put a stand-in behind the page (page_server.py), so that the answer's text, speed and failure are the test's
choice; some speak to a real model. The browser is Debian's; every test fails on a violated policy or an error in a script.
SLUICE_SCREENSHOTS names a folder for the pictures of the five states.
"""
import base64, gzip, hashlib, json, os, re, shutil, time

import pytest
from playwright.sync_api import expect, sync_playwright

from harness import MODEL, Server, error_of
from page_server import PageServer, Reply
from page_texts import ANSWER, ATTACKS, MARKDOWN, SLOW

PAGE_MAX = 100_000  # bytes
expect.set_options(timeout=15000)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
# What goes wrong inside the page is kept where the fixture finds it.
WATCH = """
  window.wrong = [];
  window.pwned = () => wrong.push("a script of the model's ran");
  addEventListener("securitypolicyviolation", (e) => wrong.push(`policy: ${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
"""


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "no chromium: apt-get install chromium, or name one in $CHROMIUM"
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield b
        b.close()


@pytest.fixture(scope="module")
def real():
    with Server(model=MODEL, name="smollm2") as s:
        yield s


@pytest.fixture
def fake(server):
    f = PageServer(server)
    yield f
    f.shutdown()
    f.server_close()


@pytest.fixture
def open_page(browser):
    """open_page(url, **context) -> a page of a fresh profile; at the end nothing may have gone wrong in it."""
    pages = []

    def go(url, width=1200, height=800, **kw):
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **kw)
        context.set_default_timeout(15000)
        page = context.new_page()
        page.add_init_script(WATCH)
        page.errors = []
        page.on("pageerror", lambda e: page.errors.append(str(e)))
        page.goto(url)
        pages.append(page)
        return page

    yield go
    for page in pages:
        assert page.errors == [] and page.evaluate("wrong") == []
        page.context.close()


@pytest.fixture
def page(open_page, fake):
    return ready(open_page(fake.url))


def ready(page):
    page.wait_for_selector("#server[data-state=ready]", state="attached")
    return page


def ask(page, text, wait=True):
    page.fill("#input", text)
    page.press("#input", "Enter")
    if wait:
        finished(page)


def finished(page):
    page.wait_for_selector("#send:not([hidden])")


def answers(page):
    return page.locator("article.assistant > .prose").all_inner_texts()


def press(page, label, nth=-1):
    """The button of that name in one message, which shows them when the mouse is over it."""
    page.locator(f"article:has([aria-label='{label}'])").nth(nth).hover()
    page.locator(f"article [aria-label='{label}']").nth(nth).click()


def shot(page, name):
    folder = os.environ.get("SLUICE_SCREENSHOTS")
    page.wait_for_timeout(100)
    picture = page.screenshot(path=os.path.join(folder, name + ".png") if folder else None)
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000


def stored(page):
    """All conversations in the browser's storage."""
    return [json.loads(t) for t in page.evaluate("Object.keys(localStorage).filter((k) => k.startsWith('sluice.chat.')).map((k) => localStorage.getItem(k))")]


# ---------------------------------------------------------------- the answer to GET /

def test_headers(server):
    r = server.get("/")
    html = r.body.decode()
    policy = dict(part.strip().split(" ", 1) for part in r.getheader("Content-Security-Policy").split(";"))
    blocks = {tag: [f"'sha256-{base64.b64encode(hashlib.sha256(b.encode()).digest()).decode()}'" for b in re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)]
              for tag in ("script", "style")}
    assert len(r.body) < PAGE_MAX and r.getheader("Content-Type") == "text/html; charset=utf-8"
    assert policy == {"default-src": "'none'", "script-src": " ".join(blocks["script"]), "style-src": " ".join(blocks["style"]), "img-src": "data:",
                      "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
                      "require-trusted-types-for": "'script'", "trusted-types": "'none'"}
    assert r.getheader("X-Content-Type-Options") == "nosniff" and r.getheader("Referrer-Policy") == "no-referrer"
    assert not re.search(r"\son\w+=|javascript:|<script[^>]|<link rel=\"stylesheet|https?://(?!www\.w3\.org/)", re.sub(r"(?s)<script>.*?</script>", "", html))


@pytest.mark.parametrize("accept, is_gzip", [("gzip", True), ("br;q=1, GZIP ;q=0.5", True), ("deflate, gzip", True), ("gzip;q=0", False), ("gzip; q=0.000", False),
                                             ("x-gzip, br", False), ("gzipped", False), ("identity", False), ("", False)])
def test_coding(server, accept, is_gzip):
    r = server.get("/", headers={"Accept-Encoding": accept})
    assert (r.getheader("Content-Encoding") == "gzip") == is_gzip and "Accept-Encoding" in r.headers.get_all("Vary")
    plain = gzip.decompress(r.body) if is_gzip else r.body
    assert plain == server.get("/").body and len(r.body) < (PAGE_MAX // 3 if is_gzip else PAGE_MAX)


def test_other_methods(server):
    head = server.request("HEAD", "/")
    assert head.status == 200 and head.body == b"" and head.getheader("Content-Security-Policy")
    assert server.post("/", {}).status == 405


def test_no_ui(start):
    s = start("--no-ui")
    assert error_of(s.get("/"))["message"].startswith("Invalid URL (GET /)") and s.get("/").status == 404
    assert s.get("/v1/models").status == 200


def test_page_needs_no_key(start):
    s = start("--api-key", "secret")
    assert s.get("/").status == 200 and s.get("/v1/models").status == 401


# ---------------------------------------------------------------- a real model

def test_real_answer(open_page, real):
    page = ready(open_page(real.base_url[:-2]))
    page.click("#open-settings")
    page.fill("#p-temperature", "0")
    page.fill("#p-max_tokens", "24")
    page.press("#p-max_tokens", "Escape")
    ask(page, "Name the capital of France.")
    expected = real.chat("Name the capital of France.", temperature=0, max_tokens=24)
    assert answers(page) == [expected["choices"][0]["message"]["content"].strip()]
    n = expected["usage"]["completion_tokens"]
    assert re.search(rf"^{n} tokens?\s+·\s+[\d,.]+ tok/s\s+·\s+first after [\d.]+ s\s+·\s+prompt \d+", page.inner_text("article.assistant .figures"))
    assert page.inner_text("#context") == f"{expected['usage']['total_tokens']} of 8,192 tokens"


def test_real_stop(open_page, real):
    """Stop frees the request at once; what came is kept with exact counts."""
    page = ready(open_page(real.base_url[:-2]))
    page.click("#open-settings")
    page.fill("#extra", '{"ignore_eos": true, "max_tokens": 4000}')
    page.press("#extra", "Escape")
    ask(page, "Tell me a long story about a river.", wait=False)
    expect(page.locator("article.assistant .figures")).to_contain_text("tok/s")
    assert real.metric("vllm:num_requests_running") == 1
    page.click("#stop")
    real.wait_metric("vllm:num_requests_running", 0, 1)
    finished(page)
    figures = page.inner_text("article.assistant .figures")
    assert "stopped" in figures and int(figures.split(" ")[0].replace(",", "")) > 1 and answers(page)[0]
    assert page.locator(".error").count() == 0


# ---------------------------------------------------------------- conversations

def test_send_and_reload(page, fake):
    fake.reply = Reply(ANSWER)
    ask(page, "How do I count words?\nQuickly.")
    assert fake.requests[0]["messages"] == [{"role": "user", "content": "How do I count words?\nQuickly."}]
    assert fake.requests[0]["model"] == "river-8b" and fake.requests[0]["stream"] is True
    text = answers(page)
    assert page.input_value("#title") == "How do I count words?"
    page.fill("#input", "a draft")
    page.reload()
    assert answers(page) == text and page.input_value("#input") == "a draft"
    assert page.locator(".user .said").inner_text() == "How do I count words?\nQuickly."


def test_settings_are_sent(page, fake):
    values = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 99, "seed": 7, "frequency_penalty": 0.5,
              "presence_penalty": -0.5, "repetition_penalty": 1.1}
    page.click("#open-settings")
    page.fill("#system", "Be brief.")
    page.fill("#stops", "END\n\\n\\n")
    page.fill("#extra", '{"user": "me"')
    assert "Not a JSON object" in page.inner_text("#extra-error")
    page.fill("#extra", '{"user": "me"}')
    assert page.inner_text("#extra-error") == ""
    for key, value in values.items():
        page.fill("#p-" + key, str(value))
    page.click("#settings [value=close]")
    page.select_option("#model", "brook-1b")
    ask(page, "hi")
    body = fake.requests[0]
    assert {k: body[k] for k in values} == values and body["stop"] == ["END", "\n\n"] and body["user"] == "me" and body["model"] == "brook-1b"
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    page.click("#new")
    ask(page, "hi again")
    assert fake.requests[1]["temperature"] == 0.7  # a new conversation starts with the last settings
    page.click("#open-settings")
    page.click("#reset")
    page.click("#settings [value=close]")
    ask(page, "and again")
    assert not set(values) & set(fake.requests[2]) and "stop" not in fake.requests[2]


def test_regenerate_and_branches(page, fake):
    fake.reply = Reply("First.")
    ask(page, "q")
    fake.reply = Reply("Second.")
    press(page, "Answer again")
    finished(page)
    assert answers(page) == ["Second."] and page.inner_text(".assistant .branch") == "2/2"
    assert fake.requests[1]["messages"] == fake.requests[0]["messages"]
    page.click("[aria-label='Previous version']")
    assert answers(page) == ["First."]
    fake.reply = Reply("Third.")
    ask(page, "r")
    assert [m["content"] for m in fake.requests[2]["messages"]] == ["q", "First.", "r"]
    page.click("[aria-label='Next version']")
    assert answers(page) == ["Second."]
    page.click("[aria-label='Previous version']")
    assert answers(page) == ["First.", "Third."]


def test_edit(page, fake):
    ask(page, "one")
    ask(page, "two")
    press(page, "Edit", 0)
    page.fill(".edit textarea", "ONE")
    page.click(".edit .primary")
    finished(page)
    assert [m["content"] for m in fake.requests[2]["messages"]] == ["ONE"] and page.locator(".user .said").all_inner_texts() == ["ONE"]
    page.click(".user [aria-label='Previous version']")
    expect(page.locator(".user .said")).to_have_text(["one", "two"])
    page.fill("#input", "")
    page.press("#input", "ArrowUp")  # the last question
    assert page.input_value(".edit textarea") == "two"
    page.press(".edit textarea", "Escape")
    assert page.locator(".edit").count() == 0
    press(page, "Edit", -1)  # an answer: kept beside the old one, nothing is sent
    page.fill(".edit textarea", "My answer.")
    page.click(".edit .primary")
    assert answers(page)[-1] == "My answer." and len(fake.requests) == 3


def test_delete_and_undo(page):
    ask(page, "one")
    ask(page, "two")
    press(page, "Delete from here on", 0)
    assert page.locator("article").count() == 0 and page.locator("#empty").is_visible()
    page.click("#notice .link")
    assert page.locator("article").count() == 4
    press(page, "Delete from here on", 2)
    expect(page.locator("article")).to_have_count(2)
    page.evaluate("addMessage(chat, chat.head, {role: 'user', content: 'three'}); show()")
    page.click("#notice .link")  # what was deleted is a version again; what was written since stays
    expect(page.locator(".user .said")).to_have_text(["one", "three"])
    page.click(".user [aria-label='Previous version']")
    expect(page.locator(".user .said")).to_have_text(["one", "two"])
    page.click("[popovertarget=more]")
    page.click("#delete-chat")
    assert page.locator("#chats button").count() == 0 and stored(page) == []
    page.click("#notice .link")
    assert page.locator("article").count() == 4 and len(stored(page)) == 1


def test_copy(page, fake, browser):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    fake.reply = Reply(ANSWER)
    ask(page, "q")
    press(page, "Copy", 1)
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER
    page.click("[aria-label='Copy this code']")
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER.split("```c\n")[1].split("\n```")[0]
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # plain http on another host
    press(page, "Copy", 0)
    expect(page.locator("article.user .buttons button").first.locator("use")).to_have_attribute("href", "#i-check")


def test_export_and_import(page, fake, open_page, tmp_path):
    fake.reply = Reply("Forty-two.\n\n```c\nint x;\n```", reasoning="Let me think.")
    ask(page, "What is it?")

    def export(button):
        page.click("[popovertarget=more]")
        with page.expect_download() as d:
            page.click(button)
        d.value.save_as(tmp_path / d.value.suggested_filename)
        return tmp_path / d.value.suggested_filename

    markdown = export("#export-markdown")
    assert markdown.name == "What-is-it-.md"
    assert markdown.read_text() == "# What is it?\n\n## You\n\nWhat is it?\n\n## Assistant\n\n> Let me think.\n\nForty-two.\n\n```c\nint x;\n```\n"
    exported = export("#export-json")
    other = ready(open_page(fake.url))
    other.set_input_files("#import-file", exported)
    expect(other.locator("article.assistant .prose").last).to_contain_text("Forty-two.")
    [a], [b] = stored(page), stored(other)
    assert {**a, "id": 0} == {**b, "id": 0}
    for bad in ("no json", "[]", '{"conversations": []}', '{"conversations": [{"messages": 3}, null]}'):
        (tmp_path / "bad.json").write_text(bad)
        other.set_input_files("#import-file", tmp_path / "bad.json")
        expect(other.locator("#notice span")).to_contain_text("This file holds no conversation")
    assert len(stored(other)) == 1


def test_import_of_hostile_files(page, tmp_path):
    """Circles, foreign types and prototype names end as a plain conversation or not at all."""
    messages = {"a": {"id": "a", "parent": "b", "created": 1, "role": "user", "content": ATTACKS[1]},
                "b": {"id": "b", "parent": "a", "created": 1, "role": "assistant", "content": {"x": 1}, "stats": {"completion_tokens": "<b>"}, "error": "x"},
                "c": {"id": "constructor", "parent": "constructor", "created": 2, "role": "assistant", "content": "fine", "tool_calls": [None, {"function": {"name": ATTACKS[0]}}]},
                "d": {"id": "../x", "role": "user"}, "e": {"id": "e", "role": "system", "content": "x"}}
    file = {"conversations": [{"id": "../../x", "title": ["x"], "messages": messages, "head": "constructor", "settings": {"temperature": {}, "system": "s"}}]}
    (tmp_path / "x.json").write_text(json.dumps(file) .replace('"settings"', '"__proto__": {"pwn": 1}, "settings"'))
    page.set_input_files("#import-file", tmp_path / "x.json")
    expect(page.locator("article.assistant .prose").last).to_contain_text("fine")
    [chat] = stored(page)
    assert len(chat["messages"]) == 3 and chat["settings"] == {"system": "s"} and page.evaluate("({}).pwn") is None
    (tmp_path / "y.json").write_text(json.dumps({"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}))
    page.set_input_files("#import-file", tmp_path / "y.json")
    expect(page.locator("article.assistant .prose").last).to_have_text("ho")


def test_several_conversations(page, fake):
    """An answer goes on while another conversation is open."""
    fake.reply = Reply("slow " * 30, delay=0.03)
    ask(page, "first", wait=False)
    page.wait_for_selector("article.assistant .prose p")
    page.click("#new")
    assert page.locator("article").count() == 0 and page.locator("#chats .running").count() == 1
    fake.reply = Reply("quick")
    ask(page, "second")
    assert answers(page) == ["quick"]
    page.wait_for_selector("#chats:not(:has(.running))")
    page.click("#chats button:has-text('first')")
    assert answers(page) == [("slow " * 30).strip()]
    page.fill("#title", "A river")
    page.press("#title", "Enter")
    assert page.locator("#chats [aria-current]").inner_text() == "A river"


def test_two_tabs(page, fake):
    ask(page, "q")
    other = page.context.new_page()
    other.goto(page.url)
    other.click("#chats button")
    ask(page, "r")
    expect(other.locator("article")).to_have_count(4)
    fake.reply = Reply("slow " * 40, delay=0.03)
    ask(page, "s", wait=False)
    page.wait_for_selector("article:nth-of-type(6) p")
    fake.reply = Reply("quick")
    expect(other.locator(".user .said").last).to_have_text("s")
    ask(other, "t")  # both tabs add to the conversation at once: nothing is lost
    finished(page)
    assert {m["content"] for m in stored(page)[0]["messages"].values()} >= {"s", "t", "quick", "slow " * 40}
    press(page, "Delete from here on", 0)
    expect(other.locator("article")).to_have_count(0)
    other.close()


def test_reload_in_the_middle(page, fake):
    fake.reply = Reply("word " * 1000, delay=0.01)
    ask(page, "q", wait=False)
    page.wait_for_selector("article.assistant .prose p")
    page.reload()
    assert answers(page)[0].startswith("word") and fake.left.wait(5)
    # the old page may still have learnt that its connection went, or not
    assert re.search("interrupted|connection was lost", page.inner_text("article.assistant"))


def test_full_storage(page, fake):
    """Nothing is thrown away when the storage is full; the page says so and offers the export."""
    page.evaluate("localStorage.setItem('sluice.chat.big', 'x'.repeat(4.4e6))")
    fake.reply = Reply("y" * 60000, piece=10000)
    ask(page, "z" * 60000)
    assert "storage is full" in page.inner_text("#notice") and answers(page) == ["y" * 60000]
    page.click("#notice .link")
    page.evaluate("localStorage.removeItem('sluice.chat.big')")
    ask(page, "again")
    assert len(stored(page)) == 1 and len(stored(page)[0]["messages"]) == 4


# ---------------------------------------------------------------- what goes wrong

def test_stop(page, fake):
    fake.reply = Reply("word " * 1000, delay=0.01)
    ask(page, "q", wait=False)
    page.wait_for_selector("article.assistant .prose p")
    page.press("#input", "Escape")
    finished(page)
    assert fake.left.wait(5) and "word" in answers(page)[0] and page.inner_text(".figures >> nth=-1").endswith("stopped")


def test_error_before_the_answer(page, fake):
    fake.reply = Reply(status=400, error={"message": "This model's maximum context length is 8192 tokens. <b>", "code": "context_length_exceeded"})
    ask(page, "q")
    assert page.inner_text(".error p") == "This model's maximum context length is 8192 tokens. <b>"
    fake.reply = Reply("Now.")
    page.click("text=Try again")
    finished(page)
    assert answers(page) == ["Now."] and page.locator(".error, .branch:not(:empty)").count() == 0


@pytest.mark.parametrize("reply, message", [
    (Reply("A few words", error={"message": "The engine has failed.", "code": "device_error"}), "The engine has failed."),
    (Reply("A few words", cut=True), "The connection was lost before the answer was complete."),
], ids=["error event", "cut off"])
def test_error_in_the_middle(page, fake, reply, message):
    fake.reply = reply
    ask(page, "q")
    assert page.inner_text(".error p") == message and answers(page) == ["A few words"]
    assert list(stored(page)[0]["messages"].values())[1]["content"] == "A few words"


def test_unreachable(page, fake):
    page.context.set_offline(True)
    ask(page, "important question")
    assert page.inner_text(".error p") == "The server cannot be reached."
    assert page.locator(".user .said").inner_text() == "important question"
    expect(page.locator("#server")).to_have_text("Not reachable")


@pytest.mark.parametrize("code, text, words", [("model_loading", "The model is still loading.", "Loading the model"),
                                               ("server_draining", "The server is shutting down.", "Shutting down")])
def test_not_ready(open_page, fake, code, text, words):
    """The page says what the server says, and comes alive by itself."""
    fake.models = fake.reply = Reply(status=503, error={"message": text, "code": code})
    page = open_page(fake.url)
    expect(page.locator("#server")).to_have_text(words)
    assert page.inner_text("#about") == text
    ask(page, "q")
    assert page.inner_text(".error p") == text
    fake.models = Reply()
    ready(page)


def test_draining_server(open_page, start):
    s = start("--sim-step-us", "20000", "--shutdown-timeout", "3")
    page = ready(open_page(s.base_url[:-2]))
    page.evaluate("chat.settings.extra = JSON.stringify({max_tokens: 2000, ignore_eos: true})")
    ask(page, "q", wait=False)
    page.wait_for_selector("article.assistant .prose p")
    s.stop(timeout=10)
    page.wait_for_selector(".error")
    assert answers(page)[0] and page.inner_text(".error p")
    expect(page.locator("#server")).to_have_text("Not reachable")


def test_api_key(page, fake):
    fake.key = "sk-river"
    ask(page, "q")
    assert "Incorrect API key" in page.inner_text(".error p")
    page.click(".error >> text=Set the API key")
    page.fill("#key", "sk-river")
    page.press("#key", "Enter")
    page.click("text=Try again")
    finished(page)
    assert answers(page) == ["Hello."]
    assert page.evaluate("JSON.stringify(localStorage).includes('sk-river')") is False
    assert page.evaluate("sessionStorage.getItem('sluice.key')") == "sk-river"


# ---------------------------------------------------------------- reasoning and tools

def test_reasoning(page, fake):
    fake.reply = Reply("Done.", reasoning="**Hm**, let me see. " * 10, delay=0.01)
    ask(page, "q", wait=False)
    expect(page.locator(".thought summary")).to_have_text("Thinking")
    finished(page)
    assert re.fullmatch(r"Thought for [\d.]+ s", page.inner_text(".thought summary")) and not page.locator(".thought .prose").is_visible()
    page.click(".thought summary")
    assert page.locator(".thought .prose strong").first.is_visible()
    ask(page, "r")
    assert fake.requests[1]["messages"][1] == {"role": "assistant", "content": "Done."}  # thoughts are not sent back


def test_tool_calls(page, fake):
    fake.reply = Reply(calls=[("get_weather", '{"city": "Paris"}'), ("broken", '{"x": ')])
    ask(page, "Weather?")
    assert page.locator(".call figcaption span").all_inner_texts() == ["calls get_weather", "calls broken"]
    assert page.locator(".call code").all_inner_texts() == ['{\n  "city": "Paris"\n}', '{"x": ']
    fake.reply = Reply("It rains.")
    page.fill("[aria-label='Result of get_weather']", "rain")
    page.fill("[aria-label='Result of broken']", "error")
    page.click("text=Send the results")
    finished(page)
    sent = fake.requests[1]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "tool"]
    assert sent[1]["tool_calls"][0] == {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    assert sent[2] == {"role": "tool", "content": "rain", "tool_call_id": "call_0"} and answers(page)[-1] == "It rains."
    assert page.locator(".results").count() == 0


# ---------------------------------------------------------------- Markdown

RENDERED = r"""(text) => {
  const view = new MarkdownView(document.createElement("div"));
  view.update(text);
  for (const n of view.element.querySelectorAll("figcaption")) n.remove();
  for (const n of view.element.querySelectorAll("code span")) n.replaceWith(...n.childNodes);
  for (const n of view.element.querySelectorAll("*"))
    for (const a of ["class", "tabindex", "role", "aria-label", "title", "rel", "target"]) n.removeAttribute(a);
  return view.element.innerHTML;
}"""


@pytest.mark.parametrize("text, html", MARKDOWN, ids=[repr(t)[1:30] for t, _ in MARKDOWN])
def test_markdown(shared_page, text, html):
    assert shared_page.evaluate(RENDERED, text) == html


@pytest.fixture(scope="module")
def shared_page(browser, server):
    """One page for what only calls the renderer."""
    page = browser.new_page()
    page.add_init_script(WATCH)
    page.goto(f"http://127.0.0.1:{server.port}/")
    yield page
    assert page.evaluate("wrong") == []
    page.close()


def test_markdown_grows_as_it_ends(shared_page):
    """Character by character, and in random pieces, a text becomes the same nodes as at once."""
    texts = [ANSWER] + [t for t, _ in MARKDOWN] + ["\n\n".join(t for t, _ in MARKDOWN), "\n".join(t for t, _ in MARKDOWN)]
    assert shared_page.evaluate("""(texts) => {
      const plain = (view) => { view.element.normalize(); return view.element.innerHTML; };
      for (const text of texts) {
        const whole = new MarkdownView(document.createElement("div"));
        whole.update(text);
        for (let round = 0; round < 4; round++) {
          const view = new MarkdownView(document.createElement("div"));
          for (let n = 0; n < text.length;) view.update(text.slice(0, n += round ? 1 + Math.floor(Math.random() * 40) : 1));
          if (plain(view) !== plain(whole)) return [text, plain(view), plain(whole)];
        }
      }
      return "same";
    }""", texts) == "same"


def test_links_are_safe(shared_page):
    links = shared_page.evaluate("""(text) => {
      const view = new MarkdownView(document.createElement("div"));
      view.update(text);
      return [...view.element.querySelectorAll("a")].map((a) => [a.rel, a.target, a.protocol]);
    }""", "[a](https://a.example) http://b.example <mailto:c@d.example>")
    assert links == [["noopener noreferrer nofollow", "_blank", p] for p in ("https:", "http:", "mailto:")]


def test_attacks(page, fake, tmp_path):
    """Every attack as answer, thought, question, title, tool, error and imported file: text, nothing more."""
    text = "\n\n".join(ATTACKS)
    fake.reply = Reply(text, reasoning=text, calls=[(a, a) for a in ATTACKS[:8]], piece=11)
    ask(page, text)
    for a in ATTACKS[:3]:
        fake.reply = Reply(status=500, error={"message": a})
        page.click("#new")
        ask(page, a)
        assert page.inner_text(".error p") == a
    page.click("#chats button >> nth=-1")
    page.wait_for_timeout(300)
    found = page.evaluate("""() => {
      const bad = [];
      for (const n of document.querySelectorAll("main *, nav *")) {
        if (/^(script|img|iframe|object|embed|style|link|base|meta|math|video|audio|form)$/i.test(n.localName) && !["composer"].includes(n.id) && !n.matches(".results")) bad.push(n.outerHTML);
        for (const a of n.attributes) if (/^on|^style$|^srcdoc$|^formaction$/i.test(a.name) && !n.matches("textarea")) bad.push(n.outerHTML);
        if (n.localName === "a" && !/^(https?|mailto):/.test(n.href)) bad.push(n.outerHTML);
      }
      return bad;
    }""")
    assert found == []
    shown = page.locator("article.assistant > .prose").first.inner_text()
    for a in ("<script>pwned()</script>", "<img src=x onerror=pwned()>", "<svg/onload=pwned()>", "javascript:pwned()"):
        assert a in shown


def test_policy_holds(open_page, fake):
    """The second line of defence: even a careless line of ours could not turn text into markup, or run or load anything."""
    page = ready(open_page(fake.url))
    assert page.evaluate("""() => {
      const tries = [() => { document.body.innerHTML = "<b>"; }, () => setTimeout("pwned()"), () => { el("script").textContent = "pwned()"; },
                     () => document.body.setAttribute("onclick", "pwned()")];
      return tries.map((t) => { try { t(); return "allowed"; } catch (e) { return e.name; } });
    }""") == ["TypeError"] * 4
    assert page.evaluate("fetch('http://localhost:1/').catch((e) => e.name)") == "TypeError"
    page.evaluate("document.body.append(el('img', {src: '/x.png'}), el('iframe', {src: '/'}))")
    page.wait_for_timeout(300)
    seen = {w.split(" ")[1] for w in page.evaluate("wrong.splice(0)")}
    assert seen >= {"require-trusted-types-for", "connect-src", "img-src", "frame-src"}


def test_long_answer_stays_fast(shared_page):
    """10,000 tokens, a token at a time: an update at the end still takes a fraction of a millisecond, where
    rendering the whole text takes several."""
    first, last, whole = shared_page.evaluate("""(answer) => {
      const view = new MarkdownView(document.createElement("div"));
      document.body.append(view.element);
      const text = answer.repeat(Math.ceil(40000 / answer.length));
      const times = [];
      for (let i = 1; i <= 10000; i++) {
        const start = performance.now();
        view.update(text.slice(0, i * 4));
        times.push(performance.now() - start);
      }
      view.element.remove();
      const start = performance.now();
      new MarkdownView(document.createElement("div")).update(text);
      const whole = performance.now() - start;
      const sum = (a) => a.reduce((x, y) => x + y, 0);
      return [sum(times.slice(0, 1000)), sum(times.slice(-1000)), whole];
    }""", ANSWER + "\n")
    print(f"first 1,000 updates {first:.0f} ms, last {last:.0f} ms; the whole text at once {whole:.0f} ms")
    assert last / 1000 < 1


@pytest.mark.parametrize("piece", SLOW, ids=repr)
def test_no_text_is_slow(shared_page, piece):
    """Three tries, since the machine may be busy: what is slow by itself is slow each time."""
    for _ in range(3):
        ms = slowness(shared_page, piece)
        print(f"{piece!r}: {ms:.0f} ms")
        if ms < 3000:
            return
    raise AssertionError(f"{ms:.0f} ms")


def slowness(page, piece):
    return page.evaluate("""(text) => {
      const view = new MarkdownView(document.createElement("div"));
      const start = performance.now();
      view.update(text);
      for (const language of ["c", "python", "sh", "sql", "json", "html"]) highlight(text.slice(0, 50000), language);
      return performance.now() - start;
    }""", piece * (100_000 // len(piece)))


def test_streaming_stays_smooth(page, fake):
    """While 2,000 tokens rush in, the page answers to input: no task is long, and the reader is not pulled along."""
    fake.reply = Reply(ANSWER * 6)
    page.evaluate("""() => {
      window.longest = 0;
      new PerformanceObserver((list) => { for (const e of list.getEntries()) longest = Math.max(longest, e.duration); }).observe({type: "longtask"});
    }""")
    ask(page, "q", wait=False)
    page.locator("article.assistant table").nth(2).wait_for()  # more than a screen
    page.evaluate("document.getElementById('scroll').scrollTop = 0")
    page.wait_for_selector("#latest")
    finished(page)
    assert page.evaluate("new Promise((done) => requestAnimationFrame(() => done(document.getElementById('scroll').scrollTop)))") == 0
    page.click("#latest")
    page.wait_for_selector("#latest", state="hidden")
    assert page.evaluate("longest") < 1000


# ---------------------------------------------------------------- how it looks and who can use it

CONTRAST = r"""() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (css) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const behind = (n) => { for (; n; n = n.parentElement) { const c = rgba(getComputedStyle(n).backgroundColor); if (c[3] === 255) return c; } return rgba("white"); };
  const low = [];
  for (const n of document.querySelectorAll("body *")) {
    const hasText = [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
    if (!hasText || !n.checkVisibility() || n.matches(":disabled, option, .skip, noscript, title")) continue;
    const [a, b] = [light(rgba(getComputedStyle(n).color)), light(behind(n))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${n.localName}.${n.className} ${n.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(open_page, fake, scheme):
    page = ready(open_page(fake.url, color_scheme=scheme))
    fake.reply = Reply(ANSWER, reasoning="Hm.", calls=[("f", '{"a": 1}')])
    ask(page, "q")
    fake.reply = Reply(status=500, error={"message": "No."})
    ask(page, "r")
    page.click(".thought summary")
    page.mouse.move(0, 0)
    assert page.evaluate(CONTRAST) == []
    page.click("#open-settings")
    assert page.evaluate(CONTRAST) == []


def test_names_and_keyboard(page, fake):
    fake.reply = Reply(ANSWER, calls=[("f", "{}")])
    ask(page, "q")
    page.click("#open-settings")
    unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, select, textarea, a, dialog, nav, section, article")].filter((n) =>
      !n.getAttribute("aria-label") && !n.getAttribute("aria-labelledby") && !n.labels?.length && !n.textContent.trim() && n.type !== "file" && n.type !== "checkbox")
      .map((n) => n.outerHTML)""")
    assert unnamed == []
    page.press("#system", "Escape")
    assert page.evaluate("document.activeElement.id") == "open-settings"
    assert page.inner_text("#status").startswith("Answer complete")
    assert page.evaluate("document.querySelector('a, button, input').className") == "skip"  # the first stop of the Tab key
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "input"


def test_theme(open_page, fake):
    page = ready(open_page(fake.url, color_scheme="dark"))
    ground = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    dark = ground()
    page.click("#theme")
    assert page.inner_text("#theme") == "Light" and ground() != dark
    page.reload()
    assert page.inner_text("#theme") == "Light" and ground() != dark
    page.click("#theme")
    assert page.inner_text("#theme") == "Dark" and ground() == dark


def test_narrow(open_page, fake):
    page = ready(open_page(fake.url, width=360, height=740))
    fake.reply = Reply(ANSWER + "x" * 200 + "\n\n" + "| long |" * 12 + "\n" + "|---|" * 12)
    ask(page, "A question that is long enough for two lines on a phone: " + "y" * 80)
    assert page.evaluate("[document, document.getElementById('scroll')].map((n) => (n.scrollingElement ?? n).scrollWidth)") == [360, 360]
    assert not page.locator("#sidebar").is_visible()
    page.click("[popovertarget=sidebar]")
    assert page.locator("#chats button").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#sidebar").is_visible()
    page.click("#open-settings")
    assert page.evaluate("document.getElementById('settings').scrollWidth") <= 360


def test_screenshots(open_page, fake, real):
    page = ready(open_page(real.base_url[:-2]))
    shot(page, "empty")
    page = ready(open_page(fake.url))
    fake.reply = Reply(ANSWER, reasoning="The user wants words counted. A hash table will do.", delay=0.004)
    ask(page, "How do I count the words of a large file in C?", wait=False)
    expect(page.locator("article.assistant > .prose")).to_contain_text("uint64_t")
    shot(page, "streaming")
    finished(page)
    page.evaluate("document.getElementById('scroll').scrollTop = 0")
    shot(page, "code")
    page.emulate_media(color_scheme="dark")
    shot(page, "dark")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 360, "height": 740})
    shot(page, "narrow")
