import numpy as np
import pytest

from workers.artifacts.measured import OperatorMetrics
from workers.measure.operator import measure_operator
from workers.specs.bases import BaseSpec
from workers.specs.expert import ExpertSpec
from workers.specs.measures import OperatorSpec
from workers.specs.merge import MergeSpec
from workers.workspace import Workspace


def merge_of(method: str, *, base: BaseSpec, experts: tuple[ExpertSpec, ...]) -> MergeSpec:
    return MergeSpec(
        method=method,
        params={},
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=base.id,
        experts=experts,
        held_out=(),
    )


def test_operator_is_measured_on_the_weights_alone(
    base: BaseSpec, experts: tuple[ExpertSpec, ...], workspace: Workspace
) -> None:
    """TIES trims and elects, so it shortens task vectors; the average moves by |tau_i|^2 / N^2."""
    spec = OperatorSpec(merge=merge_of("ties", base=base, experts=experts), leave_one_out=True)
    manifest = measure_operator(spec, workspace=workspace)
    metrics = OperatorMetrics.from_json(manifest.metrics)
    lengths = np.diag(np.array(metrics.before))
    assert metrics.after is not None
    assert np.all(np.diag(np.array(metrics.after)) < lengths)
    assert metrics.moved_before == pytest.approx(lengths / 9, rel=1e-3)
    assert metrics.moved is not None
    assert metrics.flipped is not None
    assert all(0 <= each < 1 for each in metrics.flipped)
    assert set(manifest.inputs) == {base.id, *(expert.id for expert in experts)}


def test_method_with_data_is_measured_without_leaving_out(
    base: BaseSpec, experts: tuple[ExpertSpec, ...], workspace: Workspace
) -> None:
    """It is linear in the task vectors; only the plain average beside it leaves experts out."""
    spec = OperatorSpec(merge=merge_of("fisher", base=base, experts=experts), leave_one_out=True)
    metrics = OperatorMetrics.from_json(measure_operator(spec, workspace=workspace).metrics)
    assert metrics.after == metrics.before
    assert metrics.moved is None
    assert metrics.moved_before is not None
