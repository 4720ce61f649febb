"""The holes of a study: bases, experts and merges that it lacks, with the reasons."""

from dataclasses import dataclass
from enum import StrEnum

from workers.specs.hyperparameters import UNKNOWN_TRAINING


class Outcome(StrEnum):
    """Why an artifact is missing from the results; the value is the text that users see."""

    FAILED = "failed"
    """Its training or merge job failed on every try of this run; the next run tries again."""
    DIVERGED = "diverged"
    """It is committed without weights, because they were not finite, or a base's training loss."""
    NOT_RUN = "not run"
    """Its job was not started, or something that the job needs has no weights."""
    LEFT_OUT = "not run (budget)"
    """The budget of the study has no room for its job."""

    @property
    def is_failure(self) -> bool:
        """Returns whether a job reported an error; the study's exit code says so."""
        return self is Outcome.FAILED


@dataclass(frozen=True, kw_only=True)
class MissingBase:
    """The description of a base that was to be pretrained, or of a multi-task model."""

    model: str
    steps: int
    multi_task: tuple[str, ...] = ()
    """The tasks of a multi-task model; empty for a base."""

    def __str__(self) -> str:
        if self.multi_task:
            tasks = ", ".join(self.multi_task)
            return f"{self.model} after {self.steps} steps on {tasks} together"
        return f"{self.model} after {self.steps} steps of pretraining"


@dataclass(frozen=True, kw_only=True)
class MissingExpert:
    """The description of an expert."""

    task: str
    lr: float
    steps: int

    def __str__(self) -> str:
        if self.steps == UNKNOWN_TRAINING.steps:
            return f"{self.task} from its file"
        return f"{self.task} at lr={self.lr}, steps={self.steps}"


@dataclass(frozen=True, kw_only=True)
class MissingMerge:
    """The description of a merge: its cell of the result table."""

    method: str
    """The method's label in the study."""
    group: str
    setting: str

    def __str__(self) -> str:
        return f"{self.method} on {self.group} at {self.setting}"


@dataclass(frozen=True, kw_only=True)
class Blocker:
    """A base or expert without weights, or a failed merge, on which other artifacts depend."""

    kind: str
    """`base`, `expert` or `merge`."""
    id: str
    outcome: Outcome
    """`FAILED` or `DIVERGED`; `NOT_RUN` for an expert that was lost after its merge was made."""
    task: str | None = None
    """The task of an expert."""

    def __str__(self) -> str:
        of_task = "" if self.task is None else f" of {self.task}"
        state = "missing" if self.outcome is Outcome.NOT_RUN else self.outcome
        return f"{state} {self.kind} {self.id}{of_task}"


@dataclass(frozen=True, kw_only=True)
class Hole:
    """One base, expert or merge that is missing from the results, and why.

    `what` and `reason` are the words for terminal and report; all other fields are data.
    """

    id: str
    """The id of the missing artifact."""
    artifact: MissingBase | MissingExpert | MissingMerge
    outcome: Outcome
    error: str = ""
    """The last error and where its traceback lies, for `FAILED`."""
    steps_taken: int | None = None
    """Finite optimizer steps, for `DIVERGED`."""
    blocked_by: Blocker | None = None
    """The base or expert without weights, for `NOT_RUN`; None for a job that can still run."""

    @property
    def kind(self) -> str:
        """The kind of the missing artifact: `base`, `expert` or `merge`."""
        kinds = {MissingBase: "base", MissingExpert: "expert", MissingMerge: "merge"}
        return kinds[type(self.artifact)]

    @property
    def what(self) -> str:
        """The missing artifact in words, with its id."""
        return f"{self.kind} {self.id}: {self.artifact}"

    @property
    def reason(self) -> str:
        """The reason in words; empty for a job that just has not been run yet."""
        match self.outcome:
            case Outcome.FAILED:
                return self.error
            case Outcome.DIVERGED:
                return f"not finite after {self.steps_taken} steps"
            case Outcome.LEFT_OUT:
                return "the rest of the budget is too small for it"
            case Outcome.NOT_RUN if self.blocked_by is None:
                return ""
            case Outcome.NOT_RUN:
                return f"blocked by {self.blocked_by}"
