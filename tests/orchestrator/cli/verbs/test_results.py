import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from click.testing import Result

from eval.metrics import TaskSums
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.study.reader import parse_study
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest

LABELS = ("=1+1", '@SUM(A1)"x', "-2+3", "+1", "a,b;c", "plain")
NO_IMAGE = TaskSums(num_examples=100, num_correct=0, loss_sum=float("nan"))


@pytest.fixture
def opened(
    study_fields: Callable[..., dict[str, Any]],
    expert_manifest: Callable[..., Manifest],
    merge_manifest: Callable[..., Manifest],
) -> OpenedStudy:
    """Opens a finished study with strange labels, whose losses are NaN."""
    merges = [
        {"method": "task_arithmetic", "scaling": (place + 1) / 10, "label": label}
        for place, label in enumerate(LABELS)
    ]
    text = yaml.safe_dump(study_fields(merge=merges))
    opened = open_study(parse_study(text, source="study.yaml"), text=text)
    opened.folder.write_plan(opened.plan, study_text=text)
    plan = opened.plan
    tasks = dict.fromkeys(("emoji_objects", "font_letters", "mnist_5k"), NO_IMAGE)
    made = [
        *(expert_manifest(spec) for spec in plan.experts.values()),
        *(
            merge_manifest(
                spec,
                tasks={each.task: tasks[each.task] for each in (*spec.experts, *spec.held_out)},
            )
            for spec in plan.merges.values()
        ),
    ]
    for manifest in made:
        key = Layout.manifest(manifest.kind, manifest.id)
        opened.artifacts.store.put(key, manifest.to_json())
    return opened


def test_no_spreadsheet_takes_a_label_for_a_formula(
    call: Callable[..., Result], opened: OpenedStudy
) -> None:
    """Other texts, and numbers with a sign, are as in the study."""
    result = call("results", "small", "--store", opened.store_url, "--format", "csv")
    methods = {row["method"] for row in csv.DictReader(io.StringIO(result.stdout))}
    assert methods == {"'=1+1", "'@SUM(A1)\"x", "'-2+3", "+1", "a,b;c", "plain"}


def test_json_has_null_where_there_is_no_number(
    call: Callable[..., Result], opened: OpenedStudy
) -> None:
    """JSON knows no NaN, and other programs refuse it; labels are as in the study."""
    result = call("results", "small", "--store", opened.store_url, "--format", "json")
    rows = json.loads(result.stdout, parse_constant=pytest.fail)
    assert {row["method"] for row in rows} == set(LABELS)
    assert {row["loss"] for row in rows} == {None}


def test_pairs_are_a_table_and_rows(call: Callable[..., Result], opened: OpenedStudy) -> None:
    """Losses that are NaN are not compared; accuracies are, in rows whose labels are quoted."""
    shown = call("results", "small", "--store", opened.store_url, "--pairs")
    assert shown.exit_code == 0, shown.output
    assert "nothing to compare" in shown.stdout
    assert "plain has no finite loss at default: left out there" in shown.stdout
    rows = call("results", "small", "--store", opened.store_url, "--pairs", "--format", "csv")
    found = list(csv.DictReader(io.StringIO(rows.stdout)))
    assert {row["quantity"] for row in found} == {"accuracy"}
    assert {row["num_pairs"] for row in found} == {"15"}
    assert "'@SUM(A1)\"x" in {row["other"] for row in found}
    assert {row["label"] for row in found} == {"measured"}


@pytest.mark.parametrize("other", ["--experts", "--means"])
def test_pairs_exclude_the_other_tables(
    call: Callable[..., Result], opened: OpenedStudy, other: str
) -> None:
    """One table at a time."""
    ended = call("results", "small", "--store", opened.store_url, "--pairs", other)
    assert ended.exit_code == 2
    assert "leave out" in ended.stderr


def test_a_terminal_gets_no_parquet() -> None:
    """Its bytes would act on the terminal; the message says how to get a file."""
    ours, terminal = os.openpty()
    command = [sys.executable, "-m", "orchestrator", "results", "small", "--format", "parquet"]
    try:
        ended = subprocess.run(
            command, stdout=terminal, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(ours)
        os.close(terminal)
    assert ended.returncode == 2
    assert "redirect it" in ended.stderr
