"""Freed memory is used again within a stage, and given back after it: measured by the kernel."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is glibc's to do")

# A block of 64 MiB, filled and freed, ten times after the first: pages that the kernel made anew.
COUNT_NEW_PAGES = """
import resource
for i in range(11):
    block = bytearray(b"x") * 2**26
    if i == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

# Blocks of 1 MiB below one that is not freed: resident MiB before and after.
MEASURE_RESIDENT = """
import resource
def measure():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
blocks = [bytearray(b"x") * 2**20 for _ in range(200)]
stays = bytearray(b"x") * 2**20
del blocks
full = measure()
give_back_memory()
print(full, measure())
"""


def run_python(code: str) -> list[float]:
    head = "from undial_cli.system.memory import give_back_memory, keep_freed_memory\n"
    words = [sys.executable, "-c", head + code]
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in out.split()]


def test_a_freed_block_is_the_next_one() -> None:
    pages = 2**26 / 4096
    (new,) = run_python("keep_freed_memory()\n" + COUNT_NEW_PAGES)
    assert new < 0.1 * pages  # of ten blocks


def test_free_memory_is_given_back_from_below_what_is_used() -> None:
    full, after = run_python("keep_freed_memory()\n" + MEASURE_RESIDENT)
    assert full > 200
    assert after < full - 190
