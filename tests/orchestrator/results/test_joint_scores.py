"""Joint scores of a study that was really run: ids, tables, views, and plain torch by hand."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from in_process import small_study

from orchestrator.cli.command_line import cli
from orchestrator.plan.plan import Plan
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.write_outputs import report_page, write_outputs
from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study
from orchestrator.tracking.run_fields import merge_scores, spread_scores
from workers.artifacts.metrics import MergeMetrics
from workers.merging.merged_models import features_under, merged_models
from workers.workspace import Workspace

Made = tuple[OpenedStudy, Workspace]
METHODS: list[dict[str, Any]] = [
    {"method": "average", "label": "one model"},
    {"method": "average", "label": "statistics", "batch_norm": "per_task"},
    {"method": "average", "label": "surgery", "surgery": {"steps": 2}},
    {"method": "emr", "label": "masks"},
]
COLUMNS = ("joint_accuracy", "joint_calibrated_accuracy")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Runs the study once for all tests of this module."""
    with small_study(
        tmp_path_factory.mktemp("joint"),
        tasks={
            "names": ["emoji_objects", "mnist_5k", "font_letters"],
            "max_train": 64,
            "max_test": 24,
            "max_validation": 12,
        },
        finetune={"defaults": {"steps": 8, "batch_size": 8, "lr": 0.01}},
        groups={"count": 1, "size": 2},
        merge=METHODS,
        evaluation={"joint": "calibrated", "held_out": True},
    ) as study:
        yield study


def test_scores_are_those_of_concatenated_logits(made: Made) -> None:
    """By hand: features of the merge, all heads, temperatures as the manifest has them."""
    opened, workspace = made
    (cell,) = [each for each in opened.plan.cells if each.label == "one model"]
    manifest = opened.ledger.committed().merges[cell.merge.id]
    joint = MergeMetrics.from_json(manifest.metrics).joint
    assert joint is not None
    assert list(joint.tasks) == list(joint.temperatures) == list(cell.group.tasks)
    ((backbone, _),) = merged_models(cell.merge, workspace=workspace)
    for place, expert in enumerate(cell.merge.experts):
        split = workspace.split(expert.data_id, "test")
        features = features_under(
            expert, spec=cell.merge, backbone=backbone, split=split, workspace=workspace
        )
        for sums, is_scaled in ((joint.tasks, False), (joint.calibrated, True)):
            logits = [
                workspace.expert_head(each.id)(features.clone()).detach()
                / (joint.temperatures[each.task] if is_scaled else 1)
                for each in cell.merge.experts
            ]
            sizes = [each.shape[1] for each in logits]
            right = torch.from_numpy(split.labels.copy()) + sum(sizes[:place])
            answers = torch.hstack(logits).argmax(1)
            assert sums[expert.task].num_correct == int((answers == right).sum())


def test_tables_have_columns_of_their_own(made: Made) -> None:
    """Null where the model needs the task; means as those of other accuracies; stored alike."""
    opened, _ = made
    results = StudyResults.of(opened.ledger.committed())
    rows = results.merges.to_pylist()
    filled = {(row["method"], row["task"]) for row in rows if row["joint_accuracy"] is not None}
    own = [row for row in rows if row["method"] == "one model"]
    of_group = {row["task"]: row for row in own if not row["held_out"]}
    assert filled == {("one model", task) for task in of_group}
    tasks = [row for task, row in of_group.items() if task not in {"macro", "union"}]
    for column in COLUMNS:
        assert of_group["macro"][column] == pytest.approx(sum(each[column] for each in tasks) / 2)
        correct = sum(each[column] * each["num_examples"] for each in tasks)
        assert of_group["union"][column] == pytest.approx(correct / 48)
        assert all(0 <= each[column] <= 1 for each in tasks)
    assert all(each["joint_accuracy"] <= each["accuracy"] for each in tasks)
    write_outputs(opened, results=results)
    stored = StudyResults.stored(opened.folder)
    assert stored is not None
    assert stored.rows.equals(results.rows)


def test_views_show_them_apart(made: Made) -> None:
    """Terminal, table of means, report and MLflow."""
    opened, _ = made
    results = StudyResults.of(opened.ledger.committed())
    words = ["results", "small", "--store", opened.store_url]
    shown = CliRunner().invoke(cli, words).output
    assert "joint" in shown
    assert "labelled validation" in re.sub(r"\s+", " ", shown)
    page = report_page(opened, results=results)
    assert "joint accuracy, %" in page
    assert "calibrated on labelled validation, %" in page
    by_method = {mean.method: mean for mean in results.means}
    scores = spread_scores(by_method["one model"].macro, prefix="macro")
    own = [row for row in results.merges.to_pylist() if row["method"] == "one model"]
    for column in COLUMNS:
        assert scores[f"macro_{column}_mean"] == merge_scores(own)[f"macro_{column}"]
        assert f"macro_{column}_mean" not in spread_scores(by_method["masks"].macro, prefix="macro")


def test_ids_change_only_where_a_joint_score_is_made(make_plan: Callable[..., Plan]) -> None:
    """Merges with modules per task, experts, and studies without joint scores keep their ids."""
    by_value = {
        value: make_plan(
            merge=METHODS,
            evaluation={"joint": value},
            tasks={"names": ["emoji_objects", "mnist_5k"], "max_validation": 8},
        )
        for value in ("none", "plain", "calibrated")
    }
    ids = {value: [cell.merge.id for cell in plan.cells] for value, plan in by_value.items()}
    for one, other in (("none", "plain"), ("plain", "calibrated")):
        same = [a == b for a, b in zip(ids[one], ids[other], strict=True)]
        assert same == [cell.label != "one model" for cell in by_value[one].cells]
    assert len({tuple(plan.experts) for plan in by_value.values()}) == 1
    assert all("joint" not in cell.merge.to_json() for cell in by_value["none"].cells)


def test_calibration_needs_validation_images(study_fields: Callable[..., dict[str, Any]]) -> None:
    """The fault names the field and both remedies."""
    fields = study_fields(evaluation={"joint": "calibrated"})
    with pytest.raises(StudyError) as caught:
        parse_study(yaml.safe_dump(fields), source="it")
    told = str(caught.value)
    assert "evaluation.joint" in told
    assert "use 'plain', or give tasks.max_validation" in told


@pytest.mark.parametrize(("methods", "num_warnings"), [(METHODS, 0), (METHODS[1:], 1)])
def test_study_without_a_joint_score_is_warned_of(
    make_plan: Callable[..., Plan], methods: list[dict[str, Any]], num_warnings: int
) -> None:
    """It asks for scores that none of its merges can have."""
    plan = make_plan(merge=methods, evaluation={"joint": "plain"})
    found = [each for each in plan.warnings if "evaluation.joint is plain" in each]
    assert len(found) == num_warnings
