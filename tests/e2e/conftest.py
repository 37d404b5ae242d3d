"""The fixtures of the transport tests: servers on the sim device (the Server itself: harness.py)."""
import pytest

from harness import Server


@pytest.fixture(scope="module")
def server():
    with Server(name="sim") as s:
        yield s


@pytest.fixture
def start():
    """start(*flags) -> a Server of this test's own; asserts a clean exit of those that still run."""
    running = []

    def go(*flags, **kw):
        running.append(Server(*flags, name="sim", **kw))
        return running[-1]

    yield go
    for s in running:
        if s.process.poll() is None:
            assert s.stop(timeout=10) == 0, s.log_text()
