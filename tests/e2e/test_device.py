"""One binary for machines with and without a GPU: the driver, cuBLASLt and NCCL are never linked, only looked for."""
import re, subprocess

import pytest

from harness import BIN, TINY, Server


def doctor():
    return subprocess.run([BIN, "doctor"], capture_output=True, text=True, check=True).stdout


HAS_GPU = "free" in re.search(r"^gpu.*", doctor(), re.M)[0]


def test_no_cuda_library_is_linked():
    needed = subprocess.run(["readelf", "-d", BIN], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"\(NEEDED\).*\[(.*)\]", needed)
    assert "libc.so.6" in libraries
    assert not [l for l in libraries if re.search(r"cuda|cublas|nccl|nvidia|nvrtc", l)], libraries
    resolved = subprocess.run(["ldd", BIN], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"cuda|cublas|nccl|nvidia|not found", resolved), resolved


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_auto_serves_on_the_cpu_where_there_is_no_gpu():
    with Server(model=TINY) as s:
        assert re.search(r"^sluice +\S+ on cpu$", s.log_text(), re.M)
        assert s.complete("hello", max_tokens=4, ignore_eos=True)["usage"]["completion_tokens"] == 4


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_cuda_without_a_gpu_says_why():
    s = Server("--device", "cuda", model=TINY, wait=False)
    assert s.process.wait(10) == 1
    assert re.search(r"no CUDA driver|no CUDA GPU|no device \"cuda\" in this build", s.log_text()), s.log_text()
