"""The hyperparameters of an expert, and where a study's axes start from."""

from dataclasses import dataclass

from orchestrator.study.schema import Finetune
from workers.specs.training import Augmentation, Averaging, HeadMode, OptimizerName, Schedule


@dataclass(frozen=True, kw_only=True)
class Point:
    """The hyperparameters of one fine-tuning run."""

    steps: int
    batch_size: int
    lr: float
    data_ratio: float
    seed: int
    optimizer: OptimizerName
    weight_decay: float
    sam_rho: float
    schedule: Schedule
    warmup_steps: int
    head: HeadMode
    average_weights: Averaging
    ema_decay: float
    """Without effect unless `average_weights` is `ema`."""
    swa_start: float
    """Without effect unless `average_weights` is `swa`."""
    augment: Augmentation
    linearised: bool


def default_point(finetune: Finetune) -> Point:
    """Returns the point that axes vary around."""
    return Point(
        **finetune.defaults.model_dump(),
        optimizer=finetune.optimizer.name,
        weight_decay=finetune.optimizer.weight_decay,
        sam_rho=finetune.optimizer.sam_rho,
        schedule=finetune.schedule,
        warmup_steps=finetune.warmup_steps,
        head=finetune.head.mode,
        average_weights=finetune.average_weights.mode,
        ema_decay=finetune.average_weights.ema_decay,
        swa_start=finetune.average_weights.swa_start,
        augment=finetune.augment,
        linearised=finetune.linearised,
    )
