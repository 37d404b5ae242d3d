"""Header sets of every size around the limit: served, or told 431; never closed without an answer."""
import pytest

LIMIT, PER_HEADER = 63488, 80  # GATE_BYTES_MAX, GATE_HEADER_BYTES in src/server/gate.h


@pytest.mark.parametrize("n", [1, 40, 95])
def test_head_sizes(server, n):
    for size in range(50000, 68000, 500):
        each = size // n - len("X-00")
        lines = ["Host: localhost", "Connection: close", *(f"X-{i:02}: " + "a" * each for i in range(n))]
        counted = sum(len(l) - 2 + PER_HEADER for l in lines)
        got = server.raw(("GET /health HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode(), 2)
        if counted <= LIMIT:
            assert got.startswith(b"HTTP/1.1 200 "), (n, size, got[:200])
        else:  # ours, or MHD's own page where its memory ended first
            assert got.startswith(b"HTTP/1.1 431 "), (n, size, got[:200])
            assert b"request_header_fields_too_large" in got or b"</html>" in got
