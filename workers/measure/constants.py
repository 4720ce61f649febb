"""Measures the constants of a base on one task, and commits them."""

import math
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from eval.theory.curvature import Eigenpair, curvature_bracket, largest_eigenvalue
from eval.theory.gram import gradient_gram, gradient_noise, jackknife
from eval.theory.sketch import sketch
from workers.artifacts.manifests import Manifest
from workers.artifacts.measured import (
    SKETCH_FILE,
    ConstantsMetrics,
    CurvatureMetrics,
    Measured,
)
from workers.artifacts.provenance import Provenance
from workers.measure.task_loss import TaskLoss
from workers.sampling.determinism import compute_deterministically
from workers.sampling.seeds import derive_seed
from workers.specs.measures import ConstantsSpec, CurvatureSpec, TaskSample
from workers.store.scratch import scratch_directory
from workers.workspace import Workspace

_RANDOM_SHARE = 0.1


class NotFiniteError(ValueError):
    """A loss or a gradient at the base is NaN or infinite."""


def measure_constants(spec: ConstantsSpec, *, workspace: Workspace) -> Manifest:
    """Measures gradients, noise and loss of a task at the base, and its curvature where asked.

    Memory: the gradients of all batches, Q times the model. Cost: Q m gradients, and for curvature
    pairs x (products + 1) x images products with the Hessian at most, and products for each single
    image; most eigenvalues need about half as many.

    Raises:
        MissingArtifactError: An input is not committed.
        TooFewImagesError: The task has fewer training images than batches.
        NotFiniteError: A loss or a gradient is not finite.
    """
    started = time.monotonic()
    compute_deterministically()
    loss = TaskLoss(spec.sample, workspace=workspace)
    fitted = time.monotonic()
    gradients, losses = [], []
    for positions in loss.batches():
        gradient, found = loss.gradient(positions)
        gradients.append(gradient)
        losses.append(found.numpy())
    products = inner_products(gradients)
    _check_finite(products, task=spec.sample.task)
    sketches = sketch(gradients)
    del gradients
    differentiated = time.monotonic()
    curvature, num_products = None, 0
    if spec.curvature is not None:
        curvature, num_products = _curvature(spec.curvature, sample=spec.sample, loss=loss)
    metrics = replace(
        _metrics(products, losses=np.concatenate(losses), loss=loss),
        curvature=curvature,
        num_products=num_products,
    )
    with scratch_directory("constants") as scratch:
        path = scratch / SKETCH_FILE
        np.save(path, sketches)
        return workspace.artifacts.commit(
            Provenance.of(
                spec, kind="constants", inputs=digests_of(spec.sample, workspace=workspace)
            ),
            files={SKETCH_FILE: path},
            metrics=metrics.to_json(),
            seconds={
                "probe": fitted - started,
                "gradients": differentiated - fitted,
                "curvature": time.monotonic() - differentiated,
            },
        )


def digests_of(sample: TaskSample, *, workspace: Workspace) -> dict[str, str]:
    """Returns the digests of a sample's inputs, by id."""
    return {each: workspace.manifest(kind, each).digest for each, kind in sample.kinds.items()}


def inner_products(vectors: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
    """Returns the inner products of vectors, summed in float64, (vectors, vectors)."""
    products = np.empty((len(vectors), len(vectors)))
    for row, left in enumerate(vectors):
        exact = left.astype(np.float64)
        for column, right in enumerate(vectors[: row + 1]):
            products[row, column] = products[column, row] = np.dot(exact, right)
    return products


def _metrics(
    products: npt.NDArray[np.float64],
    *,
    losses: npt.NDArray[np.float64],
    loss: TaskLoss,
) -> ConstantsMetrics:
    of_one_task = products[None, :, None, :]
    length = jackknife(of_one_task, lambda each: gradient_gram(each)[0, 0])
    noise = jackknife(of_one_task, lambda each: gradient_noise(each, batch_size=loss.batch_size)[0])
    return ConstantsMetrics(
        products=tuple(tuple(row) for row in products.tolist()),
        batch_size=loss.batch_size,
        num_weights=loss.num_weights,
        has_kinks=loss.has_kinks,
        has_batch_norm=loss.has_batch_norm,
        squared_gradient=Measured(
            value=float(length.value), standard_error=float(length.standard_error)
        ),
        noise=Measured(value=float(noise.value), standard_error=float(noise.standard_error)),
        loss=Measured(
            value=float(losses.mean()),
            standard_error=float(losses.std(ddof=1) / math.sqrt(len(losses))),
        ),
        curvature=None,
        num_gradients=len(losses),
        num_products=0,
    )


def _curvature(
    spec: CurvatureSpec, *, sample: TaskSample, loss: TaskLoss
) -> tuple[CurvatureMetrics, int]:
    """Returns the bracket of the task's curvature, and the number of examples multiplied."""
    num = max(1, min(spec.num_images, loss.num_images // 2))
    generator = np.random.default_rng(derive_seed(sample.seed, "curvature"))
    start = sample.num_batches * loss.batch_size
    quotients, eigenvalues, num_products = [], [], 0
    for pair in range(spec.num_pairs):
        first = loss.later(start + 2 * pair * num, num)
        second = loss.later(start + (2 * pair + 1) * num, num)
        found = _largest(first, loss=loss, spec=spec, generator=generator)
        eigenvalues.append(found.value)
        quotients.append(float(np.dot(found.vector, loss.product(second, found.vector))))
        num_products += (found.num_products + 1) * num
    of_singles = [
        _largest(loss.later(start + place, 1), loss=loss, spec=spec, generator=generator)
        for place in range(min(spec.num_singles, loss.num_images))
    ]
    singles = [each.value for each in of_singles]
    bracket = curvature_bracket(quotients=quotients, eigenvalues=eigenvalues)
    return CurvatureMetrics(
        low=bracket.low,
        high=bracket.high,
        low_sd=_finite(bracket.low_sd),
        high_sd=_finite(bracket.high_sd),
        num_images=num,
        num_pairs=bracket.num_pairs,
        single_mean=float(np.mean(singles)),
        single_max=float(np.max(singles)),
        num_singles=len(singles),
    ), num_products + sum(each.num_products for each in of_singles)


def _largest(
    positions: npt.NDArray[np.int64],
    *,
    loss: TaskLoss,
    spec: CurvatureSpec,
    generator: np.random.Generator,
) -> Eigenpair:
    return largest_eigenvalue(
        lambda vector: loss.product(positions, vector),
        start=_start(positions, loss=loss, spec=spec, generator=generator),
        num_products=spec.num_products,
        tolerance=spec.tolerance,
    )


def _start(
    positions: npt.NDArray[np.int64],
    *,
    loss: TaskLoss,
    spec: CurvatureSpec,
    generator: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Returns the start of an iteration: the images' gradient with a tenth of a random vector.

    Gradients of a cross-entropy lie mostly along the directions of largest curvature. The random
    part keeps the start from being orthogonal to the largest one.
    """
    drawn = generator.standard_normal(loss.num_weights, dtype=np.float32)
    if spec.tolerance == 0:
        return drawn
    gradient, _ = loss.gradient(positions)
    length = np.linalg.norm(gradient)
    if not length > 0:
        return drawn
    return gradient / length + np.float32(_RANDOM_SHARE) * drawn / np.linalg.norm(drawn)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _check_finite(products: npt.NDArray[np.float64], *, task: str) -> None:
    if not np.isfinite(products).all():
        raise NotFiniteError(f"the gradients of {task} at the base are not finite")
