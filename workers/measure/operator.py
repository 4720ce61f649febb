"""Measures a merging method's effect on the task vectors of one group."""

import time

import torch

from merge.catalogue import parse_params
from merge.measures.operator import LeaveOneOut, leave_one_out, measure_products
from merge.merge import MergeOptions
from merge.table import functions_of
from workers.artifacts.manifests import Manifest
from workers.artifacts.measured import OperatorMetrics
from workers.artifacts.provenance import Provenance
from workers.merging.task_models import expert_names
from workers.specs.measures import OperatorSpec
from workers.workspace import Workspace


def measure_operator(spec: OperatorSpec, *, workspace: Workspace) -> Manifest:
    """Measures inner products before and after a method and, where asked, leaving one expert out.

    Methods that learn from data are not merged again without an expert.

    Raises:
        MissingArtifactError: An expert or its weights are not in the store.
        merge.errors.MergeError: The experts do not fit together.
    """
    started = time.monotonic()
    merge = spec.merge
    base = workspace.base_tensors(merge.base_id)
    experts = [workspace.expert_tensors(expert.id) for expert in merge.experts]
    options = MergeOptions(
        params=workspace.method_params(merge),
        seed=merge.seed,
        num_threads=torch.get_num_threads(),
        device=workspace.device,
    )
    names = expert_names(merge)
    products = measure_products(base, experts, options=options, names=names)
    multiplied = time.monotonic()
    whole = before = None
    if spec.leave_one_out:
        average = MergeOptions(params=parse_params("average", {}), device=workspace.device)
        before = leave_one_out(base, experts, options=average, names=names)
        if functions_of(options.params).learn is None:
            whole = leave_one_out(base, experts, options=options, names=names)
    metrics = OperatorMetrics(
        before=products.before,
        after=products.after,
        **_as_fields(whole, suffix=""),
        **_as_fields(before, suffix="_before"),
    )
    inputs = {
        merge.base_id: workspace.manifest("base", merge.base_id).digest,
        **{each.id: workspace.manifest("expert", each.id).digest for each in merge.experts},
    }
    return workspace.artifacts.commit(
        Provenance.of(spec, kind="operator", inputs=inputs),
        files={},
        metrics=metrics.to_json(),
        seconds={"products": multiplied - started, "leave_one_out": time.monotonic() - multiplied},
    )


def _as_fields(result: LeaveOneOut | None, *, suffix: str) -> dict[str, tuple[float, ...] | None]:
    return {
        f"moved{suffix}": None if result is None else result.moved,
        f"flipped{suffix}": None if result is None else result.flipped,
    }
