"""The study file's section on data sets."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from eval.suites import SUITES
from orchestrator.study.section import Section, distinct
from workers.specs.data import EvaluateOn


class OwnTask(Section):
    """A data set of the user's own, with a training and a test split."""

    folder: Annotated[str, Field(min_length=1)] | None = None
    """A directory of `train/<class>/*` and `test/<class>/*`, images of any usual format."""
    parquet: Annotated[str, Field(min_length=1)] | None = None
    """A directory of `train*.parquet` and `test*.parquet`, or `.arrow`."""
    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    """Owner and name of a data set on Hugging Face's hub, downloaded before."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """The hub's commit, 40 hex digits."""
    image: str = "image"
    """Column of the images, in tables."""
    label: str = "label"
    """Column of the labels, in tables."""
    classes: Annotated[list[str], AfterValidator(distinct)] | None = None
    """Names of integer labels in their order, where the tables do not have them."""
    channels: Literal[1, 3] = 3
    """1 makes all images grey, 3 makes all of them RGB."""

    @property
    def place(self) -> str:
        """The directory, or owner and name."""
        return self.folder or self.parquet or self.hub or ""

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        if [self.folder, self.parquet, self.hub].count(None) != 2:  # noqa: PLR2004 one is left
            raise ValueError("give one of folder, parquet and hub")
        if (self.hub is None) != (self.revision is None):
            raise ValueError("hub and revision go together: a commit says which files are meant")
        in_tables = {"image", "label", "classes"} & self.model_fields_set
        if self.folder and in_tables:
            raise ValueError(f"a folder has no {', '.join(sorted(in_tables))}; leave it out")
        return self


class Tasks(Section):
    """The data sets and how much of them is used."""

    suite: Literal[tuple(SUITES)] | None = None  # type: ignore[valid-type]
    """A named list of tasks; with `names`, a choice from it."""
    names: Annotated[list[str], AfterValidator(distinct)] | None = None
    """Tasks by name."""
    own: dict[str, OwnTask] = Field(default_factory=dict)
    """The user's own tasks by name, besides those of `suite` and `names`."""
    root: Annotated[str, Field(min_length=1)] | None = None
    """Where published data sets lie on every node; each node's MERGESWEEP_DATA, or else
    ~/.cache/mergesweep/data, when left out."""
    max_train: Annotated[int, Field(ge=1)] | None = None
    """Keeps this many training images a task; all when left out."""
    max_test: Annotated[int, Field(ge=1)] | None = None
    """Keeps this many test images a task; all when left out."""
    evaluate_on: EvaluateOn = "test"
    """`validation` holds out a fifth of the training images and never touches the test images."""

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: object) -> object:
        """Reads `tasks: SUITE` and `tasks: [NAME, ...]`."""
        if isinstance(value, str):
            return {"suite": value}
        return {"names": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _has_tasks(self) -> Self:
        if self.suite is None and not self.names and not self.own:
            raise ValueError("name a suite, or tasks under names, or your own under own")
        return self

    @property
    def all_names(self) -> tuple[str, ...]:
        """The names, or all of the suite, and then the user's own tasks."""
        named = self.names or (SUITES[self.suite] if self.suite else ())
        return (*named, *self.own)
