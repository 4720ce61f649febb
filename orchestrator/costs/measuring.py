"""The cost of measuring what the theory of a study needs, beyond the study itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.costs.durations import PASSES_PER_STEP, Durations
from orchestrator.plan.measurements import constants_of, reaches_of
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from workers.calibrate.speeds import Calibration
from workers.models.model_sizes import ModelSize
from workers.specs.measures import ConstantsSpec, CurvatureSpec, Measurement, ReachSpec

PASSES_OF_A_REACH = 3
"""Besides the one at the start, which the paths of a task share."""
GRADIENTS_PER_PRODUCT = 4
"""Gradients that a product of an image's Hessian with a vector takes as long as."""
USUAL_PRODUCTS = 5
"""Products that an eigenvalue usually needs, where the iteration may end early."""


@dataclass(frozen=True, kw_only=True)
class MeasuringWork:
    """The computations of some measurements; those on files alone are left out."""

    num_gradients: int
    """Images to differentiate."""
    num_passes: int
    """Images to pass forward, along paths."""
    num_products: int
    """Products of an image's Hessian with a vector."""

    @property
    def num_images(self) -> float:
        """The images of training that take as long."""
        passes = self.num_passes / PASSES_PER_STEP
        return self.num_gradients + passes + GRADIENTS_PER_PRODUCT * self.num_products


def work_of(specs: Sequence[Measurement]) -> MeasuringWork:
    """Returns the computations of some measurements."""
    constants = [spec for spec in specs if isinstance(spec, ConstantsSpec)]
    reaches = [spec.sample for spec in specs if isinstance(spec, ReachSpec)]
    return MeasuringWork(
        num_gradients=sum(each.sample.num_images for each in constants),
        num_passes=sum(PASSES_OF_A_REACH * each.num_images for each in reaches),
        num_products=sum(
            _num_products(spec.curvature) for spec in constants if spec.curvature is not None
        ),
    )


def _num_products(spec: CurvatureSpec) -> int:
    """Returns the products with single images' Hessians that a curvature usually takes."""
    each = min(spec.num_products, USUAL_PRODUCTS) if spec.tolerance else spec.num_products
    return spec.num_pairs * (each + 1) * spec.num_images + spec.num_singles * each


@dataclass(frozen=True, kw_only=True)
class MeasuringCost:
    """Worker-seconds of `measure`, and of the whole study for comparison."""

    plain_s: float
    """Without curvature."""
    curvature_s: float
    """With `--curvature`, all of it."""
    study_s: float
    """All trainings and merges of the study, those that are done included."""


def measuring_cost(
    committed: Committed,
    *,
    calibration: Calibration | None,
    models: Mapping[str, ModelSize] | None = None,
) -> MeasuringCost | None:
    """Estimates what `measure` costs on a whole study; None without a measure or a training.

    A measured image counts as long as a trained one of the same base, so the estimate is as good as
    that of the trainings. See `Durations` for the arguments.
    """
    plan = committed.plan
    durations = Durations(committed, calibration=calibration, models=models)
    image_s = _seconds_per_image(plan, durations=durations)
    reaches = reaches_of(plan)

    def seconds(specs: Sequence[ConstantsSpec | ReachSpec]) -> float:
        return sum(work_of([each]).num_images * image_s(each.sample.base_id) for each in specs)

    plain = seconds((*constants_of(plan), *reaches))
    if plain == 0:
        return None
    merges = sum(durations.merge(spec).seconds for spec in plan.merges.values())
    trainings = sum(durations.training(each).seconds for each in plan.trainings)
    return MeasuringCost(
        plain_s=plain,
        curvature_s=seconds((*constants_of(plan, curvature=CurvatureSpec()), *reaches)),
        study_s=merges + trainings,
    )


def _seconds_per_image(plan: Plan, *, durations: Durations) -> Callable[[str], float]:
    """Returns the seconds per trained image by the id of a base: those of its longest trial."""
    trained = [each for each in plan.trials if each.num_steps]  # given experts have no steps
    longest = {each.base_id: each for each in sorted(trained, key=lambda each: each.num_steps)}
    found = {
        base_id: durations.training(trial).seconds
        / (trial.num_steps * trial.longest.hyperparameters.batch_size)
        for base_id, trial in longest.items()
    }
    return lambda base_id: found.get(base_id, 0.0)
