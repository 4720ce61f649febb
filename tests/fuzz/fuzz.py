"""Runs random cases of users' input through the command line, and finds tracebacks.

    python tests/fuzz/fuzz.py --cases 2000 --seed 0
    python tests/fuzz/fuzz.py --kind tables --only 17       # one case again, with its output

Each case depends on its kind, the seed and its number alone. Prints one paragraph per fault and
exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import random
import shlex
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import command_lines
import image_folders
import study_files
import tables
import tensor_files
from forked import Ending, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from case import Case, Maker

KINDS: dict[str, Maker] = {
    "study_files": study_files.make,
    "image_folders": image_folders.make,
    "tables": tables.make,
    "tensor_files": tensor_files.make,
    "command_lines": command_lines.make,
}
EXIT_CODES = (0, 1, 2, 3, 130)
MAX_LINES = 10
"""Most lines on standard error."""
TIMEOUT_S = 60.0
WIDTH = 4000
"""So that a message is one line, whatever its length."""


def main() -> int:
    """Runs the cases and prints the faults; returns the exit code."""
    options = _parser().parse_args()
    kinds = [options.kind] if options.kind else list(KINDS)
    numbers = range(options.cases) if options.only is None else [options.only]
    codes: Counter[tuple[str, int | None]] = Counter()
    num_faults = 0
    # No TemporaryDirectory: a forked child that runs its exit handlers would delete it.
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        for number in numbers:
            kind = kinds[number % len(kinds)] if options.only is None else kinds[0]
            for case, command, ending in run_case(kind, number, seed=options.seed, scratch=scratch):
                codes[kind, ending.code] += 1
                faults = list(faults_of(ending))
                num_faults += bool(faults)
                if faults or options.only is not None:
                    _print(kind, number, case=case, command=command, ending=ending, faults=faults)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for (kind, code), count in sorted(codes.items(), key=str):
        _say(f"{kind:14} exit {code}: {count}")
    _say(f"{sum(codes.values())} commands, {num_faults} faults")
    return 1 if num_faults else 0


def run_case(
    kind: str, number: int, *, seed: int, scratch: Path
) -> Iterator[tuple[Case, tuple[str, ...], Ending]]:
    """Makes one case and runs its commands until one fails; yields how each ended."""
    folder = scratch / f"case-{number}"
    folder.mkdir()
    rng = random.Random(f"{kind} {seed} {number}")
    case = KINDS[kind](rng, folder)
    environment = {
        "COLUMNS": str(WIDTH),
        "HOME": str(scratch),
        "MERGESWEEP_CACHE": str(scratch / "cache"),
        "MERGESWEEP_DATA": str(scratch / "data"),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    for command in case.commands:
        ending = run_command(command, folder=folder, environment=environment, timeout_s=TIMEOUT_S)
        yield case, tuple(command), ending
        if ending.code != 0:
            break
    shutil.rmtree(folder)


def faults_of(ending: Ending) -> Iterator[str]:
    """Yields the ways in which a command did not end as documented."""
    if ending.code is None:
        yield f"still running after {TIMEOUT_S:.0f} s"
    elif ending.code not in EXIT_CODES:
        yield f"exit code {ending.code}"
    if "traceback" in f"{ending.output}{ending.errors}".lower():
        yield "a traceback"
    lines = [line for line in ending.errors.splitlines() if line.strip()]
    if len(lines) > MAX_LINES:
        yield f"{len(lines)} lines of errors"
    if ending.code != 0 and not lines and not ending.output.strip():
        yield "no message"


def _print(
    kind: str,
    number: int,
    *,
    case: Case,
    command: tuple[str, ...],
    ending: Ending,
    faults: list[str],
) -> None:
    _say(f"--- {kind} {number}: {'; '.join(faults) or 'ended as documented'}")
    _say(f"    {'; '.join(case.about)}")
    _say(f"    mergesweep {shlex.join(command)}   [{ending.seconds:.1f} s, exit {ending.code}]")
    for line in [*ending.output.splitlines()[-5:], *ending.errors.splitlines()[-25:]]:
        _say(f"    | {line[:400]}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 the script's output


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(KINDS), help="cases of this kind alone")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="the case of this number alone")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
