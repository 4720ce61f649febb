"""Runs a study of given experts, kills it twice at random moments, and compares how it ends.

`python tests/chaos/given_experts.py [--seed 0] [--keep]`. Each kill is signal 9 to the command
and all processes that it started, its Ray included. Store and MLflow's database are local.
"""

import argparse
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import yaml
from checks import Ending, compare, read_ending
from parts import Part, run_in_folder
from safetensors.torch import save_file
from servers import program

from workers.store.opening import open_store

NAME = "given"
TASKS = ("mnist_5k", "font_letters", "emoji_objects", "fashion_mnist_5k")
MODEL = "test_efficientnet"
NUM_EXPERTS, NUM_MERGES = len(TASKS), 6 * 4  # all pairs by four methods
NUM_KILLS = 2
_FINISHED = "nothing left to run"
_STUDY = {
    "name": NAME,
    "tasks": {"names": list(TASKS), "max_train": 200, "max_test": 64},
    "groups": {"size": 2},
    "merge": [
        {"method": "average"},
        {"method": "task_arithmetic", "scaling": 0.4},
        {"method": "ties", "scaling": 0.6},
        {"method": "dare", "scaling": 0.4},
    ],
    "store": "./store",
}
_TIMEOUT_S = 600.0
_POLL_S = 0.02


@dataclass(frozen=True)
class Home:
    """A folder with the study file, in which the command runs."""

    folder: Path

    @property
    def store(self) -> Path:
        """The study's store."""
        return self.folder / "store"

    def command(self, *arguments: str) -> Part:
        """Returns a command of mergesweep, not started yet, that has no cluster to connect to."""
        kept = {name: each for name, each in os.environ.items() if name != "RAY_ADDRESS"}
        own = {"MERGESWEEP_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        return Part(
            f"{len(list(self.folder.glob('*.log')))}-{arguments[0]}",
            [program("mergesweep"), *arguments],
            environment={**kept, **own},
            folder=self.folder,
        )

    def num_committed(self) -> int:
        """Counts the committed experts and merges."""
        found = (self.store / "artifacts").glob("*/*/*/manifest.json")
        return sum(each.parts[-4] in {"expert", "merge"} for each in found)

    def run(self, *arguments: str) -> str:
        """Runs a command to its end; returns what it printed."""
        part = self.command(*arguments)
        part.start()
        _wait(part)
        code = part.poll()
        part.kill()
        assert code == 0, f"{' '.join(arguments)} ended with {code}:\n{part.tail(40)}"
        return part.text()

    def run_until_killed(self, num_artifacts: int, *, pause_s: float) -> int:
        """Kills a run after so many more artifacts and a pause; returns how many there are then."""
        enough = self.num_committed() + num_artifacts
        part = self.command("run", "study.yaml", "--take-over")
        part.start()
        _wait(part, until=enough, home=self)
        time.sleep(pause_s)
        assert part.poll() is None, f"the run ended before it was killed:\n{part.tail()}"
        part.kill()
        return self.num_committed()

    def ending(self) -> Ending:
        """Returns the results of the finished study."""
        database = f"sqlite:///{self.store / 'mlflow.db'}"
        return read_ending(open_store(str(self.store)), study=NAME, tracking=database)


def _wait(part: Part, *, until: int | None = None, home: Home | None = None) -> None:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while part.poll() is None:
        if home is not None and until is not None and home.num_committed() >= until:
            return
        assert time.monotonic() < deadline_s, part.tail(40)
        time.sleep(_POLL_S)


def write_weights(folder: Path) -> None:
    """Writes a base, and an expert of each task that is a random step away from it."""
    torch.manual_seed(0)
    base = timm.create_model(MODEL, num_classes=0).state_dict()
    save_file(base, folder / "base.safetensors")
    for task in TASKS:
        moved = {
            name: each + 0.02 * torch.randn_like(each) if each.ndim > 1 else each.clone()
            for name, each in base.items()
        }
        save_file(moved, folder / f"{task}.safetensors")


def new_home(folder: Path, *, weights: Path) -> Home:
    """Returns a folder with the study file and nothing else."""
    folder.mkdir()
    study = {
        **_STUDY,
        "backbone": {
            "model": MODEL,
            "weights": str(weights / "base.safetensors"),
            "image_size": 16,
        },
        "experts": {task: str(weights / f"{task}.safetensors") for task in TASKS},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return Home(folder)


def check(folder: Path, *, seed: int) -> str:
    """Runs the study undisturbed and with kills, and compares; returns a line on the kills.

    Raises:
        AssertionError: The endings differ, or a run does not end.
    """
    write_weights(folder)
    undisturbed = new_home(folder / "undisturbed", weights=folder)
    undisturbed.run("run", "study.yaml")
    expected = undisturbed.ending()
    num_planned = NUM_EXPERTS + NUM_MERGES
    assert undisturbed.num_committed() == num_planned, "the study is larger than its kills assume"
    draw, home = random.Random(seed), new_home(folder / "killed", weights=folder)
    found = [
        home.run_until_killed(draw.randint(1, num_planned // 2 - 2), pause_s=draw.random() / 4)
        for _ in range(NUM_KILLS)
    ]
    home.run("resume", NAME, "--store", "./store", "--take-over")
    for _ in range(2):
        if _FINISHED in home.run("run", "study.yaml"):
            break
    else:
        raise AssertionError("something is left to run after the end")
    compare(home.ending(), expected=expected)
    home.run("verify", NAME, "--store", "./store")
    artifacts = ", then ".join(map(str, found))
    return f"killed with {artifacts} of {num_planned} artifacts; ended with the same bytes"


def main() -> int:
    """Runs the command line; returns 1 if the study ended differently."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep logs and stores in any case")
    arguments = parser.parse_args()

    def run(folder: Path) -> bool:
        try:
            _say(check(folder, seed=arguments.seed))
        except AssertionError as error:
            _say(str(error))
            return False
        return True

    return run_in_folder(run, prefix="mg-", keep=arguments.keep)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 its output


if __name__ == "__main__":
    sys.exit(main())
