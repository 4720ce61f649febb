"""Measures the command `mergesweep plan` on a large study and an empty store.

The study has 20 tasks, 24 settings, 15 groups and 4 methods.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_TASKS = 20
STUDY = """
name: plan-size
tasks: embedded20
finetune:
  axes:
    lr: [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02]
    batch_size: [8, 16, 32, 64, 128, 256]
    data_ratio: [0.1, 0.2, 0.5, 1.0]
    seed: [0, 1, 2, 3, 4, 5]
groups: {{count: 15, size: 8}}
merge: [{{method: average}}, {{method: task_arithmetic}}, {{method: ties}}, {{method: dare}}]
store: {store}
"""


def measure() -> tuple[float, str]:
    """Returns the seconds of the command in its own process, and its output."""
    started_s = time.monotonic()
    command = [sys.executable, __file__, "--plan"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.monotonic() - started_s, done.stdout


def rows(seconds: float) -> list[tuple[str, str, str]]:
    """Returns the table's rows: what, measured, bound."""
    what = f"plan of {NUM_TASKS} tasks x 24 settings x 15 groups x 4 methods"
    return [(what, f"{seconds:.1f} s", "5 s")]


def main() -> None:
    """Prints the table's rows; with `--plan`, runs the measured command."""
    if sys.argv[1:] == ["--plan"]:
        _plan()
        return
    seconds, printed = measure()
    print(printed)  # noqa: T201 its output
    for line in rows(seconds):
        print("| " + " | ".join(line) + " |")  # noqa: T201 its output


def _plan() -> None:
    from orchestrator.cli.command_line import cli  # noqa: PLC0415 part of what is measured

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(STUDY.format(store=Path(folder) / "store"))
        cli(["plan", str(path)])


if __name__ == "__main__":
    main()
