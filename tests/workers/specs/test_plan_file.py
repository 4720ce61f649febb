import json
from dataclasses import replace
from typing import Any

import pytest

from workers.specs.plan_file import (
    GroupSampling,
    PlanFile,
    PlanFileError,
    PlannedCell,
    PlannedData,
    PlannedTrial,
)

PLAN = PlanFile(
    study="demo",
    sampling=GroupSampling(tasks=("a", "b", "c"), sizes=(2,), count=2, seed=0),
    groups={"2x00": ("a", "b"), "2x01": ("b", "c")},
    bases={"b1": {"model": "resnet18"}},
    heads={"h1": {"model": "ViT-B-32"}},
    data={"a": PlannedData(id="d1", spec={"task": "a", "image_size": 64})},
    sources={"a": {"root": None, "own": None}},
    trials=(PlannedTrial(id="e2", snapshots={5: "e1", 10: "e2"}, longest={"task": "a"}),),
    merges={"m1": {"method": "ties", "experts": ["e1"]}},
    cells=(PlannedCell(axis="lr", value="0.1", method="ties", group="2x00", merge="m1"),),
    study_sha256="0" * 64,
)
FIELDS = {
    "study": "demo",
    "groups_drawn_from": {"tasks": ["a", "b", "c"], "sizes": [2], "count": 2, "seed": 0},
    "groups": {"2x00": ["a", "b"], "2x01": ["b", "c"]},
    "bases": {"b1": {"model": "resnet18"}},
    "heads": {"h1": {"model": "ViT-B-32"}},
    "data": {"a": {"id": "d1", "task": "a", "image_size": 64}},
    "sources": {"a": {"root": None, "own": None}},
    "trials": [{"id": "e2", "snapshots": {"5": "e1", "10": "e2"}, "longest": {"task": "a"}}],
    "merges": {"m1": {"method": "ties", "experts": ["e1"]}},
    "cells": [{"axis": "lr", "value": "0.1", "method": "ties", "group": "2x00", "merge": "m1"}],
    "study_sha256": "0" * 64,
}


def test_form_of_the_file_is_the_same_for_good() -> None:
    """Stores hold files of this form; workers, later runs, `verify` and `gc` read them."""
    assert json.loads(json.dumps(PLAN.to_json())) == FIELDS
    assert PlanFile.from_json(FIELDS) == PLAN


def test_printed_plan_has_no_digest_of_the_study() -> None:
    """`mergesweep plan --json` prints a plan without storing the study's text."""
    printed = replace(PLAN, study_sha256=None)
    assert "study_sha256" not in printed.to_json()
    assert PlanFile.from_json(printed.to_json()) == printed


def test_every_artifact_is_listed_by_kind() -> None:
    """Both snapshots of the trial are experts."""
    assert PLAN.artifact_ids() == {
        "base": {"b1"},
        "head": {"h1"},
        "data": {"d1"},
        "expert": {"e1", "e2"},
        "merge": {"m1"},
    }


def test_groups_come_back_in_the_order_of_the_sampling() -> None:
    """The file sorts names as text, and the order of result rows depends on the order of groups."""
    names = ["2x00", "2x11", "2x100", "10x00", "10x65"]
    groups = {name: tuple("abcdefghij"[: int(name.split("x")[0])]) for name in names}
    written = json.dumps(replace(PLAN, groups=groups).to_json(), sort_keys=True)
    assert list(PlanFile.from_json(json.loads(written)).groups) == names


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"trials": None}, "has a field of another form"),
        ({"trials": [{"id": "e2"}]}, "has no field 'snapshots'"),
        ({"groups_drawn_from": {"tasks": [], "sizes": []}}, "has a field of another form"),
        ({"cells": [{"axis": "lr"}]}, "has a field of another form"),
        ({"bases": 7}, "has a field of another form"),
    ],
)
def test_fields_of_another_form_are_refused(change: dict[str, Any], problem: str) -> None:
    """`gc` could delete a study's artifacts if it read only half of its plan."""
    with pytest.raises(PlanFileError, match=problem):
        PlanFile.from_json({**FIELDS, **change})


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "study_sha256"])
def test_missing_field_is_named(name: str) -> None:
    """The message names the missing field."""
    fields = {key: value for key, value in FIELDS.items() if key != name}
    with pytest.raises(PlanFileError, match=f"has no field '{name}'"):
        PlanFile.from_json(fields)
