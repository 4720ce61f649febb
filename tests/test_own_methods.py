"""The method of docs/own-methods.md in a real study on two nodes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from known_models import remember_models
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
ROOT = Path(__file__).parents[1]
STUDY = """
name: own
backbone: {model: test_efficientnet, weights: none, image_size: 16}
tasks: {names: [mnist_5k, font_letters, emoji_objects], max_train: 32, max_test: 16}
finetune:
  optimizer: {name: adam}
  defaults: {steps: 3, batch_size: 8, lr: 0.001}
groups: {size: 2}
merge: [{method: average}, {method: ./my_method.py:Median, scaling: 0.5}]
resources: {trial: {cpu: 1}, merge: {cpu: 1}}
store: ./store
"""
NUM_GROUPS = 3


def example() -> str:
    """Returns the method of the documentation."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/own-methods.md").read_text(), re.DOTALL
    )
    return code


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Starts a cluster of two nodes of one slot each; returns its address."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1)
    try:
        yield cluster.address
    finally:
        if ray.is_initialized():
            ray.shutdown()
        cluster.shutdown()


class Home:
    """A folder with a study and its method, in which commands run on a cluster."""

    def __init__(self, folder: Path, *, address: str) -> None:
        self.folder = folder
        self.address = address
        remember_models(folder / "cache")
        (folder / "study.yaml").write_text(STUDY)
        (folder / "my_method.py").write_text(example())
        for name in ("merge", "workers", "eval", "tqdm"):  # the user's own, not ours
            (folder / f"{name}.py").write_text("raise SystemExit(7)")

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        """Runs a command to its end; returns its output."""
        ended = subprocess.run(
            [str(Path(sys.executable).with_name("mergesweep")), *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "RAY_ADDRESS": self.address,
                "MERGESWEEP_CACHE": str(self.folder / "cache"),
            },
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert ended.returncode == exit_code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def merges(self) -> dict[str, dict[str, Any]]:
        """Returns the specifications of the committed merges by their users' methods, by id."""
        paths = (self.folder / "store/artifacts/merge").glob("*/*/manifest.json")
        found = [json.loads(path.read_bytes()) for path in paths]
        return {each["id"]: each["spec"] for each in found if "own_method" in each["spec"]}


def test_method_of_a_user_runs_on_two_nodes(two_nodes: str, tmp_path: Path) -> None:
    """It is recorded by its digest, goes on without its file, and is another one after an edit."""
    home = Home(tmp_path, address=two_nodes)
    assert "Median" in home.run("run", "study.yaml")
    first = home.merges()
    assert len(first) == NUM_GROUPS
    (source,) = {spec["own_method"]["source"] for spec in first.values()}
    (stored,) = (home.folder / "store/methods").iterdir()
    assert stored.name == f"{source.removeprefix('sha256:')}.py"
    assert stored.read_text() == example()
    assert {spec["params"]["scaling"] for spec in first.values()} == {0.5}
    rows = home.run("results", "own", "--store", "store", "--format", "csv")
    assert rows.count('"Median"') == rows.count('"average"') > 0

    # Without the file, the study goes on from the store: a lost merge is made again.
    (home.folder / "my_method.py").unlink()
    lost = next(iter(first))
    manifest = home.folder / f"store/artifacts/merge/{lost[:2]}/{lost}/manifest.json"
    before = json.loads(manifest.read_bytes())["metrics"]
    manifest.unlink()
    home.run("resume", "own", "--store", "store")
    assert json.loads(manifest.read_bytes())["metrics"] == before
    assert "my_method.py cannot be read" in home.run("plan", "study.yaml", exit_code=2)

    # An edited file is another method; experts and other merges stay.
    experts = sorted((home.folder / "store/artifacts/expert").glob("*/*/manifest.json"))
    edited = example().replace("scaling * vectors", "scaling * 1.5 * vectors")
    (home.folder / "my_method.py").write_text(edited)
    home.run("run", "study.yaml")
    assert len(home.merges().keys() - first.keys()) == NUM_GROUPS
    assert sorted((home.folder / "store/artifacts/expert").glob("*/*/manifest.json")) == experts
    listed = home.run("gc", "--store", "store", "--min-age", "0")
    assert f"methods/{stored.name}" in listed
    assert "methods: 1 object" in listed
    home.run("verify", "own", "--store", "store")
    for path in (home.folder / "store/methods").iterdir():
        path.unlink()
    assert "method" in home.run("verify", "own", "--store", "store", exit_code=1)
