"""The study file: its schema, field by field.

This is the only place where input from outside is parsed; behind it everything is frozen and
checked. `orchestrator.reading` reads a file and collects what is wrong with it.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from eval.tasks import SUITES
from merge.params import BatchNormPolicy
from workers.specs import EvaluateOn, OptimizerName, Schedule

Steps = Annotated[int, Field(ge=1, description="optimizer steps, 1 or more")]
BatchSize = Annotated[int, Field(ge=1, description="images per step, 1 or more")]
LearningRate = Annotated[float, Field(gt=0, lt=100, description="above 0 and below 100")]
DataRatio = Annotated[float, Field(gt=0, le=1, description="above 0, at most 1")]
Limit = Annotated[float, Field(gt=0, description="above 0")] | None
Seed = Annotated[int, Field(ge=0, lt=2**63, description="0 or more, in 64 bits")]


def _distinct(values: list[Any]) -> list[Any]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"values must differ; repeated: {', '.join(map(str, repeated))}")
    return values


def Axis(value: Any) -> Any:  # noqa: ANN401, N802 builds a type
    """Returns the type of a list of distinct values."""
    return Annotated[list[value], Field(min_length=1), AfterValidator(_distinct)]


class Section(BaseModel):
    """A part of the study file: unknown fields and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Backbone(Section):
    """The model that is fine-tuned and merged."""

    model: str = "tf_efficientnet_lite0"
    """A timm model name."""
    weights: str = "package"
    """`package` (weights that a Python package carries), `timm` (timm's hub), `none` (random), or
    the path of a .safetensors or .pth file."""
    image_size: Annotated[int, Field(ge=8, le=1024)] = 64
    """Height and width of the images, in pixels."""


class Tasks(Section):
    """The data sets and how much of them is used."""

    suite: Literal[tuple(SUITES)] | None = None  # type: ignore[valid-type]
    """A named list of tasks; with `names`, a choice from it."""
    names: Annotated[list[str], AfterValidator(_distinct)] | None = None
    """Tasks by name."""
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
        if self.suite is None and not self.names:
            raise ValueError("name a suite, or tasks under names")
        return self


class Optimizer(Section):
    """The optimizer and its constants."""

    name: OptimizerName = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's momentum, or Adam's first decay rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class Defaults(Section):
    """The point that one-factor axes vary around."""

    steps: Steps = 4000
    batch_size: BatchSize = 64
    lr: LearningRate = 0.001
    data_ratio: DataRatio = 1.0
    seed: Seed = 0


class Axes(Section):
    """The hyperparameters that the study varies, and their values."""

    lr: Axis(LearningRate) = None  # type: ignore[valid-type]
    batch_size: Axis(BatchSize) = None  # type: ignore[valid-type]
    steps: Axis(Steps) = None  # type: ignore[valid-type]
    data_ratio: Axis(DataRatio) = None  # type: ignore[valid-type]
    seed: Axis(Seed) = None  # type: ignore[valid-type]

    def varied(self) -> dict[str, list[Any]]:
        """Returns the axes that the study has, in the schema's order."""
        return {name: values for name, values in self if values is not None}


class Finetune(Section):
    """How experts are made."""

    optimizer: Optimizer = Optimizer()
    schedule: Schedule = "constant"
    """`cosine` decays to 0 over a trial's steps, so that step counts cannot share a run."""
    freeze_batch_norm: bool = True
    """Keeps BatchNorm's statistics at the base's while fine-tuning."""
    defaults: Defaults = Defaults()
    axes: Axes = Axes()
    design: Literal["one-factor", "grid", "random"] = "one-factor"
    """One axis at a time around the defaults; every combination; or heterogeneous experts, each
    drawing its own point from the axes."""
    draws: Annotated[int, Field(ge=1)] = 1
    """Settings of the random design: in each, every expert draws anew."""


class Groups(Section):
    """Which tasks are merged together."""

    count: Annotated[int, Field(ge=1)] = 15
    """Distinct groups per size; all there are where there are fewer."""
    size: Annotated[int, Field(ge=1)] = 2
    """Tasks in a group."""
    sizes: Axis(Annotated[int, Field(ge=1)]) = None  # type: ignore[valid-type]
    """The number-of-tasks axis, at the default point; groups are nested along it."""
    seed: Seed | None = None
    """Seeds the sampling; the study's seed when left out."""


