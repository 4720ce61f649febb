"""The study file: its top level, groups, merges and evaluation.

The schema and the checks beside it are the only place where a study file is interpreted. Behind
them, everything is frozen and valid. `orchestrator.study.reader` reads a file and collects every
problem.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from merge.catalogue import CARDS, BatchNormPolicy, MethodCard, parse_params
from merge.parameters.method_params import MethodParams
from orchestrator.study.backbone import BackboneSection, GivenExpert
from orchestrator.study.finetune import Finetune
from orchestrator.study.resources import Budget, Resources
from orchestrator.study.search import Search
from orchestrator.study.section import Axis, BatchSize, LearningRate, Section, Seed, Text, matching
from orchestrator.study.tasks import Tasks
from workers.artifacts.layout import STUDY_NAME, STUDY_NAME_RULE
from workers.own_methods.sources import method_name
from workers.specs.merge import Joint
from workers.specs.own_method import OwnMethodSpec
from workers.specs.snapshots import StepRule
from workers.specs.tuning import TunedBy, TunedOver

PoolKind = Literal["irrelevant", "relevant"]
Extra = Literal["irrelevant", "relevant", "both"]

IRRELEVANT: PoolKind = "irrelevant"
RELEVANT: PoolKind = "relevant"
POOL_AXES: Mapping[PoolKind, str] = {
    IRRELEVANT: "pool_irrelevant",
    RELEVANT: "pool_relevant",
}
"""The axis of each kind: the number of experts that are merged."""

GroupSize = Annotated[int, Field(ge=1)]
StudyName = Annotated[
    str,
    matching(STUDY_NAME, expected=STUDY_NAME_RULE),
]
Label = Annotated[
    str,
    matching(
        r"[^'\x00-\x1f]{1,100}",
        expected="1 to 100 characters without ' (which MLflow cannot search for) and without "
        "control characters",
    ),
]


SAME = "same"
MAX_TIMES = 1_000_000
"""The most times as many steps as an expert that a multi-task model has."""
Keep = Literal["scores", "merged"]
"""The content of a merge's artifact."""


class Groups(Section):
    """The groups of tasks whose experts are merged."""

    count: Annotated[int, Field(ge=1)] = 15
    """Groups of each size, all different; if fewer exist, all of them."""
    size: GroupSize = 2
    """Tasks per group."""
    sizes: Axis[GroupSize] = []
    """The number-of-tasks axis, at the default hyperparameters. Groups are nested along it."""
    pool: Axis[GroupSize] = []
    """The pool axis, at the default hyperparameters: experts that are merged, of which only the
    tasks of a group of `size` are scored."""
    extra: Extra = "irrelevant"
    """The further experts of a pool. `irrelevant`: of other tasks. `relevant`: of the same tasks,
    from the study's other settings. `both`: an axis for each."""
    seed: Seed | None = None
    """Seeds the sampling of groups; the study's seed when left out."""

    @property
    def pool_kinds(self) -> tuple[PoolKind, ...]:
        """The kinds of pools, each with an axis of its own; none without `pool`."""
        kinds = tuple(POOL_AXES) if self.extra == "both" else (self.extra,)
        return kinds if self.pool else ()


class Surgery(Section):
    """Adapters on the merged model's features, one per task, trained towards the expert's own."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """Width of an adapter between its two maps. Default: the paper's (Yang 2024)."""
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Steps of Adam per task. Default: the authors' 500 rounds of two batches."""
    lr: LearningRate = 0.001
    batch_size: BatchSize = 16
    """Unlabelled test images per step."""


TUNE = "tune"
"""The key of a mapping that stands in place of a parameter's value and lists values to try."""


STEPS = "steps"
STEP_RULES: Mapping[str, StepRule] = {"chosen": "chosen", "stopped": "stopped"}
"""The words that a merge's `steps` may be. A number is the method's own parameter of that name."""


