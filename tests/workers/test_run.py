import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.plan.export import plan_file
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.study.reader import parse_study
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.checksummed_json import dump_checksummed
from workers.artifacts.node_cache import CACHE_VARIABLE
from workers.run import main
from workers.store.local import LocalStore

STUDY = """
name: by-hand
backbone: {model: test_efficientnet, weights: none, image_size: 32}
tasks: {names: [mnist_5k, bluemarble_regions], max_train: 40, max_test: 48}
finetune: {defaults: {steps: 3, batch_size: 8, lr: 0.05}, axes: {steps: [2, 3]}}
groups: {count: 1, size: 2}
merge: [{method: average}]
"""


@pytest.fixture
def plan() -> Plan:
    """Returns a small plan with bases, images, trials and merges."""
    return build_plan(parse_study(STUDY, source="test"))


@pytest.fixture
def root(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a store that contains only the plan."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "node"))
    LocalStore(tmp_path / "store").put(
        "studies/by-hand/plan.json", dump_checksummed(plan_file(plan).to_json())
    )
    return tmp_path / "store"


def test_whole_study_can_be_run_by_hand(
    root: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    """Preparations, trials and merges run by id, and the output names what is committed."""
    ids = [plan.bases.jobs[0].spec.id, *(data.id for data in plan.datasets)]
    ids += [trial.id for trial in plan.trials]
    ids += list(plan.merges)
    for artifact_id in ids:
        assert main([artifact_id, "--store", str(root)]) == 0
        assert f"{artifact_id} is committed: done" in capsys.readouterr().out
    artifacts = Artifacts(LocalStore(root))
    assert artifacts.committed_ids("merge") == set(plan.merges)
    assert artifacts.committed_ids("expert") == set(plan.experts)


def test_missing_input_is_named_with_what_to_do(
    root: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the id of the base, which must be committed first."""
    assert main([plan.trials[0].id, "--store", str(root)]) == 1
    output = capsys.readouterr().out
    assert f"base {plan.bases.jobs[0].spec.id} is not committed" in output
    assert "run that id with this command first" in output


@pytest.mark.parametrize("artifact_id", ["0123456789abcdef", "no id at all"])
def test_unknown_id_is_bad_input(
    root: Path, artifact_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No job starts."""
    assert main([artifact_id, "--store", str(root)]) == 2
    assert f"error: {artifact_id} is in none of the 1 plans" in capsys.readouterr().out


def test_wrong_store_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    """The store's own message is shown without a traceback."""
    assert main(["0123456789abcdef", "--store", "ftp://host/store"]) == 2
    assert "error: store 'ftp://host/store'" in capsys.readouterr().out


def test_command_runs_as_a_module(root: Path) -> None:
    """Failure messages print this command; a wrong id is reported without loading torch."""
    command = [sys.executable, "-m", "workers.run", "0123456789abcdef", "--store", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "is in none of the 1 plans" in done.stdout
