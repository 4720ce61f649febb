"""Measures how far a path leads from the base, in units of a task's curvature."""

import math
import time

import numpy as np

from eval.theory.curvature import path_reach
from workers.artifacts.manifests import Manifest
from workers.artifacts.measured import Measured, ReachMetrics
from workers.artifacts.provenance import Provenance
from workers.measure.constants import digests_of
from workers.measure.task_loss import TaskLoss, dot
from workers.sampling.determinism import compute_deterministically
from workers.specs.measures import ReachSpec
from workers.workspace import Workspace


def measure_reach(spec: ReachSpec, *, workspace: Workspace) -> Manifest:
    """Measures slope and curvature of a task's loss along a path, and the loss at its end.

    Only the backbone's parameters move; running statistics stay the base's. Cost: one gradient and
    one product with the Hessian of each example, and one forward pass more.

    Raises:
        MissingArtifactError: An input is not committed, or an expert has no weights.
        TooFewImagesError: The task has fewer training images than batches.
    """
    started = time.monotonic()
    compute_deterministically()
    loss = TaskLoss(spec.sample, workspace=workspace)
    states = [workspace.expert_tensors(each) for each in spec.experts]
    direction = loss.direction(states, spec.coefficients)
    slopes, curvatures, starts = [], [], []
    for positions in loss.batches():
        slope, product, losses = loss.curved(positions, direction)
        slopes.append(float(slope))
        curvatures.append(dot(product, direction))
        starts.append(float(losses.mean()))
    loss.move(direction)
    ends = [float(loss.losses(positions).mean()) for positions in loss.batches()]
    num_examples = loss.batch_size * spec.sample.num_batches
    metrics = ReachMetrics(
        slope=_mean(slopes),
        curvature=_mean(curvatures),
        reach=_reach(curvatures, slopes),
        squared_length=dot(direction, direction),
        start_loss=float(np.mean(starts)),
        end_loss=float(np.mean(ends)) if math.isfinite(sum(ends)) else None,
        batch_size=loss.batch_size,
        num_gradients=num_examples,
        num_products=num_examples,
    )
    experts = {each: workspace.manifest("expert", each).digest for each in spec.experts}
    inputs = {**digests_of(spec.sample, workspace=workspace), **experts}
    return workspace.artifacts.commit(
        Provenance.of(spec, kind="reach", inputs=inputs),
        files={},
        metrics=metrics.to_json(),
        seconds={"reach": time.monotonic() - started},
    )


def _mean(values: list[float]) -> Measured:
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return Measured(value=float(np.mean(values)), standard_error=float(error))


def _reach(curvatures: list[float], slopes: list[float]) -> Measured | None:
    """Returns the ratio of the means, with its jackknife error over the batches."""

    def without(batch: int | None) -> float:
        kept = [each for each in range(len(slopes)) if each != batch]
        return path_reach(
            curvature=float(np.mean([curvatures[each] for each in kept])),
            slope=float(np.mean([slopes[each] for each in kept])),
        )

    value, others = without(None), np.array([without(batch) for batch in range(len(slopes))])
    if not (math.isfinite(value) and np.isfinite(others).all()):
        return None
    spread = float(np.sum((others - others.mean()) ** 2))
    error = math.sqrt((len(others) - 1) / len(others) * spread)
    return Measured(value=value, standard_error=error)
