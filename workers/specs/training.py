"""The specifications of trainings: trials, which make experts, and pretraining of bases."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Generic, Literal, Self, TypeVar

from workers.specs.bases import BaseSpec, PretrainSpec
from workers.specs.expert import ExpertSpec

Output = TypeVar("Output", BaseSpec, ExpertSpec)


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(ABC, Generic[Output]):
    """One training: optimizer steps from a base, with an artifact committed at each snapshot.

    Trials make experts and pretraining makes bases. Ray Tune schedules both as its trials.
    """

    longest: Output
    """The artifact after the most steps."""
    snapshots: tuple[int, ...]
    """Step counts at which an artifact is committed, ascending; the last is that of `longest`."""
    goes_on_to: Output | None = None
    """The artifact with which a longer training may go on from the end of this one, which leaves a
    checkpoint for it; None if nothing goes on."""

    output_kind: ClassVar[Literal["base", "expert"]]
    """The kind of the artifacts that the training commits."""

    @classmethod
    def sharing_prefixes(cls, outputs: Iterable[Output]) -> tuple[Self, ...]:
        """Returns the trainings that make some artifacts in as few steps as possible.

        Artifacts that differ only in the number of steps are snapshots of one training, unless a
        step depends on the total number of steps, as under a cosine schedule.
        """
        by_prefix: dict[Output, dict[int, Output]] = {}
        for output in outputs:
            hyperparameters = output.hyperparameters
            prefix = output if hyperparameters.depends_on_total else output.with_steps(0)
            by_prefix.setdefault(prefix, {})[hyperparameters.steps] = output
        return tuple(
            cls._of([by_steps[each] for each in sorted(by_steps)])
            for by_steps in by_prefix.values()
        )

    @classmethod
    def _of(cls, outputs: Sequence[Output]) -> Self:
        """Returns the training that commits some artifacts, which are ordered by steps."""
        snapshots = tuple(output.hyperparameters.steps for output in outputs)
        training = cls(longest=outputs[-1], snapshots=snapshots)
        vars(training)["outputs"] = tuple(outputs)  # equal ones would compute their ids again
        return training

    @property
    @abstractmethod
    def base_id(self) -> str:
        """The id of the base that the training starts from."""

    @property
    @abstractmethod
    def recipe(self) -> "PretrainSpec | ExpertSpec":
        """The data, hyperparameters and constants of the training's steps."""

    @property
    @abstractmethod
    def label(self) -> str:
        """A name for people; several trainings of a study may have the same."""

    @property
    def id(self) -> str:
        """The id of the longest training's artifact."""
        return self.longest.id

    @property
    def checkpoints_id(self) -> str:
        """The id under which checkpoints lie: that of the longest training that may use them."""
        return self.id if self.goes_on_to is None else self.goes_on_to.id

    @property
    def num_steps(self) -> int:
        """The number of optimizer steps."""
        return self.snapshots[-1]

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """The artifacts that the training commits: one for each of `snapshots`, in their order."""
        return tuple(
            self.longest if steps == self.num_steps else self.longest.with_steps(steps)
            for steps in self.snapshots
        )

    def without(self, committed: Container[str]) -> Self | None:
        """Returns the remainder of the training; None if all its artifacts are committed.

        Args:
            committed: Ids of committed artifacts. The remainder leaves their snapshots out, and
                ends at the last missing one.
        """
        left = [output for output in self.outputs if output.id not in committed]
        if not left:
            return None
        rest = self._of(left)
        return rest if self.goes_on_to is None else replace(rest, goes_on_to=self.goes_on_to)


@dataclass(frozen=True, kw_only=True)
class Pretraining(TrainingSpec[BaseSpec]):
    """The pretraining of a base on several tasks at once."""

    output_kind = "base"

    @property
    def base_id(self) -> str:
        """The id of the base that the pretraining starts from."""
        return self.longest.initial.id

    @property
    def recipe(self) -> PretrainSpec:
        """The data, hyperparameters and constants of the steps."""
        assert self.longest.pretrain is not None
        return self.longest.pretrain

    @property
    def label(self) -> str:
        """`pretraining` and the model's name, or `multi-task` and the tasks."""
        if self.recipe.heads == "per_task":
            return f"multi-task {', '.join(self.recipe.tasks)}"
        return f"pretraining {self.longest.model}"


@dataclass(frozen=True, kw_only=True)
class TrialSpec(TrainingSpec[ExpertSpec]):
    """The fine-tuning of a base on one task."""

    output_kind = "expert"

    @property
    def base_id(self) -> str:
        """The id of the base that is fine-tuned."""
        return self.longest.base_id

    @property
    def recipe(self) -> ExpertSpec:
        """The data, hyperparameters and constants of the steps."""
        return self.longest

    @property
    def label(self) -> str:
        """The task and the learning rate, or that the expert is given."""
        if self.longest.given is not None:
            return f"{self.longest.task} from its file"
        return f"{self.longest.task} lr={self.longest.hyperparameters.lr}"


Training = Pretraining | TrialSpec
