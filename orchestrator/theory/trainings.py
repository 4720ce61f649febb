"""Reads from a plan how every expert is trained."""

import math
from functools import lru_cache

from eval.theory.accumulation import Accumulation, adam, ema_weights, sgd, swa_weights
from orchestrator.record.committed import Committed
from orchestrator.record.data_check import prepared_data
from orchestrator.theory.features import ExpertTraining, Trainings
from orchestrator.theory.panel import Array
from workers.sampling.batches import num_in_subset
from workers.specs.expert import ExpertSpec
from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.train.schedules import learning_rate


def planned_trainings(committed: Committed) -> Trainings | str:
    """Returns the training of every task's expert at every setting, or why it is not known."""
    num_train = {task: each.num_train for task, each in prepared_data(committed).items()}
    plan = committed.plan
    unknown = sorted(set(plan.study.task_names) - set(num_train))
    if unknown:
        return f"the store lacks the images of {', '.join(unknown)}, whose number is needed"
    return {
        setting.name: {
            task: _training(spec, num_train=num_train[task]) for task, spec in experts.items()
        }
        for setting, experts in zip(plan.settings, plan.setting_experts, strict=True)
    }


def _training(spec: ExpertSpec, *, num_train: int) -> ExpertTraining:
    point = spec.hyperparameters
    shape = Hyperparameters(
        steps=point.steps,
        batch_size=1,
        lr=1.0,
        data_ratio=1.0,
        optimizer=point.optimizer,
        seed=0,
        schedule=point.schedule,
        warmup_steps=point.warmup_steps,
        average_weights=point.average_weights,
        ema_decay=point.ema_decay,
        swa_start=point.swa_start,
    )
    found = _accumulation(shape, spec.constants, decay=point.lr * point.weight_decay)
    return ExpertTraining(
        steps=point.steps,
        batch_size=point.batch_size,
        lr=point.lr,
        momentum=spec.constants.momentum,
        is_adam=point.optimizer != "sgd",
        num_examples=num_in_subset(num_train, data_ratio=point.data_ratio),
        total=found.total,
        sum_of_squares=found.sum_of_squares,
    )


@lru_cache(maxsize=128)
def _accumulation(
    shape: Hyperparameters, constants: TrainingConstants, *, decay: float
) -> Accumulation:
    """Returns the accumulation vector of a training; Adam's preconditioner is left out.

    Takes time in proportion to the square of the steps, so experts that differ in other
    hyperparameters share it.

    Args:
        shape: The hyperparameters that the vector depends on, with a learning rate of 1.
        constants: The optimizer's constants.
        decay: Learning rate times weight decay.
    """
    rates = [learning_rate(shape, step=step) for step in range(shape.steps)]
    averaged = _iterate_weights(shape)
    if shape.optimizer == "sgd":
        return sgd(
            rates,
            momentum=constants.momentum,
            nesterov=constants.nesterov,
            weight_decay=decay,
            iterate_weights=averaged,
        )
    return adam(
        rates,
        first_decay=constants.momentum,
        weight_decay=decay if shape.optimizer == "adamw" else 0.0,
        iterate_weights=averaged,
    )


def _iterate_weights(shape: Hyperparameters) -> Array | None:
    if shape.average_weights == "ema":
        return ema_weights(shape.steps, decay=shape.ema_decay)
    if shape.average_weights == "swa":
        return swa_weights(shape.steps, start=math.floor(shape.swa_start * shape.steps))
    return None
