import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from workers.freed_memory import keep_freed_memory
{call}

def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"x") * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fill()
print(sum(fill() for _ in range(4)))
"""


def num_faults(call: str) -> int:
    """Returns the page faults of filling 64 MB four more times in a process of its own."""
    command = [sys.executable, "-c", PROGRAM.format(call=call)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_is_used_again() -> None:
    """Memory that was used before needs no page of the system's; by default it needs them all."""
    assert num_faults("keep_freed_memory()") < 100 < num_faults("")
