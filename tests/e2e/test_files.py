"""/v1/files: wire specification 119, and what a hostile or hurried client does."""
import json, os, threading, time

import openai
import pytest

from harness import Server, error_of, http_post

LINE = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}\n'


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A server that keeps files."""
    with Server("--data-dir", str(tmp_path_factory.mktemp("data")), "--max-file-bytes", "8m", name="sim") as s:
        yield s


def client(server, key="none"):
    return openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0)


def form(*parts, boundary="xYzZY"):
    """A multipart body of (name, filename or None, bytes), and its Content-Type."""
    out = b""
    for name, filename, data in parts:
        head = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
        out += b"--" + boundary.encode() + b"\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"
    return out + b"--" + boundary.encode() + b"--\r\n", f"multipart/form-data; boundary={boundary}"


def upload(server, *parts, headers=None):
    body, kind = form(*parts)
    return server.post("/v1/files", body, headers={"Content-Type": kind, **(headers or {})})


@pytest.mark.parametrize("order", ["python", "node"])
def test_119_upload_and_content(kept, order):
    data = os.urandom(300_000) + b"\r\n--xYzZ-almost\r\n" + os.urandom(1000)
    parts = [("purpose", None, b"batch"), ("file", "in put.jsonl", data)]
    r = upload(kept, *(parts if order == "python" else reversed(parts)))
    assert r.status == 200, r.body
    f = json.loads(r.body)
    assert f["object"] == "file" and f["bytes"] == len(data) and f["filename"] == "in put.jsonl"
    assert f["purpose"] == "batch" and f["status"] == "processed" and f["expires_at"] is None
    assert abs(f["created_at"] - time.time()) < 5
    got = kept.get(f"/v1/files/{f['id']}/content")
    assert got.status == 200 and got.body == data
    assert got.getheader("Content-Type") == "application/octet-stream"
    assert int(got.getheader("Content-Length")) == len(data)
    assert json.loads(kept.get(f"/v1/files/{f['id']}").body) == f
    gone = kept.request("DELETE", f"/v1/files/{f['id']}")
    assert json.loads(gone.body) == {"id": f["id"], "object": "file", "deleted": True}
    for method, path in ("GET", ""), ("GET", "/content"), ("DELETE", ""):
        assert error_of(kept.request(method, f"/v1/files/{f['id']}{path}"))["type"] == "invalid_request_error"


def test_119_pagination_ends(kept):
    c = client(kept)
    for old in c.files.list():
        c.files.delete(old.id)
    made = [c.files.create(file=(f"f{i}.jsonl", LINE), purpose="batch").id for i in range(5)]
    made.append(c.files.create(file=("x", b""), purpose="user_data").id)
    assert [f.id for f in c.files.list(limit=1)] == made[::-1]
    assert [f.id for f in c.files.list(limit=2, order="asc")] == made
    assert [f.id for f in c.files.list(purpose="user_data")] == made[-1:]
    page = json.loads(kept.get("/v1/files?limit=6").body)
    assert page["has_more"] is False and page["first_id"] == made[-1] and page["last_id"] == made[0]
    empty = json.loads(kept.get(f"/v1/files?after={made[0]}").body)
    assert empty["data"] == [] and empty["has_more"] is False
    for query in "limit=0", "limit=10001", "limit=x", "order=up", "after=file-nothing":
        assert kept.get("/v1/files?" + query).status == 400


def test_119_openai_python(kept):
    c = client(kept)
    f = c.files.create(file=("in.jsonl", LINE * 1000), purpose="batch",
                       expires_after={"anchor": "created_at", "seconds": 3600})
    assert f.bytes == len(LINE) * 1000 and f.expires_at == f.created_at + 3600
    assert c.files.content(f.id).read() == LINE * 1000
    assert c.files.retrieve(f.id) == f
    assert c.files.delete(f.id).deleted
    with pytest.raises(openai.NotFoundError):
        c.files.retrieve(f.id)


@pytest.mark.parametrize("parts,param", [
    ([("purpose", None, b"batch")], "file"),
    ([("file", "a", b"x")], "purpose"),
    ([("purpose", None, b"wizardry"), ("file", "a", b"x")], "purpose"),
    ([("purpose", None, b"batch"), ("file", None, b"x")], "file"),
    ([("purpose", None, b"batch"), ("file", "a", b"x"), ("file", "b", b"x")], "file"),
    ([("purpose", None, b"batch"), ("file", "a", b"x"), ("expires_after[seconds]", None, b"7200")], "expires_after[anchor]"),
    ([("purpose", None, b"batch"), ("file", "a", b"x"), ("expires_after[anchor]", None, b"created_at"),
      ("expires_after[seconds]", None, b"60")], "expires_after[seconds]"),
])
def test_bad_forms(kept, parts, param):
    r = upload(kept, *parts)
    assert r.status == 400 and error_of(r)["param"] == param, r.body


def test_bad_bodies(kept):
    body, kind = form(("purpose", None, b"batch"), ("file", "a", b"x" * 1000))
    for cut in 0, 10, len(body) // 2, len(body) - 4:
        assert kept.post("/v1/files", body[:cut], headers={"Content-Type": kind}).status == 400, cut
    assert kept.post("/v1/files", body, headers={"Content-Type": "multipart/form-data"}).status == 400
    assert kept.post("/v1/files", {"file": "x"}).status == 415
    many, kind = form(*[("purpose", None, b"batch")] * 40)
    assert kept.post("/v1/files", many, headers={"Content-Type": kind}).status == 400


def test_too_large(kept):
    """By its length at once, and when the length was not announced."""
    files = lambda: len(json.loads(kept.get("/v1/files").body)["data"])
    before = files()
    data = b"x" * (8 << 20)
    assert upload(kept, ("purpose", None, b"batch"), ("file", "a", data)).status == 200
    assert upload(kept, ("purpose", None, b"batch"), ("file", "a", data + b"x" * 100_000)).status == 413
    assert upload(kept, ("purpose", None, b"batch"), ("file", "a", data + b"x")).status == 413
    assert files() == before + 1


def test_chunked_upload(kept):
    body, kind = form(("file", "c.jsonl", b"z" * 2_000_000), ("purpose", None, b"batch"))
    conn = kept.connect()
    pieces = (body[i:i + 70_001] for i in range(0, len(body), 70_001))
    conn.request("POST", "/v1/files", pieces, {"Content-Type": kind}, encode_chunked=True)
    r = conn.getresponse()
    assert r.status == 200 and json.loads(r.read())["bytes"] == 2_000_000


def test_chunked_uploads_at_once(start, tmp_path):
    """Small HTTP chunks faster than the disk: the connection is suspended while MHD still hands on what it has read."""
    s = start("--data-dir", str(tmp_path))
    body, kind = form(("file", "c", b"z" * 6_000_000), ("purpose", None, b"batch"))
    got = []

    def go(step):
        conn = s.connect()
        pieces = (body[i:i + step] for i in range(0, len(body), step))
        conn.request("POST", "/v1/files", pieces, {"Content-Type": kind}, encode_chunked=True)
        got.append(json.loads(conn.getresponse().read())["bytes"])

    threads = [threading.Thread(target=go, args=(n,)) for n in (3000, 5000, 9000, 20000, 60000) * 3]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [6_000_000] * len(threads)


def test_upload_cut_off(kept):
    """A client that leaves in the middle leaves nothing behind."""
    body, kind = form(("purpose", None, b"batch"), ("file", "a", b"x" * 4_000_000))
    whole = http_post("/v1/files", body, f"Content-Type: {kind}")
    for cut in 300, 500_000, 3_000_000:
        with kept.socket() as s:
            s.sendall(whole[:cut])
            time.sleep(0.05)
    deadline = time.monotonic() + 5
    folder = [a for a in kept.process.args if "data" in a and a.startswith("/")][0] + "/files"
    while any(n.endswith(".part") for n in os.listdir(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [n for n in os.listdir(folder) if n.endswith(".part")]


def test_memory_stays_flat(start, tmp_path):
    """256 MiB come and go; the server never holds 8 MiB of it."""
    s = start("--data-dir", str(tmp_path))
    size, boundary = 256 << 20, b"--b\r\n"
    head = (boundary + b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' + boundary +
            b'Content-Disposition: form-data; name="file"; filename="big"\r\n\r\n')
    tail = b"\r\n--b--\r\n"

    def rss():
        with open(f"/proc/{s.process.pid}/status") as f:
            return next(int(l.split()[1]) for l in f if l.startswith("RssAnon"))

    before, most = rss(), 0
    conn = s.connect()
    conn.putrequest("POST", "/v1/files")
    conn.putheader("Content-Type", "multipart/form-data; boundary=b")
    conn.putheader("Content-Length", str(len(head) + size + len(tail)))
    conn.endheaders(head)
    block = b"0123456789abcdef" * 65536
    for _ in range(size // len(block)):
        conn.send(block)
        most = max(most, rss())
    conn.send(tail)
    r = conn.getresponse()
    f = json.loads(r.read())
    assert r.status == 200 and f["bytes"] == size
    conn.request("GET", f"/v1/files/{f['id']}/content")
    r, n = conn.getresponse(), 0
    while piece := r.read(1 << 20):
        n += len(piece)
        most = max(most, rss())
    assert n == size and most - before < 8192, (n, most - before)


def test_isolation_by_key(start, tmp_path):
    s = start("--data-dir", str(tmp_path), "--api-key", "one", "--api-key", "two")
    one, two = client(s, "one"), client(s, "two")
    f = one.files.create(file=("a", b"secret"), purpose="batch")
    assert [x.id for x in two.files.list()] == [] and [x.id for x in one.files.list()] == [f.id]
    for call in two.files.retrieve, two.files.content, two.files.delete:
        with pytest.raises(openai.NotFoundError):
            call(f.id)
    with pytest.raises(openai.NotFoundError):
        two.batches.create(input_file_id=f.id, endpoint="/v1/chat/completions", completion_window="24h")
    with pytest.raises(openai.BadRequestError):
        two.files.list(after=f.id)
    assert one.files.content(f.id).read() == b"secret"
    assert s.get("/v1/files").status == 401


def test_without_data_dir(server):
    for method, path in ("GET", "/v1/files"), ("POST", "/v1/files"), ("GET", "/v1/files/x/content"), ("GET", "/v1/batches"), ("POST", "/v1/batches"):
        r = server.request(method, path, {} if method == "POST" else None)
        assert r.status == 501 and "--data-dir" in error_of(r)["message"], (method, path, r.status)


def test_folder_is_locked(start, tmp_path):
    start("--data-dir", str(tmp_path))
    with pytest.raises(RuntimeError, match="in use by another server"):
        start("--data-dir", str(tmp_path))


def test_methods(kept):
    r = kept.request("PUT", "/v1/files", "x")
    assert r.status == 405 and r.getheader("Allow") == "GET, HEAD, POST, OPTIONS"
    r = kept.post("/v1/files/file-1", {})
    assert r.status == 405 and r.getheader("Allow") == "GET, HEAD, DELETE, OPTIONS"
    for path in "..", "..%2F..%2Fetc%2Fpasswd", "%2e%2e", "file-1%2F..%2Fx":
        assert kept.get(f"/v1/files/{path}/content").status == 404
