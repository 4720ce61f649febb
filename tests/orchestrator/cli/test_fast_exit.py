import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator.cli.fast_exit import loading

ROOT = Path(__file__).parents[3]
WITNESS = (
    "import atexit, sys\n"
    "class Witness:\n"
    "    def __del__(self): sys.stderr.write('taken apart\\n')\n"
    "witness = Witness()\n"
    "atexit.register(print, 'handlers ran')\n"
)
"""Tells in what way a process ends."""


def ended(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITNESS + code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def ended_at_once(last: str) -> subprocess.CompletedProcess[str]:
    return ended(
        "from orchestrator.cli.fast_exit import ending_at_once\n"
        f"with ending_at_once():\n    print('x' * 300_000)\n    {last}\n"
    )


@pytest.mark.parametrize(
    ("last", "code"), [("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(3)", 3)]
)
def test_an_exit_keeps_its_code_its_output_and_its_handlers(last: str, code: int) -> None:
    """Output larger than a pipe's buffer arrives whole, and the interpreter is not torn down."""
    process = ended_at_once(last)
    assert process.returncode == code
    assert process.stdout == "x" * 300_000 + "\nhandlers ran\n"
    assert process.stderr == ""


@pytest.mark.parametrize(
    ("last", "said"), [("sys.exit('why')", "why"), ("raise KeyError('why')", "KeyError: 'why'")]
)
def test_an_end_with_a_message_is_left_to_the_interpreter(last: str, said: str) -> None:
    """The interpreter prints the message or the traceback and exits with 1."""
    process = ended_at_once(last)
    assert process.returncode == 1
    assert said in process.stderr
    assert "taken apart" in process.stderr
    assert process.stdout.endswith("handlers ran\n")


def test_output_that_cannot_be_flushed_shows_in_the_exit_code() -> None:
    """The interpreter reports it, as at the usual end of a process."""
    code = "sys.stdout = open('/dev/full', 'w')\nsys.__stdout__ = sys.stdout\nprint('lost')\n"
    usual = ended(code)
    process = ended(
        f"from orchestrator.cli.fast_exit import ending_at_once\n{code}"
        "with ending_at_once():\n    sys.exit(0)\n"
    )
    assert process.returncode == usual.returncode == 120
    assert "No space left on device" in process.stderr


def merged(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    base, expert = directory / "base.safetensors", directory / "expert.safetensors"
    for number, path in enumerate((base, expert)):
        save_file({"w": torch.full((4,), float(number))}, path)
    output = directory / "out.safetensors"
    words = ["merge", "--method", "ties", "--base", base, "-o", output, *options, expert]
    return ended("from orchestrator.cli.main import main\nmain()\n", *words)


def test_a_merge_ends_at_once_with_its_file_and_its_message(tmp_path: Path) -> None:
    """This runs the command line's own process, with its output in a pipe."""
    process = merged(tmp_path, "--set", "scaling=2")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.endswith(f"wrote {tmp_path / 'out.safetensors'}\nhandlers ran\n")
    assert load_file(tmp_path / "out.safetensors")["w"].tolist() == [2.0] * 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "density=2"], "density=2 is not allowed"),
        (["--align"], "cannot be matched"),
    ],
)
def test_a_merge_that_is_refused_says_why_and_exits_with_2(
    tmp_path: Path, options: list[str], said: str
) -> None:
    """This holds for errors found before torch is loaded, and after."""
    process = merged(tmp_path, *options)
    assert process.returncode == 2
    assert said in process.stderr
    assert "taken apart" not in process.stderr


def test_loading_turns_garbage_collection_off_and_on_again() -> None:
    """Collection is off inside and on again outside, unless it was off before."""
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
