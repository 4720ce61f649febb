"""Asks for advice on studies whose merged losses are chosen, through the command."""

import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from eval.metrics import TaskSums
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.study.reader import parse_study
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest
from workers.specs.hyperparameters import Hyperparameters
from workers.store.opening import open_store

Call = Callable[..., Result]
AXES = {"lr": [0.0001, 0.0003, 0.001, 0.003, 0.01], "steps": [10, 20, 40, 80, 160]}


def truth(point: Hyperparameters) -> float:
    return 1.5 + 0.15 * math.log(point.lr / 5e-4) ** 2 + 20 / (point.steps + 20)


@pytest.fixture
def commit_study(
    study_fields: Callable[..., dict[str, Any]],
    expert_manifest: Callable[..., Manifest],
    merge_manifest: Callable[..., Manifest],
    data_manifest: Callable[..., Manifest],
) -> Callable[..., OpenedStudy]:
    """Commits a study whose merges have chosen losses; each task's differs a little."""

    def manifests(plan: Plan, loss: Callable[[Hyperparameters], float]) -> list[Manifest]:
        merges = []
        for cell in plan.first_cells.values():
            point = cell.setting.shared_point
            assert point is not None
            sums = {
                task: TaskSums(
                    num_examples=100,
                    num_correct=50,
                    loss_sum=100
                    * (loss(point) + 0.01 * (zlib.crc32(f"{task} {cell.merge.id}".encode()) % 5)),
                )
                for task in cell.group.tasks
            }
            merges.append(merge_manifest(cell.merge, tasks=sums))
        experts = [expert_manifest(spec) for spec in plan.experts.values()]
        return [*(data_manifest(spec) for spec in plan.datasets), *experts, *merges]

    def commit(
        loss: Callable[[Hyperparameters], float],
        *,
        axes: dict[str, Any],
        leave_out: int = 0,
        tasks: Mapping[str, Any] | None = None,
    ) -> OpenedStudy:
        fields = study_fields()
        if tasks is not None:
            fields["tasks"] = {"names": fields["tasks"], **tasks}
        fields["finetune"] = {"defaults": {"steps": 40, "lr": 0.0003, "batch_size": 8}}
        fields["finetune"]["axes"] = axes
        text = yaml.safe_dump(fields)
        opened = open_study(parse_study(text, source="study.yaml"), text=text)
        opened.folder.write_plan(opened.plan, study_text=text)
        store = open_store(opened.store_url)
        every = manifests(opened.plan, loss)
        for manifest in every[: len(every) - leave_out]:
            store.put(Layout.manifest(manifest.kind, manifest.id), manifest.to_json())
        return opened

    return commit


def test_advice_is_printed_and_its_test_can_be_planned(
    call: Call, commit_study: Callable[..., OpenedStudy], tmp_path: Path
) -> None:
    """The lines fit 80 columns; the next study trains only what is new, in the same groups."""
    opened = commit_study(truth, axes=AXES)
    path = tmp_path / "next.yaml"
    result = call("advise", "small", "--store", opened.store_url, "-o", path)
    assert result.exit_code == 0, result.output
    assert "Predictor: hyperparameters" in result.stdout
    assert "Best setting so far: lr=0.0003, steps=160, " in result.stdout
    lines = result.stdout.splitlines()
    assert all(
        len(line) <= 80 for line in lines if opened.store_url not in line and str(path) not in line
    )
    assert lines[-1].startswith("verdict ")
    assert f"results small-next --store {opened.store_url} --pairs" in lines[-1]

    planned = call("plan", path, "--json")
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.stdout)
    study = yaml.safe_load(path.read_text())
    assert {"steps": 160, "batch_size": 8, "lr": 0.0003, "data_ratio": 1.0} in study["finetune"][
        "points"
    ]
    assert plan["summary"]["counts"]["num_experts_done"] >= 3
    assert plan["summary"]["counts"]["num_merges_done"] >= 3


