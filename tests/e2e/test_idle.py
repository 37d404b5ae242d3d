"""What a connection costs: 10,000 kept-alive ones that have each asked something, and one more client."""
import resource, select, socket, time

import pytest

from harness import Server

CONNECTIONS = 10000
SPARE = 200  # descriptors of this process that are no connections
BYTES_MAX = 80 * 1024  # of the server's memory for one connection: MHD's 64 KiB, its structs, ours
ASK = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def memory(server):
    status = open(f"/proc/{server.process.pid}/status").read()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


@pytest.fixture
def files():
    """As many descriptors as the system allows; skips where those are too few."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    if before[1] < CONNECTIONS + SPARE:
        pytest.skip(f"only {before[1]} open files are allowed")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.timeout(90)
def test_10000_idle_connections(files):
    with Server("--max-connections", str(CONNECTIONS + SPARE)) as server:
        before, start = memory(server), time.monotonic()
        idle = []
        for _ in range(CONNECTIONS):
            c = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            c.sendall(ASK)
            idle.append(c)
        for c in idle:
            assert c.recv(4096).startswith(b"HTTP/1.1 200 ")
        each, opened = (memory(server) - before) / CONNECTIONS, time.monotonic() - start
        latencies = []
        for _ in range(50):
            start = time.monotonic()
            server.complete("hello", max_tokens=1)
            latencies.append(time.monotonic() - start)
        latencies.sort()
        print(f"{CONNECTIONS} connections: {each:.0f} bytes each, opened in {opened:.1f} s; "
              f"one more request takes {latencies[25] * 1e3:.1f} ms in the median")
        assert each < BYTES_MAX
        assert latencies[25] < 0.1
        poll = select.poll()
        for c in idle:
            poll.register(c, select.POLLIN | select.POLLHUP)
        assert poll.poll(0) == []  # all are still open
        for c in idle:
            c.close()
