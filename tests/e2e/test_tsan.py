"""Data races: the server built with ThreadSanitizer under every kind of client at once; not one report.

$SLUICE_TSAN_BIN names the binary (scripts/test builds it: cmake --preset tsan); without it there is no test.
Nothing is suppressed: libmicrohttpd and libuv are not instrumented, and what they hand on comes clean.
"""
import contextlib, glob, http.client, json, os, random, socket, subprocess, threading, time

import pytest

from harness import TINY, Server, http_post
from test_abuse import GOOD, SEED, cut_one, malformed, raw

BIN = os.environ.get("SLUICE_TSAN_BIN")
SECONDS = 12
pytestmark = pytest.mark.skipif(not BIN, reason="SLUICE_TSAN_BIN is not set")

LONG = {**GOOD, "prompt": list(range(3, 300)) * 6, "max_tokens": 8}  # above 4 KiB: parsed on the work pool


def cut(server, rng):
    cut_one(server.port, rng)


def garble(server, rng):
    with server_socket(server) as c:
        c.sendall(malformed(rng))
        c.recv(65536)


def server_socket(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


def stream(server, rng):
    """A reader that now and then stops reading until the buffer is full."""
    with server_socket(server) as c:
        c.sendall(raw({**GOOD, "stream": True, "max_tokens": rng.choice([3, 200]), "n": rng.choice([1, 4])}))
        while b"[DONE]" not in (got := c.recv(65536)) and got:
            time.sleep(rng.choice([0, 0, 0.01]))


def ask(server, rng):
    server.post("/v1/completions", rng.choice([GOOD, GOOD, LONG]))


def look(server, rng):
    server.get(rng.choice(["/metrics", "/health", "/v1/models", "/version", "/nothing"]))


def batch(server, rng):
    """A file up, a batch of it, its answers; sometimes cut or cancelled."""
    lines = "".join(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": rng.choice(
        [GOOD, GOOD, LONG, {**GOOD, "seed": 1}, {"prompt": 3}])}) + "\n" for i in range(rng.choice([3, 60])))
    form = ('--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: form-data; '
            'name="file"; filename="in"\r\n\r\n' + lines + "\r\n--b--\r\n")
    kind = "multipart/form-data; boundary=b"
    if rng.random() < 0.2:
        with server_socket(server) as c:
            c.sendall(http_post("/v1/files", form.encode(), f"Content-Type: {kind}")[:rng.randrange(len(form))])
        return
    f = json.loads(server.post("/v1/files", form, headers={"Content-Type": kind}).body)
    b = json.loads(server.post("/v1/batches", {"input_file_id": f["id"], "endpoint": "/v1/completions",
                                               "completion_window": rng.choice(["1s", "24h"])}).body)
    for _ in range(100):
        b = json.loads(server.get("/v1/batches/" + b["id"]).body)
        if b["status"] in ("completed", "cancelled", "expired"):
            break
        if rng.random() < 0.05:
            server.post(f"/v1/batches/{b['id']}/cancel", {})
        time.sleep(0.02)
    for out in b["output_file_id"], b["error_file_id"]:
        if out:
            server.get(f"/v1/files/{out}/content")
            server.request("DELETE", f"/v1/files/{out}")
    server.get("/v1/files?limit=2")
    server.get("/v1/usage")


def repeat(what, server, seed, done):
    rng = random.Random(seed)
    while server.process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException, RuntimeError, KeyError, ValueError):
            what(server, rng)
            done.append(what)


def hammer(server, seconds):
    """Every kind of client at once, SIGTERM after `seconds`; what they did, the exit status."""
    done = []
    kinds = [cut, cut, garble, stream, stream, ask, ask, look, batch, batch]
    threads = [threading.Thread(target=repeat, args=(k, server, SEED + i, done)) for i, k in enumerate(kinds)]
    for t in threads:
        t.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.process.wait(seconds)
    server.process.terminate()
    status = server.process.wait(20)
    for t in threads:
        t.join()
    return done, status


@pytest.mark.timeout(110)
@pytest.mark.parametrize("model, status, flags", [
    (None, 0, ["--sim-step-us", "200", "--max-num-seqs", "4", "--num-gpu-blocks-override", "400", "--max-model-len", "4096"]),
    (None, 70, ["--fail-step", "3000"]),
    (TINY, 0, ["--device", "cpu", "--threads", "4", "--tensor-parallel-size", "2", "--max-num-seqs", "4", "--max-queue-size", "8"]),
], ids=["sim", "lost-device", "cpu"])
def test_no_data_race(tmp_path, model, status, flags):
    """A signal, or the loss of the device, comes while all clients are there."""
    options = f"log_path={tmp_path}/race exitcode=66 history_size=4"
    flags = *flags, "--data-dir", str(tmp_path / "data"), "--response-cache-bytes", "64k"
    server = Server("--shutdown-timeout", "2", *flags, model=model, binary=BIN, env={"TSAN_OPTIONS": options})
    try:
        done, code = hammer(server, SECONDS)
    finally:
        server.process.kill()
    reports = "\n".join(open(f).read() for f in glob.glob(f"{tmp_path}/race*"))
    print({k.__name__: done.count(k) for k in set(done)})
    assert not reports, f"seed {SEED}: {reports[:8000]}"
    assert code == status, server.log_text()[-2000:]
    assert {k.__name__ for k in done} >= {"cut", "garble", "stream", "ask", "look", "batch"}
