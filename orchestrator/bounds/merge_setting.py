"""Reads a merge of the plan as the theory sees it: coefficients, steps, rates and examples."""

from collections.abc import Sequence

import numpy as np

from eval.theory.settings import MergeSetting
from orchestrator.costs.sizes import num_train_images
from orchestrator.plan.plan import Plan
from workers.sampling.batches import num_in_subset
from workers.specs.merge import MergeSpec
from workers.train.accumulation import accumulation_of


def coefficients_of(merge: MergeSpec) -> tuple[float, ...] | None:
    """Returns each expert's coefficient; None for methods whose coefficients are not known before.

    DARE's are those of task arithmetic, as its masks keep the mean. SLERP, Model Stock and methods
    that learn from data have coefficients that depend on the experts, and so have merges that
    choose parameters or steps on validation images; all others have none. Neither have merges of
    more experts than tasks.
    """
    if merge.chooses or merge.pool:
        return None
    num, params = len(merge.experts), merge.params
    if merge.method == "average":
        return (1 / num,) * num
    if merge.method == "weighted_average":
        weights = params.get("weights") or (1.0,) * num
        return tuple(float(weight) / sum(weights) for weight in weights)
    if merge.method == "task_arithmetic" or (merge.method == "dare" and params["rescale"]):
        return (float(params["scaling"]),) * num
    return None


def gives_weights(coefficients: Sequence[float]) -> bool:
    """Returns whether coefficients give tasks weights: none is negative, and one is above 0."""
    return min(coefficients) >= 0 and max(coefficients) > 0


def merge_setting_of(merge: MergeSpec, *, plan: Plan) -> MergeSetting | None:
    """Returns the setting of a merge, with equal weights of the tasks, as in the `macro` mean.

    None for experts of files, for a method without coefficients, and for coefficients that give
    tasks no weights, as a negative scaling or one of 0.
    """
    coefficients = coefficients_of(merge)
    if any(expert.given is not None for expert in merge.experts):
        return None
    if coefficients is None or not gives_weights(coefficients):
        return None
    points = [expert.hyperparameters for expert in merge.experts]
    num = len(points)
    return MergeSetting(
        weights=np.full(num, 1 / num),
        coefficients=coefficients,
        lr=[point.lr for point in points],
        batch_sizes=[point.batch_size for point in points],
        num_examples=[
            num_in_subset(
                num_train_images(plan, task=expert.task),
                data_ratio=expert.hyperparameters.data_ratio,
            )
            for expert in merge.experts
        ],
        accumulations=tuple(
            accumulation_of(expert.hyperparameters, expert.constants) for expert in merge.experts
        ),
    )
