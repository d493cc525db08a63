import platform
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from contextlib import nullcontext
from vlp.train.scale.allocation import freed_memory_kept
BLOCK = 64 * 2**20

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(BLOCK, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults(10)
with freed_memory_kept():
    faults(1)
    kept = faults(10)
print(plain, kept, faults(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_memory_is_fetched_once_inside_the_block_and_given_back_after_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    plain, kept, after = map(int, done.stdout.split())
    pages = 64 * 2**20 // resource.getpagesize()
    assert plain >= pages / 512, "a block is fetched anew each time, if only in huge pages"
    assert kept < plain / 10
    assert after > kept
