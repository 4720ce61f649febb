"""Runs a study again and again while parts of it are killed, and compares how it ends.

`python tests/chaos/chaos.py --seeds 20 [--first-seed 0] [--pace-s 75] [--short] [--keep]`
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from checks import (
    CheckError,
    Ending,
    check_no_orphans,
    compare,
    read_ending,
    set_aside,
    wait_for_publishers,
)
from disturbance import Disturbance, StuckError
from faults import Fault, draw_faults
from nodes import NUM_NODES
from parts import (
    NotReadyError,
    run_in_folder,
)
from summary import SeedResult, seed_line, table
from surroundings import Surroundings, started_surroundings

from workers.store.opening import open_store
from workers.store.protocol import StoreError

STUDY = Path(__file__).with_name("study.yaml")
NAME = str(yaml.safe_load(STUDY.read_text("utf-8"))["name"])
_FINISHED = "nothing left to run"
_MAX_RERUNS = 3
_EXPECTED_UNDISTURBED_S = 200.0
"""Assumed length of the undisturbed study until it is measured; a minute on two idle cores."""


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """The undisturbed study, which every seed must end like."""

    around: Surroundings
    ending: Ending
    seconds: float
    pace_s: float
    """Unit of the times between a seed's faults."""


def study_fields(*, is_short: bool) -> dict[str, Any]:
    """Returns the study file's fields.

    A short seed has one learning rate, half the steps and two groups.
    """
    study: dict[str, Any] = yaml.safe_load(STUDY.read_text("utf-8"))
    if is_short:
        study["finetune"]["defaults"]["steps"] = 200
        study["finetune"]["axes"] = {"steps": [100, 200]}
        study["groups"]["count"] = 2
    return study


@contextmanager
def prepared_study(
    around: Surroundings,
    *,
    folder: Path,
    is_short: bool,
    faults: Sequence[Fault],
    undisturbed_s: float,
    pace_s: float,
) -> Iterator[Disturbance]:
    """Prepares a study in its own store prefix and cluster, and takes both down at the end."""
    folder.mkdir()
    study = study_fields(is_short=is_short)
    study |= {"store": around.s3.url(folder.name), "tracking": around.mlflow.url}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    disturbance = Disturbance(
        around=around,
        cluster=around.new_cluster(folder, num_nodes=2 if is_short else NUM_NODES),
        folder=folder,
        faults=faults,
        undisturbed_s=undisturbed_s,
        pace_s=pace_s,
    )
    try:
        yield disturbance
    finally:
        disturbance.close()
        around.wait()
        set_aside(around.mlflow.url, study=NAME, name=folder.name)


def ending_of(disturbance: Disturbance) -> Ending:
    """Runs a study to its end, runs it again, verifies it, and returns its ending.

    Raises:
        StuckError: A command does not end, or ends with an error.
        CheckError: The study ends, but something is lost or left over.
    """
    around, store_url = disturbance.around, disturbance.around.s3.url(disturbance.folder.name)
    disturbance.run()
    wait_for_publishers()
    for _ in range(_MAX_RERUNS):
        if _FINISHED in disturbance.command("run", "study.yaml"):
            break
    else:
        raise CheckError(f"the study is not finished after {_MAX_RERUNS} more runs")
    where = ("--store", store_url)
    disturbance.command("verify", NAME, *where)
    disturbance.command("gc", *where, "--min-age", "0", "--delete")
    store = open_store(store_url)
    check_no_orphans(store)
    return read_ending(store, study=NAME, tracking=around.mlflow.url)


def run_undisturbed(
    around: Surroundings, *, folder: Path, is_short: bool, pace_s: float | None
) -> Undisturbed:
    """Runs the study without faults."""
    with prepared_study(
        around,
        folder=folder / "undisturbed",
        is_short=is_short,
        faults=(),
        undisturbed_s=_EXPECTED_UNDISTURBED_S,
        pace_s=0,
    ) as disturbance:
        disturbance.run()
        wait_for_publishers()
        store = open_store(around.s3.url(disturbance.folder.name))
        ending = read_ending(store, study=NAME, tracking=around.mlflow.url)
    seconds = disturbance.seconds
    return Undisturbed(around=around, ending=ending, seconds=seconds, pace_s=pace_s or seconds)


def run_seed(seed: int, *, undisturbed: Undisturbed, folder: Path, is_short: bool) -> SeedResult:
    """Runs the study with a seed's faults and compares its ending with the undisturbed one."""
    problem = ""
    faults = draw_faults(seed, is_short=is_short)
    with prepared_study(
        undisturbed.around,
        folder=folder / f"seed-{seed}",
        is_short=is_short,
        faults=faults,
        undisturbed_s=undisturbed.seconds,
        pace_s=undisturbed.pace_s,
    ) as disturbance:
        try:
            compare(ending_of(disturbance), expected=undisturbed.ending)
        except (CheckError, StuckError, NotReadyError, StoreError) as error:
            (disturbance.folder / "problem.txt").write_text(str(error))
            problem = f"{str(error).splitlines()[0][:300]} (logs: {disturbance.folder})"
    return SeedResult(
        seed=seed,
        injected=disturbance.injected,
        num_drivers=disturbance.num_drivers,
        seconds=disturbance.seconds,
        problem=problem,
    )


def run_all(
    seeds: Sequence[int], *, folder: Path, is_short: bool, pace_s: float | None
) -> list[SeedResult]:
    """Runs the study undisturbed and then with each seed's faults; prints the results."""
    with started_surroundings(folder) as around:
        os.environ.update(around.environment)  # this process reads the store as well
        undisturbed = run_undisturbed(around, folder=folder, is_short=is_short, pace_s=pace_s)
        _say(f"undisturbed: {undisturbed.seconds:.0f} s")
        results = []
        for seed in seeds:
            results.append(
                run_seed(seed, undisturbed=undisturbed, folder=folder, is_short=is_short)
            )
            _say(seed_line(results[-1]))
    _say(f"\n{table(results, undisturbed_s=undisturbed.seconds)}")
    return results


def main() -> int:
    """Runs the command line; returns 1 if a seed failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--pace-s",
        type=float,
        help="unit of the times between faults; default: the undisturbed study's length",
    )
    parser.add_argument("--short", action="store_true", help="four faults a seed, for CI")
    parser.add_argument("--keep", action="store_true", help="keep logs and stores in any case")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)

    def run(folder: Path) -> bool:
        results = run_all(seeds, folder=folder, is_short=arguments.short, pace_s=arguments.pace_s)
        return all(not result.problem for result in results)

    return run_in_folder(run, prefix="mc-", keep=arguments.keep)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 its output


if __name__ == "__main__":
    sys.exit(main())
