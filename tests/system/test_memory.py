"""What is free is given back to the kernel, measured by it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Blocks of 64 KiB below one that is not freed: resident MiB before and after.
MEASURE_RESIDENT = """
import resource
from undial_cli.system.memory import give_back_memory
def measure():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
blocks = [bytearray(b"x") * 2**16 for _ in range(3200)]
stays = bytearray(b"x") * 2**16
del blocks
full = measure()
give_back_memory()
print(full, measure())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is glibc's to do")
def test_free_memory_is_given_back_from_below_what_is_used() -> None:
    words = [sys.executable, "-c", MEASURE_RESIDENT]
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    full, after = map(float, out.split())
    assert full > 200
    assert after < full - 180
