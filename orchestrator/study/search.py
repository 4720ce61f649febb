"""The study file's section `search`: hyperparameters that are searched for the merged model."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from orchestrator.study.resources import Budget, Limit
from orchestrator.study.section import Section, Steps, distinct
from workers.specs.tuning import TunedBy

DEFAULT_BATCH = 8
"""Candidates of a batch without halving."""

_NumberBounds = Annotated[list[float], Field(min_length=1)]
_WholeBounds = Annotated[list[int], Field(min_length=1)]
_Choices = Annotated[list[Any], Field(min_length=1), AfterValidator(distinct)]
_NUM_BOUNDS = 2
_FORMS = "{log: [1e-5, 1e-2]}, {uniform: [0, 0.1]}, {int: [16, 256]} or {choice: [16, 64]}"


class SearchRange(Section):
    """The values that a search draws a hyperparameter from; one of the fields."""

    log: _NumberBounds | None = None
    """Two bounds above 0, between which the logarithm is uniform."""
    uniform: _NumberBounds | None = None
    """Two bounds of a number."""
    choice: _Choices | None = None
    """A list of values."""
    int: _WholeBounds | None = None
    """Two bounds of a whole number, which may be drawn too."""

    @model_validator(mode="after")
    def _is_one_range(self) -> Self:
        given = [name for name, values in self if values is not None]
        if len(given) != 1:
            raise ValueError(f"expected one range, such as {_FORMS}")
        if self.choice is not None:
            return self
        low, high = self.bounds
        if not low < high:
            raise ValueError("expected two bounds, the lower one first")
        if self.log is not None and low <= 0:
            raise ValueError("a logarithm needs bounds above 0; expected such as [1e-5, 1e-2]")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper bound; equal if the file does not give two."""
        bounds = self.log or self.uniform or self.int or []
        return (bounds[0], bounds[1]) if len(bounds) == _NUM_BOUNDS else (0.0, 0.0)

    @property
    def extremes(self) -> list[Any]:
        """The bounds, or all values of a choice: each must be allowed by itself."""
        return list(self.choice or self.log or self.uniform or self.int or [])


class Objective(Section):
    """The score of a merged model on validation images that decides between candidates."""

    metric: TunedBy = "loss"
    """The least loss or the greatest accuracy."""
    scope: Literal["macro", "union"] = "macro"
    """The mean over the tasks of a group, or over all of their images."""
    over: Literal["mean", "lower"] = "mean"
    """The mean over the groups, or its bound: a standard error of the mean on the worse side."""


class SearchBudget(Section):
    """The end of a search; the first limit that is reached ends it."""

    candidates: Annotated[int, Field(ge=1)] | None = None
    """Candidates that are proposed."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps of all trials of all candidates."""
    gpu_hours: Limit | None = None
    """Hours of the workers of all candidates' trials and merges, times the GPUs of each worker."""
    cpu_hours: Limit | None = None
    """The same times the cores of each worker."""

    @property
    def hours(self) -> Budget:
        """The limits of hours, in the study's own words; a budget without limits if none is set."""
        return Budget(gpu_hours=self.gpu_hours, cpu_hours=self.cpu_hours)


class Halving(Section):
    """Successive halving: the best candidates of a batch go on to more steps, the others stop."""

    factor: Annotated[int, Field(ge=2)] = 3
    """One candidate in so many goes on, and the steps grow by so much."""
    first: Steps
    """The steps after which candidates are merged and compared for the first time."""


class SearchPrior(Section):
    """The theory's prediction of each merge, which random candidates are drawn by.

    Needs the constants that `mergesweep measure NAME --curvature` puts into the store.
    """

    form: Literal["proved", "stated"] = "proved"
    """The form of the test loss of a merge: the proved bound, or the stated one, never a bound."""
    pool: Annotated[int, Field(ge=2, le=1000)] = 8
    """Points that are drawn for each random candidate; the one with the least prediction stays."""


class Search(Section):
    """A search for the hyperparameters of experts whose merge is best on validation images."""

    space: Annotated[dict[str, SearchRange], Field(min_length=1)]
    """The range of each hyperparameter that is searched; the others are at their defaults."""
    per_task: Annotated[list[str], AfterValidator(distinct)] = []
    """The hyperparameters of `space` that each task has a value of its own of."""
    objective: Objective = Objective()
    budget: SearchBudget
    algorithm: Literal["random", "grid", "tpe", "gp"] = "random"
    """`random`: every candidate is drawn by itself. `grid`: all combinations of choices and whole
    numbers, in their order. `tpe` and `gp`: Optuna's tree-structured Parzen estimator and Gaussian
    process, through Ray Tune, from the scores of earlier batches; they need the package optuna."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Candidates that are proposed together. When left out, as many as halving needs for one of
    them to reach the most steps, or 8 without halving."""
    prior: SearchPrior | None = None
    """Draws random candidates by the theory's prediction; by chance alone when left out."""
    halving: Halving | None = None
    """Stops candidates early; every candidate is trained for all steps when left out."""

    def rungs(self, most_steps: int) -> tuple[int | None, ...]:
        """Returns the steps at which candidates are merged, ascending; None for their own steps.

        Each is at least `factor` times the one before; the last is that of a whole training.
        """
        if self.halving is None:
            return (None,)
        steps, rungs = self.halving.first, []
        while steps * self.halving.factor <= most_steps:
            rungs.append(steps)
            steps *= self.halving.factor
        return (*rungs, most_steps)

    def batch_size(self, most_steps: int) -> int:
        """Returns the candidates that are proposed together."""
        if self.batch is not None:
            return self.batch
        if self.halving is None:
            return DEFAULT_BATCH
        return int(self.halving.factor ** (len(self.rungs(most_steps)) - 1))
