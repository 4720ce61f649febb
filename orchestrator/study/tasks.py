"""The study file's section `tasks`: the data sets, and how many of their images are used."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from eval.suites import SUITES
from orchestrator.study.problems import suggest
from orchestrator.study.section import Section, Text, distinct, matching
from workers.specs.data import EvaluateOn, OnBadImage

HubName = Annotated[
    str, matching(r"[\w.-]+/[\w.-]+", expected="an owner and a name, such as `owner/flowers`")
]
Revision = Annotated[
    str, matching(r"[0-9a-f]{40}", expected="the 40 hexadecimal digits of a commit")
]
SplitName = Annotated[
    str,
    matching(
        r"(?!\.{1,2}$)[^/\x00-\x1f]+",
        expected="the name of a folder or the beginning of file names, such as `val`, without '/'",
    ),
]
Patterns = Annotated[list[Text], AfterValidator(distinct)]


def unknown_name(name: str, *, known: Iterable[str], kind: str) -> str:
    """Returns the remedy for a name that no suite or task has; a path belongs under `tasks.own`."""
    if "/" in name:
        return "data of your own go under tasks.own, such as `own: {pets: {folder: /data/pets}}`"
    return suggest(name, known=known, kind=kind)


def _whole(value: object) -> object:
    if type(value) is not int:  # `true` equals 1
        raise ValueError("expected 1 or 3")
    return value


def _known_suite(name: str) -> str:
    if name not in SUITES:
        raise ValueError(unknown_name(name, known=SUITES, kind="suites"))
    return name


Suite = Annotated[str, AfterValidator(_known_suite)]


class OwnTask(Section):
    """A data set of the user's own, with a training and a test split."""

    folder: Text | None = None
    """A directory of `train/<class>/*` and `test/<class>/*`, images of any usual format."""
    parquet: Text | None = None
    """A directory of `train*.parquet` and `test*.parquet`, or `.arrow` files."""
    hub: HubName | None = None
    """Owner and name of a downloaded data set of Hugging Face's hub."""
    revision: Revision | None = None
    """The commit of the hub's data set."""
    train: SplitName | None = None
    """The training split's folder, or the beginning of its files' names; `train` when left out."""
    test: SplitName | None = None
    """The same for the test split. When left out, the first of `test`, `val`, `validation` and
    `valid` that exists."""
    ignore: Patterns = Field(default_factory=list)
    """Patterns of files and folders that are left out, such as `*.svg` or `train/drafts`."""
    image: str = "image"
    """Column of the images, in tables."""
    label: str = "label"
    """Column of the labels, in tables."""
    classes: Annotated[list[Text], AfterValidator(distinct)] | None = None
    """Names of integer labels in their order, for tables without class names."""
    channels: Annotated[Literal[1, 3], BeforeValidator(_whole)] = 3
    """1 converts all images to greyscale, 3 converts all of them to RGB."""
    on_bad_image: OnBadImage | None = None
    """The same as `tasks.on_bad_image`, for this task; that of `tasks` when left out."""

    @property
    def place(self) -> str:
        """The directory, or owner and name."""
        return self.folder or self.parquet or self.hub or ""


class Tasks(Section):
    """The data sets of a study."""

    suite: Suite | None = None
    """A named list of tasks; `names` selects from it."""
    names: Annotated[list[str], AfterValidator(distinct)] | None = None
    """Names of tasks."""
    own: dict[str, OwnTask] = Field(default_factory=dict)
    """The user's own tasks by name, in addition to `suite` and `names`."""
    root: Text | None = None
    """Directory of published data sets on every node. When left out, each node's MERGESWEEP_DATA,
    or else ~/.cache/mergesweep/data."""
    max_train: Annotated[int, Field(ge=1)] | None = None
    """Most training images per task; all when left out."""
    max_test: Annotated[int, Field(ge=1)] | None = None
    """Most test images per task; all when left out."""
    max_validation: Annotated[int, Field(ge=1)] | None = None
    """Holds a fifth of the training images out of every training and keeps at most this number per
    task as validation images, on which `tune` chooses; nothing is held out when left out."""
    evaluate_on: EvaluateOn = "test"
    """`validation` evaluates on a fifth of the training images, held out, and never reads the test
    images."""
    on_bad_image: OnBadImage = "refuse"
    """The treatment of images that cannot be decoded: `refuse` names them and stops, `skip` leaves
    them out and counts them."""

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
            raise ValueError("give a suite, a list of task names, or tasks of your own under `own`")
        return self

    def on_bad_image_of(self, name: str) -> OnBadImage:
        """Returns the rule for images of a task that cannot be decoded."""
        own = self.own.get(name)
        return (own.on_bad_image if own else None) or self.on_bad_image

    @property
    def all_names(self) -> tuple[str, ...]:
        """The names, or all names of the suite, followed by the user's own tasks."""
        named = self.names or (SUITES[self.suite] if self.suite else ())
        return (*named, *self.own)
