"""A stand-in for the model behind the chat page: answers of the test's choosing, streamed as sluice streams them.

GET / is passed on from a real server, page and headers alike. Everything else is a Reply: what to say, how fast, and how
to fail.
"""
import dataclasses, http.server, json, threading, time


@dataclasses.dataclass
class Reply:
    text: str = ""
    reasoning: str = ""
    calls: list = dataclasses.field(default_factory=list)  # (name, arguments)
    finish: str = "stop"
    delay: float = 0  # seconds before each piece
    piece: int = 4  # characters a piece
    status: int = 200  # another one: `error` is the whole answer
    error: dict | None = None  # with status 200: an error event after the text
    cut: bool = False  # the connection breaks off after the text

    def deltas(self):
        for key, text in (("reasoning_content", self.reasoning), ("content", self.text)):
            for i in range(0, len(text), self.piece):
                yield {key: text[i:i + self.piece]}
        for i, (name, arguments) in enumerate(self.calls):
            yield {"tool_calls": [{"index": i, "id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": ""}}]}
            for at in range(0, len(arguments), 5):
                yield {"tool_calls": [{"index": i, "function": {"arguments": arguments[at:at + 5]}}]}


class PageServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind = behind  # the real server that serves the page
        self.key = None  # an API key to ask for
        self.reply = Reply("Hello.")
        self.models = Reply()  # with a status other than 200: what /v1/models answers
        self.requests = []  # bodies of chat requests
        self.left = threading.Event()  # a client went away in the middle of an answer
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, *about):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *about):
        pass

    def send(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, status, value):
        self.send(status, [("Content-Type", "application/json")], json.dumps(value).encode())

    def is_refused(self):
        if not self.server.key or self.headers.get("Authorization") == "Bearer " + self.server.key:
            return False
        self.send_json(401, {"error": {"message": "Incorrect API key provided.", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}})
        return True

    def do_GET(self):
        if self.path == "/":
            r = self.server.behind.get("/")
            return self.send(200, [(k, v) for k, v in r.getheaders() if k not in ("Date", "Content-Length", "Connection")], r.body)
        if self.is_refused():
            return None
        m = self.server.models
        if m.status != 200:
            return self.send_json(m.status, {"error": m.error})
        return self.send_json(200, {"object": "list", "data": [{"id": name, "object": "model", "max_model_len": 32768} for name in ("river-8b", "brook-1b")]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_refused():
            return
        self.server.requests.append(body)
        reply = self.server.reply
        if reply.status != 200:
            return self.send_json(reply.status, {"error": reply.error})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.stream(reply)
        except OSError:
            self.server.left.set()

    def event(self, value):
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()

    def chunk(self, n, delta, finish=None):
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        usage = {"prompt_tokens": 21, "completion_tokens": n, "total_tokens": 21 + n, "prompt_tokens_details": {"cached_tokens": 16}}
        self.event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "river-8b", "choices": choices, "usage": usage})

    def stream(self, reply):
        n = 0
        self.wfile.write(b": keep-alive\n")
        self.chunk(0, {"role": "assistant", "content": ""})
        for delta in reply.deltas():
            time.sleep(reply.delay)
            n += 1
            self.chunk(n, delta)
        if reply.cut:
            return
        if reply.error:
            self.event({"error": reply.error})
        else:
            self.chunk(n, {}, "tool_calls" if reply.calls else reply.finish)
            self.chunk(n, None)
        self.wfile.write(b"data: [DONE]\n\n")
