"""Measures the command `mergesweep plan` on large studies and an empty store."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = """
name: plan-size
tasks: embedded20
groups: {count: 15, size: 8}
merge: [{method: average}, {method: task_arithmetic}, {method: ties}, {method: dare}]
"""
STUDIES = {
    "20 tasks x 24 settings x 15 groups x 4 methods": """
finetune:
  axes:
    lr: [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02]
    batch_size: [8, 16, 32, 64, 128, 256]
    data_ratio: [0.1, 0.2, 0.5, 1.0]
    seed: [0, 1, 2, 3, 4, 5]
""",
    "100,800 merges of 33,600 experts": """
finetune:
  design: grid
  axes:
    lr: [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01]
    batch_size: [8, 16, 32, 64, 128, 256]
    steps: [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
    data_ratio: [0.1, 0.2, 0.5, 1.0]
""",
}
BOUNDS_S = (5, 10)


def measure(what: str) -> tuple[float, str]:
    """Returns the seconds of the command in its own process, and its output."""
    started_s = time.monotonic()
    command = [sys.executable, __file__, "--plan", what]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.monotonic() - started_s, done.stdout


def rows() -> list[tuple[str, str, str]]:
    """Measures all studies; returns the table's rows: what, measured, bound."""
    return [
        (f"plan of {what}", f"{measure(what)[0]:.1f} s", f"{bound_s} s")
        for what, bound_s in zip(STUDIES, BOUNDS_S, strict=True)
    ]


def main() -> None:
    """Prints the table's rows; with `--plan`, runs a measured command."""
    if sys.argv[1:2] == ["--plan"]:
        _plan(sys.argv[2])
        return
    for line in rows():
        print("| " + " | ".join(line) + " |")  # noqa: T201 its output


def _plan(what: str) -> None:
    from orchestrator.cli.command_line import cli  # noqa: PLC0415 part of what is measured

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(f"{BASE}{STUDIES[what]}store: {folder}/store\n")
        cli(["plan", str(path)])


if __name__ == "__main__":
    main()
