from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from workers.artifacts.measured import ReachMetrics
from workers.measure.reach import measure_reach
from workers.measure.task_loss import Positions, TaskLoss, dot
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.measures import ReachSpec, TaskSample
from workers.workspace import Workspace


def reach_of(expert: ExpertSpec, *, coefficient: float, workspace: Workspace) -> ReachMetrics:
    """Returns the reach of a part of the way to an expert, on its own task."""
    sample = TaskSample(
        task=expert.task,
        base_id=expert.base_id,
        data_id=expert.data_id,
        num_batches=5,
        batch_size=8,
    )
    spec = ReachSpec(sample=sample, experts=(expert.id,), coefficients=(coefficient,))
    return ReachMetrics.from_json(measure_reach(spec, workspace=workspace).metrics)


def test_short_path_is_second_order(
    experts: tuple[ExpertSpec, ...], new_workspace: Callable[[], Workspace]
) -> None:
    """The loss changes as slope and curvature say, and both scale with the path."""
    expert = experts[0]
    short = reach_of(expert, coefficient=0.02, workspace=new_workspace())
    longer = reach_of(expert, coefficient=0.04, workspace=new_workspace())
    assert short.end_loss is not None
    change = short.end_loss - short.start_loss
    predicted = short.slope.value + short.curvature.value / 2
    assert change == pytest.approx(predicted, rel=0.1, abs=1e-5)
    assert longer.slope.value == pytest.approx(2 * short.slope.value, rel=1e-3)
    # A second difference of losses in float32, whose rounding depends on the machine.
    assert longer.curvature.value == pytest.approx(4 * short.curvature.value, rel=5e-2)
    assert longer.squared_length == pytest.approx(4 * short.squared_length, rel=1e-4)
    assert short.reach is not None
    assert short.reach.value == pytest.approx(short.curvature.value / abs(short.slope.value))
    assert short.reach.standard_error >= 0
    assert short.num_passes == 120


def test_path_to_a_merge_adds_task_vectors(
    experts: tuple[ExpertSpec, ...],
    datasets: Mapping[str, DataSpec],
    new_workspace: Callable[[], Workspace],
) -> None:
    """Slopes are nearly linear in the coefficients, over a twentieth of the path."""
    first, second = experts[:2]
    sample = TaskSample(
        task=first.task,
        base_id=first.base_id,
        data_id=datasets[first.task].id,
        num_batches=3,
        batch_size=8,
    )

    def slope(*coefficients: float) -> float:
        spec = ReachSpec(sample=sample, experts=(first.id, second.id), coefficients=coefficients)
        metrics = measure_reach(spec, workspace=new_workspace()).metrics
        return ReachMetrics.from_json(metrics).slope.value

    both = slope(0.5, 0.5)
    assert both == pytest.approx((slope(1.0, 0.0) + slope(0.0, 1.0)) / 2, rel=0.05)


def test_path_of_no_length_has_no_reach(
    experts: tuple[ExpertSpec, ...], workspace: Workspace
) -> None:
    """Slope and curvature are 0; the reach is 0 as well, and the loss stays."""
    still = reach_of(experts[0], coefficient=0.0, workspace=workspace)
    assert still.reach is not None
    assert (still.reach.value, still.squared_length) == (0, 0)
    assert still.end_loss == pytest.approx(still.start_loss)


def test_curvature_is_that_of_the_hessian(
    experts: tuple[ExpertSpec, ...], new_workspace: Callable[[], Workspace]
) -> None:
    """The difference of slopes, against an exact product, under the expert's own head."""
    expert = experts[0]
    sample = TaskSample(
        task=expert.task,
        base_id=expert.base_id,
        data_id=expert.data_id,
        head_expert_id=expert.id,
        num_batches=3,
        batch_size=8,
    )
    spec = ReachSpec(sample=sample, experts=(expert.id,), coefficients=(0.3,))
    found = ReachMetrics.from_json(measure_reach(spec, workspace=new_workspace()).metrics)
    workspace = new_workspace()
    loss = TaskLoss(sample, workspace=workspace)
    direction = loss.direction([workspace.expert_tensors(expert.id)], [0.3])
    flat = np.concatenate([part.reshape(-1).numpy() for part in direction])
    exact = [loss.product(positions, flat) for positions in loss.batches()]
    curvature = np.mean([float(product @ flat) for product in exact])
    gradients = [loss.parts(loss.gradient(positions)[0]) for positions in loss.batches()]
    slope = np.mean([dot(gradient, direction) for gradient in gradients])
    assert found.slope.value == pytest.approx(slope, rel=1e-2)
    assert found.curvature.value == pytest.approx(curvature, rel=0.05)


def test_paths_of_a_task_share_their_start(
    experts: tuple[ExpertSpec, ...],
    new_workspace: Callable[[], Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second one takes three forward passes; its numbers are those of a new process."""
    expert, workspace = experts[0], new_workspace()
    num_images: list[int] = []
    pass_forward = TaskLoss._features

    def counted(self: TaskLoss, positions: Positions, **weights: Any) -> Tensor:  # noqa: ANN401
        num_images.append(len(positions))
        return pass_forward(self, positions, **weights)

    alone = reach_of(expert, coefficient=1.0, workspace=new_workspace())
    monkeypatch.setattr(TaskLoss, "_features", counted)
    reach_of(expert, coefficient=0.5, workspace=workspace)
    assert sum(num_images) == 4 * 40
    num_images.clear()
    assert reach_of(expert, coefficient=1.0, workspace=workspace) == alone
    assert sum(num_images) == 3 * 40
