"""Runs a study on a real cluster until its budget is spent, then with a higher budget.

`make test` has the parts: the order of jobs and their costs (`orchestrator/costs/test_budget.py`),
the stop of trials, merges and runs (`test_coordinator.py` and `test_session.py` there in `run/`).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from known_models import remember_models

pytestmark = [pytest.mark.cluster, pytest.mark.large]
TIMEOUT_S = 600
STUDY = {
    "name": "frugal",
    "backbone": {"model": "test_efficientnet", "weights": "none", "image_size": 32},
    "tasks": {
        "names": ["mnist_5k", "font_letters", "emoji_objects"],
        "max_train": 64,
        "max_test": 32,
    },
    "finetune": {"defaults": {"steps": 4, "batch_size": 8, "lr": 0.001}},
    "groups": {"size": 2},
    "merge": [{"method": "average"}],
    "resources": {"trial": {"cpu": 2}, "merge": {"cpu": 2}},
    "store": "./store",
}


class Home:
    """A directory that holds the study file and in which the commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        remember_models(folder / "cache")

    def run(self, budget: dict[str, float], *, exit_code: int) -> str:
        """Runs the study under a budget and returns the printed output."""
        (self.folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "budget": budget}))
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        ended = subprocess.run(
            [str(Path(sys.executable).with_name("mergesweep")), "run", "study.yaml"],
            cwd=self.folder,
            env={**kept, "MERGESWEEP_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert ended.returncode == exit_code, ended.stdout
        assert "Traceback" not in ended.stdout
        return ended.stdout

    def manifests(self, kind: str) -> dict[Path, bytes]:
        """Returns the manifests of a kind of artifacts by path."""
        found = (self.folder / "store" / "artifacts" / kind).glob("*/*/manifest.json")
        return {path: path.read_bytes() for path in found}


def test_study_stops_within_its_budget_and_goes_on_when_it_is_raised(tmp_path: Path) -> None:
    """Each higher budget lets the study make more, and no committed artifact is made again.

    The first budget allows nothing, the second two of three experts and their merge, the third
    all artifacts.
    """
    home = Home(tmp_path)
    printed = home.run({"cpu_hours": 1e-9}, exit_code=3)
    assert "left out, by the estimates: 3 trials and 3 merge jobs" in printed
    assert "budget.cpu_hours: " in printed
    assert not home.manifests("base")
    # The base and the images take 0.9 MB, each expert 0.42 MB: two experts fit into 1.9 MB.
    printed = home.run({"gigabytes": 0.0019}, exit_code=3)
    assert "not run (budget): " in printed
    assert "budget.gigabytes: " in printed
    experts, merges = home.manifests("expert"), home.manifests("merge")
    assert (len(experts), len(merges)) == (2, 1)
    assert "not run (budget)" in (tmp_path / "store/studies/frugal/report.html").read_text()
    home.run({"gigabytes": 1}, exit_code=0)
    assert len(home.manifests("merge")) == 3
    assert home.manifests("expert").items() >= experts.items()
    assert home.manifests("merge").items() >= merges.items()
