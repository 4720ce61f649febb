"""Measures the memory of merge jobs against the number of experts in their pools.

Takes a finished study with pools, such as `pools-memory.yaml`, and runs the merge jobs of its first
group again, each in a process of its own, as `python -m workers.run` does. The store keeps what it
has. Own memory (RssAnon) counts, without the pages of mapped files.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measured_process import measure

from orchestrator.plan.plan import Cell, Plan
from orchestrator.run.opened import open_by_name

LIMIT_GB = 16.0


def cells_of(plan: Plan, *, axis: str) -> Iterator[Cell]:
    """Yields the cells of the first group on the axis of a pool, method by method."""
    cells = [cell for cell in plan.cells if cell.setting.axis == axis]
    for label in dict.fromkeys(cell.label for cell in cells):
        of_method = [cell for cell in cells if cell.label == label]
        yield from (cell for cell in of_method if cell.group == of_method[0].group)


def main() -> None:
    """Prints a row of a table for each method and pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="the name of a finished study with pools")
    parser.add_argument("--store", required=True, metavar="URL")
    parser.add_argument("--axis", default="pool_irrelevant")
    parser.add_argument("--methods", nargs="*", help="labels; all by default")
    args = parser.parse_args()
    opened = open_by_name(args.name, store_url=args.store, is_read_only=True)
    print("| method | experts | own memory, MB | over the smallest pool's | CPU-s |")  # noqa: T201
    print("| --- | ---: | ---: | ---: | ---: |")  # noqa: T201
    smallest: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells_of(opened.plan, axis=args.axis):
            if args.methods and cell.label not in args.methods:
                continue
            command = [sys.executable, "-m", "workers.run", cell.merge.id, "--store", args.store]
            cost = measure(command, log=Path(folder) / "log", limit_gb=LIMIT_GB)
            least = smallest.setdefault(cell.label, cost.peak_anonymous_gb)
            print(  # noqa: T201 the table
                f"| {cell.label} | {len(cell.merge.merged)} | {1000 * cost.peak_anonymous_gb:.0f} "
                f"| {cost.peak_anonymous_gb / least:.3f} | {cost.cpu_s:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
