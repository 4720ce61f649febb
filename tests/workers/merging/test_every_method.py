"""Runs every method on a ResNet with BatchNorm whose experts took different step counts."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from merge.catalogue import PARAMS, num_experts_of, parse_params
from workers.artifacts.manifests import Manifest
from workers.merging.merge_job import run_merge
from workers.prepare.bases import prepare_base
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.workspace import Workspace

SHORT: dict[str, dict[str, Any]] = {
    "adamerging": {"steps": 2, "batch_size": 4},
    "fisher": {"images": 4},
    "regmean": {"images": 4},
    "frank_wolfe": {"iterations": 2, "images": 4},
    "frank_wolfe_soft": {"iterations": 2, "images": 4, "steps": 2, "batch_size": 4},
    "greedy_soup": {"images": 4},
    "wudi": {"steps": 5},
}
SPECTRAL = ("tsv_m", "iso_c", "iso_cts", "wudi", "regmean")
NUM_STEPS = (2, 5, 3)


@pytest.fixture(scope="module")
def workspace(prepared_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Returns one workspace for all merges of this module, which are different artifacts."""
    root = tmp_path_factory.mktemp("methods")
    store = shutil.copytree(prepared_store, root / "store")
    return Workspace(str(store), cache_root=root / "cache", device=torch.device("cpu"))


@pytest.fixture(scope="module")
def resnets(
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
    workspace: Workspace,
) -> tuple[ExpertSpec, ...]:
    """Commits experts of a ResNet after 2, 5 and 3 steps, with trained BatchNorm statistics."""
    base = BaseSpec(model="test_resnet", weights="none", seed=0)
    prepare_base(BaseJob(spec=base, path=None), workspace=workspace)
    tasks = ("bluemarble_regions", "mnist_5k", "mnist_m")
    specs = tuple(
        make_expert(task, base_id=base.id, steps=steps)
        for task, steps in zip(tasks, NUM_STEPS, strict=True)
    )
    for spec in specs:
        run(spec, workspace=workspace)
    return specs


@pytest.mark.parametrize("method", PARAMS)
def test_a_merge_has_finite_positive_statistics_scores_and_a_coverage(
    resnets: tuple[ExpertSpec, ...], workspace: Workspace, method: str
) -> None:
    """Different batch counters stop no method, and running variances stay positive."""
    params = parse_params(method, SHORT.get(method, {}))
    group = resnets[: num_experts_of(params) or len(resnets)]
    manifest = run_merge(
        MergeSpec(
            method=method,
            params=dataclasses.asdict(params),
            batch_norm="average",
            recalibration_images=0,
            seed=0,
            base_id=group[0].base_id,
            experts=group,
            held_out=resnets[len(group) :],
        ),
        workspace=workspace,
    )
    state = workspace._backbone(group[0].base_id, linearised=False).module.state_dict()
    statistics = {name: each for name, each in state.items() if "running" in name}
    assert statistics
    for name, tensor in state.items():
        assert bool(torch.isfinite(tensor.float()).all()), name
    assert all(bool((each > 0).all()) for name, each in statistics.items() if "_var" in name)
    counters = {int(each) for name, each in state.items() if "num_batches" in name}
    assert counters == {max(NUM_STEPS[: len(group)])}
    assert set(manifest.metrics["tasks"]) == {spec.task for spec in resnets}
    assert all(each["loss_sum"] is not None for each in manifest.metrics["tasks"].values())
    covered = manifest.metrics["coverage"]
    assert 0.9 < covered <= 1 if method in SPECTRAL else covered == 1


def test_the_methods_that_treat_kernels_as_matrices_move_them(
    resnets: tuple[ExpertSpec, ...], workspace: Workspace
) -> None:
    """A spectral merge of a ResNet's kernels is not a scaled average."""
    from merge.merge import MergeOptions, merge  # noqa: PLC0415 only this test needs it

    base = workspace.base_tensors(resnets[0].base_id)
    experts = [workspace.expert_tensors(spec.id) for spec in resnets]
    average = dict(merge(base, experts, options=MergeOptions(params=parse_params("average", {}))))
    kernels = [name for name, each in base.items() if each.ndim == 4 and each.shape[0] > 1]
    for method in ("tsv_m", "iso_c", "iso_cts"):
        merged = dict(merge(base, experts, options=MergeOptions(params=parse_params(method, {}))))
        for name in kernels:
            moved, mean = (each[name] - base[name] for each in (merged, average))
            cosine = torch.nn.functional.cosine_similarity(moved.flatten(), mean.flatten(), dim=0)
            assert float(cosine) < 0.9999, (method, name)
