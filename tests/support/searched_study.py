"""Runs a small search in this process, without Ray, as the stages of a session do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from orchestrator.run.growth import grow, record_plan
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.study.reader import parse_study
from workers.artifacts.manifests import Manifest
from workers.artifacts.node_cache import cache_root
from workers.merging.merge_job import run_merge
from workers.prepare.bases import prepare_base
from workers.prepare.images import prepare_data
from workers.train.resumable import Timing
from workers.train.trial import run_trial
from workers.workspace import Workspace


def search_fields(store: Path, **search: object) -> dict[str, Any]:
    """Returns the fields of a study with a search over three tasks and all pairs of them."""
    return {
        "name": "searched",
        "backbone": {"model": "test_efficientnet", "weights": "none", "image_size": 16},
        "tasks": {
            "names": ["mnist_5k", "font_letters", "emoji_objects"],
            "max_train": 40,
            "max_test": 12,
            "max_validation": 8,
        },
        "finetune": {
            "optimizer": {"name": "adam"},
            "defaults": {"steps": 8, "batch_size": 4, "lr": 0.001},
        },
        "search": {
            "space": {"lr": {"log": [1e-4, 1e-1]}, "batch_size": {"choice": [4, 8]}},
            "budget": {"candidates": 6},
            "batch": 4,
            "halving": {"factor": 2, "first": 2},
            **search,
        },
        "groups": {"size": 2},
        "merge": [
            {"method": "average"},
            {"method": "task_arithmetic", "scaling": {"tune": [0.3, 0.6]}},
        ],
        "store": str(store),
    }


def opened_search(fields: dict[str, Any]) -> OpenedStudy:
    """Returns a study as its store has it now."""
    text = yaml.safe_dump(fields)
    return open_study(parse_study(text, source="study.yaml"), text=text)


def run_search(
    fields: dict[str, Any],
    *,
    may_go_on: Callable[[], bool] = lambda: True,
    on_decision: Callable[[OpenedStudy], None] = lambda _: None,
) -> OpenedStudy:
    """Opens a study and makes everything that it lacks, until it has ended.

    Args:
        fields: The fields of the study file.
        may_go_on: Is asked before each job; False ends the run as a kill would.
        on_decision: Is called with the study after each decision.
    """
    opened = opened_search(fields)
    record_plan(opened.plan, folder=opened.folder, text=opened.text)
    on_decision(opened)
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    workspace = Workspace(opened.store_url, cache_root=cache_root(), device=cpu)
    for base in (each for each in opened.plan.bases.jobs if each.spec.id not in opened.prepared):
        prepare_base(base, workspace=workspace)
    for data in (each for each in opened.plan.data_jobs if each.id not in opened.prepared):
        list(prepare_data(data, workspace=workspace))
    while True:
        if not _run_jobs(opened, workspace=workspace, may_go_on=may_go_on):
            return opened
        has_grown = grow(
            opened.ledger,
            folder=opened.folder,
            artifacts=opened.artifacts,
            index=opened.index,
            text=opened.text,
        )
        if not has_grown:
            return opened
        on_decision(opened)


def _run_jobs(opened: OpenedStudy, *, workspace: Workspace, may_go_on: Callable[[], bool]) -> bool:
    """Makes what the plan lacks; returns whether it was not stopped."""
    for trial in opened.ledger.state().possible_trainings:
        if not may_go_on():
            return False
        for report in run_trial(trial, workspace=workspace, timing=Timing(report_every_s=1e9)):
            _record(opened, *report.committed)
    for merge in opened.ledger.state().ready_merges:
        if not may_go_on():
            return False
        _record(opened, run_merge(merge, workspace=workspace))
    return True


def _record(opened: OpenedStudy, *manifests: Manifest) -> None:
    for manifest in manifests:
        opened.ledger.add(manifest)