class Surgery(Section):
    """Adapters on the merged model's features, one a task, trained towards the expert's own."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """Width of an adapter between its two maps. Default: the paper (Yang 2024)."""
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Steps of Adam for each task. Default: the authors' 500 rounds of two batches."""
    lr: LearningRate = 0.001
    batch_size: BatchSize = 16
    """Unlabelled test images a step."""


class Merge(BaseModel):
    """One merging method; its own parameters stand beside these fields."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    method: str
    label: Annotated[str, Field(pattern=r"^[^'\x00-\x1f]{1,100}$")] | None = None
    """Its name in tables and figures, without `'`, which MLflow cannot search for; made from method
    and parameters when left out."""
    batch_norm: BatchNormPolicy = "average"
    """What becomes of BatchNorm's running statistics."""
    recalibration_images: Annotated[int, Field(ge=1)] = 256
    """Unlabelled training images a task, for `batch_norm: recalibrate`."""
    surgery: Surgery | None = None
    """Representation surgery after the merge, `{}` with its defaults; none when left out."""

    @property
    def params(self) -> dict[str, Any]:
        """The method's own parameters, as written."""
        return dict(self.model_extra or {})


class Evaluation(Section):
    """What merged models are evaluated on, besides their own group."""

    held_out: bool = False
    """Evaluates every merge on the study's other tasks too; they never enter the means."""


class Share(Section):
    """What one worker process is given."""

    cpu: Annotated[float, Field(gt=0)] = 1
    gpu: Annotated[float, Field(ge=0)] = 0
    """A fraction lets several workers share one GPU."""


class Resources(Section):
    """What trials and merge jobs are given; never part of a result's identity."""

    trial: Share = Share()
    merge: Share = Share()


class Budget(Section):
    """What a study may use at most; never part of a result's identity.

    Counted are committed artifacts that the plan names, whoever made them: the seconds in their
    manifests times a worker's share, and the bytes of their files.
    """

    gpu_hours: Limit = None
    """Hours of workers times the share of a GPU that each is given."""
    cpu_hours: Limit = None
    """Hours of workers times the cores that each is given."""
    usd: Limit = None
    """At the prices below, of which the study needs one."""
    usd_per_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    usd_per_cpu_hour: Annotated[float, Field(ge=0)] | None = None
    """Of one core."""
    gigabytes: Limit = None
    """In the store, in 10^9 bytes: base, images and experts; checkpoints in flight come and go."""

    def limits(self) -> dict[str, float]:
        """Returns what is limited, by field."""
        fields = ("gpu_hours", "cpu_hours", "usd", "gigabytes")
        values = {name: getattr(self, name) for name in fields}
        return {name: value for name, value in values.items() if value is not None}


class Study(Section):
    """One study file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    """Names the study in the store and in MLflow: lower-case letters, digits, `.`, `_`, `-`."""
    seed: Seed = 0
    backbone: Backbone = Backbone()
    tasks: Tasks
    finetune: Finetune = Finetune()
    groups: Groups = Groups()
    merge: Annotated[list[Merge], Field(min_length=1)]
    evaluation: Evaluation = Evaluation()
    store: Annotated[str, Field(min_length=1)] = "./mergesweep-store"
    """A directory, or s3://bucket/prefix."""
    tracking: str | None = None
    """An MLflow server's address or database; an SQLite file beside the store when left out."""
    resources: Resources = Resources()
    budget: Budget = Budget()
    retries: Annotated[int, Field(ge=0)] = 2
    """Further tries of a trial or merge job that failed, per run; lost nodes do not count."""
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 30
    """The least time between two resumable checkpoints of a running trial, in seconds; longer
    where writing them would cost more than 2 % of it."""

    @property
    def task_names(self) -> tuple[str, ...]:
        """The study's tasks: its names, or all of its suite."""
        return tuple(self.tasks.names or SUITES[self.tasks.suite or ""])
