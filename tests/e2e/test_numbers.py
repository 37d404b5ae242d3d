"""Every number of the wire specification's list (section 10) has a test that carries it: as test_NN_..., or in the id of a
parametrised case, [NN_...]. What is held otherwise is named here with its reason."""
import os, re, subprocess, sys

import pytest

LAST = 132
ELSEWHERE = {}  # number: why no test carries it

NAME = re.compile(r"::test_((?:\d{1,3}[a-z]?_)+)")
CASE = re.compile(r"[\[-](\d{1,3})_[a-z]")


def numbers(node):
    """The numbers in a test's id: test_05b_x, test_87_88_x, test_x[24_y]."""
    m = NAME.search(node)
    found = [int(re.match(r"\d+", part)[0]) for part in m[1].split("_")[:-1]] if m else []
    return found + [int(n) for n in CASE.findall(node)]


def test_reads_ids():
    assert numbers("a.py::test_05b_x") == [5] and numbers("a.py::test_87_88_x[sim]") == [87, 88]
    assert numbers("a.py::test_24_to_47_validation[30_temperature_3]") == [24, 30]
    assert numbers("a.py::test_10000_idle[n_17]") == [] and numbers("a.py::test_x[mode-122_twice]") == [122]


@pytest.mark.timeout(180)  # it imports every client library again
def test_every_number_has_a_test():
    here = os.path.dirname(os.path.abspath(__file__))
    cmd = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", here]
    out = subprocess.run(cmd, capture_output=True, text=True, cwd=here)
    assert out.returncode == 0, out.stdout[-2000:] + out.stderr[-2000:]
    found = {n for line in out.stdout.splitlines() for n in numbers(line)}
    missing = set(range(1, LAST + 1)) - found - set(ELSEWHERE)
    assert not missing and not found & set(ELSEWHERE), (sorted(missing), sorted(found & set(ELSEWHERE)))
    assert max(found) <= LAST
