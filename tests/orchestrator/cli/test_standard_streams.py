import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = """
import sys
from orchestrator.cli.standard_streams import guard_streams, has_reader, output_failure
guard_streams()
for number in range(20_000):
    print("line", number, chr(0xb1), chr(0xdcff))
failure = output_failure()
print(has_reader(), failure and failure.strerror, file=sys.stderr)
"""


def ended(redirection: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the code with its standard output redirected by the shell."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$0" -c "$1" {redirection}', sys.executable, CODE],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        ("| head -1", "False None"),
        ("> /dev/full", "False No space left on device"),
        (">&-", "True None"),
        ("> /dev/null", "True None"),
    ],
)
def test_output_that_cannot_be_written_ends_nothing(redirection: str, said: str) -> None:
    """The command goes on to its own exit code; only a full disk is worth a message."""
    process = ended(redirection)
    assert process.returncode == 0
    assert process.stderr == f"{said}\n"


def test_no_character_is_refused() -> None:
    """Whatever the encoding of the terminal is."""
    process = ended("| head -1", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert process.stdout == "line 0 \\xb1 \\udcff\n"
    assert process.returncode == 0
