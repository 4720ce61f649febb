import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


def run_fuzz(*, cases: int, timeout_s: float) -> str:
    """Runs the fuzz in a process of its own, because it forks."""
    ended = subprocess.run(
        [sys.executable, str(FUZZ), "--cases", str(cases)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_first_cases_end_as_documented() -> None:
    assert "exit 0" in run_fuzz(cases=25, timeout_s=300)


@pytest.mark.large
def test_two_thousand_cases_end_as_documented() -> None:
    printed = run_fuzz(cases=2000, timeout_s=7200)
    for kind in ("study_files", "image_folders", "tables", "tensor_files", "command_lines"):
        for code in (0, 2):
            assert f"{kind:14} exit {code}" in printed, printed