class Merge(BaseModel):
    """A merging method; the method's own parameters stand beside these fields."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    method: str
    """A method of `mergesweep methods`, `./my_method.py:MyMethod` or `package:my_method`."""
    label: Label | None = None
    """The method's name in tables and figures; made of method and parameters when left out."""
    batch_norm: BatchNormPolicy = "average"
    """Policy for BatchNorm's running statistics."""
    recalibration_images: Annotated[int, Field(ge=1)] = 256
    """Unlabelled training images per task, for `batch_norm: recalibrate`."""
    surgery: Surgery | None = None
    """Representation surgery after the merge; `{}` for its defaults, none when left out."""

    keep: Keep = "scores"
    """`merged` stores the merged weights with the scores, so that `export` need not merge again."""

    tuned_by: TunedBy = "loss"
    """The score on validation images that decides between the values to try."""
    tuned_over: TunedOver = "group"
    """The merges that share one choice, by their mean score."""

    _own_method: OwnMethodSpec | None = PrivateAttr(default=None)
    _own_file: bytes | None = PrivateAttr(default=None)

    @property
    def name(self) -> str:
        """The method's name: for a user's method without the path of its file."""
        return method_name(self.method)

    @property
    def own_method(self) -> OwnMethodSpec | None:
        """The method as it was found, if a user wrote it; None for one of the catalogue."""
        return self._own_method

    @property
    def card(self) -> MethodCard:
        """The card of a method that was found."""
        return CARDS[self.method] if self.own_method is None else self.own_method.card

    @property
    def own_file(self) -> bytes | None:
        """The content of the method's file; None if the store has it already, and for packages."""
        return self._own_file

    def with_own_method(self, spec: OwnMethodSpec, *, file: bytes | None) -> Self:
        """Returns the entry with the user's method that it names."""
        found = self.model_copy()
        found._own_method, found._own_file = spec, file  # noqa: SLF001 a copy of this object
        return found

    def parsed_params(self, values: Mapping[str, object] | None = None) -> MethodParams:
        """Returns the method's own parameters with defaults, from the entry or from other values.

        Raises:
            ParameterErrors: The method or a parameter is unknown, or a value is not allowed.
        """
        card = None if self.own_method is None else self.own_method.card
        return parse_params(self.name, self.params if values is None else values, card=card)

    @property
    def params(self) -> dict[str, Any]:
        """The method's own parameters, as written, without those that are tuned."""
        return {name: each for name, each in self._own().items() if name not in self.tuned}

    @property
    def step_rule(self) -> StepRule | None:
        """The rule by which each task's steps are chosen; None to merge experts as they are."""
        written = (self.model_extra or {}).get(STEPS)
        return STEP_RULES.get(written) if isinstance(written, str) else None

    @property
    def tuned(self) -> dict[str, Any]:
        """The values to try of each parameter that is tuned, as written."""
        return {
            name: each[TUNE]
            for name, each in self._own().items()
            if isinstance(each, dict) and each.keys() == {TUNE}
        }

    def _own(self) -> dict[str, Any]:
        own = dict(self.model_extra or {})
        if self.step_rule is not None:
            del own[STEPS]
        return own


def _times(value: object) -> object:
    if value != SAME and not (type(value) is int and 1 <= value <= MAX_TIMES):
        raise ValueError(f"expected a whole number from 1 to {MAX_TIMES}, or {SAME}")
    return value


class MultiTask(Section):
    """One backbone that is trained on all tasks of a group together, with a head per task."""

    steps: Annotated[Annotated[int, Field(ge=1)] | Literal["same"], BeforeValidator(_times)] = (
        "same"
    )
    """`same`: as many optimizer steps as one expert. A number: that many times as many."""
    settings: Literal["all", "defaults"] = "all"
    """`all`: a model at every setting. `defaults`: only where every axis has its default value."""


class Baselines(Section):
    """Models beside the merges, in the same tables and figures."""

    multi_task: MultiTask | None = None
    """A multi-task model for every group; `{}` for its defaults, none when left out."""


class Evaluation(Section):
    """Scores of merged models besides those on each task of the group under its own head."""

    held_out: bool = False
    """Evaluates every merge on the study's other tasks as well; the means leave them out."""
    joint: Joint = "none"
    """Evaluates every merge without modules per task as if the task of an image were not known:
    the largest logit of all heads of the group decides. `calibrated` does so with logits divided by
    a temperature per head as well, which is fitted on labelled validation images."""


class Study(Section):
    """A study file."""

    name: StudyName
    """The study's name in the store and in MLflow."""
    seed: Seed = 0
    backbone: BackboneSection = BackboneSection()
    tasks: Tasks
    finetune: Finetune = Finetune()
    search: Search | None = None
    """Searches hyperparameters for the merged model, in place of axes and designs."""
    experts: dict[str, GivenExpert] = {}
    """Files with the weights of experts that were trained elsewhere, by task; none when left
    out: the study trains its experts."""
    groups: Groups = Groups()
    merge: Annotated[list[Merge], Field(min_length=1)]
    evaluation: Evaluation = Evaluation()
    baselines: Baselines = Baselines()
    store: Text = "./mergesweep-store"
    """A directory, or s3://bucket/prefix."""
    tracking: str | None = None
    """Address of an MLflow server or database; an SQLite file beside the store when left out."""
    resources: Resources = Resources()
    budget: Budget = Budget()
    retries: Annotated[int, Field(ge=0)] = 2
    """Retries of a failed trial or merge job per run. A lost node does not count as a failure."""
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 30
    """Least seconds between two checkpoints of a running training. The interval grows if writing
    checkpoints would take more than 2 % of the time."""

    @property
    def task_names(self) -> tuple[str, ...]:
        """The study's tasks: names or all of a suite, then the study's own tasks."""
        return self.tasks.all_names
