"""Trials and merges of CoaT, which uses one convolution in many blocks."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from merge.catalogue import parse_params
from workers.merging.merge_job import run_merge
from workers.prepare.bases import prepare_base
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.training import TrialSpec
from workers.train.resumable import Timing
from workers.train.trial import run_trial
from workers.workspace import EXPERT_FILE, Workspace

CPU = torch.device("cpu")
STEPS = 2
SHORT: dict[str, dict[str, Any]] = {"fisher": {"images": 2}}
AT_EVERY_STEP = Timing(report_every_s=-1.0)


@pytest.fixture
def expert(make_expert: Callable[..., ExpertSpec], workspace: Workspace) -> ExpertSpec:
    """Specifies an expert of a committed base, with momenta and a mean of the weights."""
    base = BaseSpec(model="coat_lite_tiny", weights="none", seed=0, image_size=32)
    prepare_base(BaseJob(spec=base, path=None), workspace=workspace)
    return make_expert(
        base_id=base.id, optimizer="adam", steps=STEPS, batch_size=2, average_weights="ema"
    )


def test_trial_of_a_model_with_shared_tensors_resumes_bit_for_bit(
    expert: ExpertSpec,
    store_root: Path,
    workspace: Workspace,
    new_workspace: Callable[[], Workspace],
    tmp_path: Path,
) -> None:
    """Checkpoints have the shared tensors and their momenta once."""
    shutil.copytree(store_root, tmp_path / "other")
    other = Workspace(str(tmp_path / "other"), cache_root=tmp_path / "cache", device=CPU)
    spec = TrialSpec(longest=expert, snapshots=(STEPS,))
    trial = run_trial(spec, workspace=workspace, timing=AT_EVERY_STEP)
    assert next(trial).step == 1
    trial.close()
    list(run_trial(spec, workspace=new_workspace(), timing=AT_EVERY_STEP))
    list(run_trial(spec, workspace=other, timing=AT_EVERY_STEP))
    resumed, undisturbed = (each.manifest("expert", expert.id) for each in (new_workspace(), other))
    assert resumed.files == undisturbed.files != ()
    assert dict(resumed.metrics) == dict(undisturbed.metrics)


@pytest.mark.parametrize("method", ["average", "fisher"])
def test_merge_of_one_expert_with_itself_is_the_expert(
    expert: ExpertSpec, workspace: Workspace, method: str
) -> None:
    """A method that reads gradients finds all tensors, too."""
    spec = TrialSpec(longest=expert, snapshots=(STEPS,))
    list(run_trial(spec, workspace=workspace, timing=AT_EVERY_STEP))
    manifest = run_merge(
        MergeSpec(
            method=method,
            params=asdict(parse_params(method, SHORT.get(method, {}))),
            batch_norm="average",
            recalibration_images=0,
            seed=0,
            base_id=expert.base_id,
            experts=(expert, expert),
            held_out=(),
        ),
        workspace=workspace,
    )
    assert manifest.metrics["tasks"][expert.task]["loss_sum"] > 0
    if method == "average":
        scores = workspace.manifest("expert", expert.id).metrics["test"]
        assert manifest.metrics["tasks"][expert.task] == scores
    assert "cpe1.proj.weight" in workspace.expert_tensors(expert.id)
    assert workspace.file("expert", expert.id, EXPERT_FILE).stat().st_size < 23e6