def test_steps_of_tasks_are_offered_and_written(
    call: Call, commit_study: Callable[..., OpenedStudy], tmp_path: Path
) -> None:
    """A study with snapshots and validation images gets a study that chooses and trains nothing."""
    opened = commit_study(truth, axes={"steps": [10, 20, 40]}, tasks={"max_validation": 20})
    path = tmp_path / "steps.yaml"
    printed = call("advise", "small", "--store", opened.store_url)
    assert "advise small --store" in printed.stdout
    assert "--steps -o next.yaml" in printed.stdout
    result = call("advise", "small", "--store", opened.store_url, "--steps", "-o", path)
    assert result.exit_code == 0, result.output
    assert "Predictor:" not in result.stdout
    following = build_plan(parse_study(path.read_text(), source="steps.yaml"))
    assert following.experts.keys() == opened.plan.experts.keys()
    new = following.merges.keys() - opened.plan.merges.keys()
    assert len(new) == len(opened.plan.groups)


def test_a_study_without_validation_images_cannot_choose_steps(
    call: Call, commit_study: Callable[..., OpenedStudy], tmp_path: Path
) -> None:
    """The reason names the field, and no file is written."""
    opened = commit_study(truth, axes={"steps": [10, 20, 40]})
    path = tmp_path / "steps.yaml"
    result = call("advise", "small", "--store", opened.store_url, "--steps", "-o", path)
    assert result.exit_code == 0, result.output
    assert "tasks.max_validation" in result.stdout
    assert "is not written" in result.stdout
    assert not path.exists()


def test_json_has_the_candidates_with_their_intervals(
    call: Call, commit_study: Callable[..., OpenedStudy]
) -> None:
    """The same numbers as the table, in the order of the predicted loss."""
    opened = commit_study(truth, axes=AXES)
    result = call("advise", "small", "--store", opened.store_url, "--json")
    assert result.exit_code == 0, result.output
    (method,) = json.loads(result.stdout)["methods"]
    candidates = method["ranking"]["candidates"]
    assert [each["loss"] for each in candidates] == sorted(each["loss"] for each in candidates)
    assert all(each["low"] < each["low_80"] < each["loss"] < each["high"] for each in candidates)
    assert method["record"]["is_supported"] is True


def test_noise_ranks_nothing_and_writes_nothing(
    call: Call, commit_study: Callable[..., OpenedStudy], tmp_path: Path
) -> None:
    """The answer is that no predictor is better than the baseline; this is no failure."""
    opened = commit_study(lambda _: 2.0, axes=AXES)
    path = tmp_path / "next.yaml"
    result = call("advise", "small", "--store", opened.store_url, "-o", path)
    assert result.exit_code == 0, result.output
    assert "No better than the baseline here" in " ".join(result.stdout.split())
    assert "is not written" in result.stdout
    assert not path.exists()


@pytest.mark.parametrize(
    ("axes", "leave_out", "said"),
    [
        ({}, 0, "no two settings can be compared"),
        ({"optimizer": ["sgd", "adam"]}, 0, "no two settings can be compared"),
        (AXES, 6, "The study is unfinished: 6 of 27 merges are missing"),
        (AXES, 27, "no merge has a result yet"),
    ],
)
def test_a_study_that_lacks_something_says_so(
    call: Call,
    commit_study: Callable[..., OpenedStudy],
    axes: dict[str, Any],
    leave_out: int,
    said: str,
) -> None:
    """One line each, and exit code 0."""
    opened = commit_study(truth, axes=axes, leave_out=leave_out)
    result = call("advise", "small", "--store", opened.store_url)
    assert result.exit_code == 0, result.output
    assert said in " ".join(result.stdout.split())


def test_wrong_calls_are_refused(
    call: Call, commit_study: Callable[..., OpenedStudy], tmp_path: Path
) -> None:
    """A file with a mistake and a method that the study does not have end with code 2."""
    opened = commit_study(truth, axes=AXES)
    path = tmp_path / "candidates.yaml"
    path.write_text("axes: {lr: [0]}\n")
    store = ("--store", opened.store_url)
    wrong = call("advise", "small", *store, "--candidates", path)
    assert wrong.exit_code == 2
    assert "axes.lr[0]: 0 is not allowed" in wrong.stderr
    unknown = call("advise", "small", *store, "--method", "ties")
    assert unknown.exit_code == 2
    assert "it has average" in unknown.stderr
