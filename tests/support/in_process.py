"""Runs everything that a study plans in this process, without Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from known_models import remember_models

from orchestrator.run.merge_jobs import MergeJobs
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.study.reader import parse_study
from workers.artifacts.node_cache import CACHE_VARIABLE, cache_root
from workers.merging.merge_job import run_merge
from workers.prepare.bases import prepare_base
from workers.prepare.images import prepare_data
from workers.train.pretrain import run_pretraining
from workers.train.resumable import Timing
from workers.train.trial import run_trial
from workers.workspace import Workspace

SMALL_BACKBONE: dict[str, Any] = {"model": "test_resnet", "weights": "none", "image_size": 32}
"""A model that timm builds for tests: it takes 32 px, and a step takes milliseconds."""


def run_in_process(fields: dict[str, object]) -> tuple[OpenedStudy, Workspace]:
    """Makes all artifacts of a study without pretraining; returns it as its store has it now."""
    text = yaml.safe_dump(fields)
    opened = open_study(parse_study(text, source="study.yaml"), text=text)
    opened.folder.write_plan(opened.plan, study_text=text)
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    workspace = Workspace(opened.store_url, cache_root=cache_root(), device=cpu)
    for base in opened.plan.bases.jobs:
        prepare_base(base, workspace=workspace)
    for data in opened.plan.data_jobs:
        list(prepare_data(data, workspace=workspace))
    for trial in opened.plan.trials:
        list(run_trial(trial, workspace=workspace, timing=Timing(report_every_s=1e9)))
    for model in opened.plan.bases.multi_task:
        list(run_pretraining(model, workspace=workspace, timing=Timing(report_every_s=1e9)))
    for merge in opened.plan.merges.values():
        if not merge.shares_choice:
            run_merge(merge, workspace=workspace)
    finished = opened.reopened()
    jobs = MergeJobs(finished.ledger)
    for merge in finished.ledger.state().ready_merges:
        chosen = jobs.job(merge).argument
        run_merge(merge, workspace=workspace, choice=chosen.choice)
    return finished.reopened(), workspace


@contextmanager
def small_study(root: Path, **fields: object) -> Iterator[tuple[OpenedStudy, Workspace]]:
    """Makes a study named `small` with a store and a node's cache of its own in a folder.

    The node's cache is that of this process inside the `with` block.

    Args:
        root: The folder.
        fields: Further fields of the study.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(root / "cache"))
        remember_models(root / "cache")
        study = {"name": "small", "backbone": SMALL_BACKBONE, "store": str(root / "store")}
        yield run_in_process({**study, **fields})
