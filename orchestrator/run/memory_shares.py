"""Gives trainings that run out of memory a larger share of a GPU, then smaller micro-batches."""

import threading
from collections.abc import Sequence

from orchestrator.plan.plan import Plan
from workers.calibrate.speeds import train_key
from workers.specs.training import Training
from workers.train.memory_share import MemoryShare

_DIGITS = 4
"""Ray's smallest part of a GPU is 0.0001."""


def steps_of(gpu: float, *, batch_size: int) -> Sequence[MemoryShare]:
    """Returns the memory of each further try: doubled shares up to a GPU, then halved batches."""
    shares, amount, images = [(gpu, None)], gpu, batch_size
    while 0 < amount < 1:
        amount = min(1.0, round(2 * amount, _DIGITS))
        shares.append((amount, None))
    halves: list[tuple[float, int | None]] = []
    while images > 1:
        images //= 2
        halves.append((amount, images))
    return [
        MemoryShare(gpu=gpu, micro_batch=micro_batch, num_refused=number)
        for number, (gpu, micro_batch) in enumerate([*shares, *halves])
    ]


class MemoryShares:
    """The memory of each training's next try. Thread-safe.

    Trainings with equal optimizer steps need equal memory, so what one of them lacks, all get. The
    knowledge lasts as long as the run.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan(plan)
        self._lock = threading.Lock()
        self._reached: dict[str, int] = {}
        """Positions in `steps_of`, by kind of optimizer step; absent as long as they are 0."""
        self._given: dict[str, int] = {}
        """The positions that trainings were given last, by id."""

    def plan(self, plan: Plan) -> None:
        """Takes the plan whose trainings run from now on."""
        self._plan = plan
        # By the ids of all outputs, because the rest of a training may end with any of them.
        self._trainings = {
            output.id: training for training in plan.trainings for output in training.outputs
        }

    def of(self, training_id: str) -> MemoryShare:
        """Returns the memory of a training that starts now."""
        training = self._trainings[training_id]
        with self._lock:
            position = self._given[training_id] = self._position(training)
            return self._steps(training)[position]

    def raised(self, training_id: str) -> MemoryShare | None:
        """Notes that a training ran out of memory.

        Returns:
            The memory of its next try, None if there is no other way to run it.
        """
        training = self._trainings[training_id]
        steps = self._steps(training)
        with self._lock:
            position = max(self._position(training), self._given.get(training_id, 0) + 1)
            if position >= len(steps):
                return None
            self._reached[self._kind(training)] = position
            return steps[position]

    def _position(self, training: Training) -> int:
        # Without any failure, nothing is computed: this runs at the start of every trial.
        return self._reached.get(self._kind(training), 0) if self._reached else 0

    def _steps(self, training: Training) -> Sequence[MemoryShare]:
        gpu = self._plan.study.resources.trial.gpu
        return steps_of(gpu, batch_size=training.recipe.hyperparameters.batch_size)

    def _kind(self, training: Training) -> str:
        return train_key(
            self._plan.bases.by_id[training.base_id].model,
            image_size=self._plan.study.backbone.image_size,
            spec=training.recipe,
        )
