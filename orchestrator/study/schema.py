"""The study file: its schema, field by field.

With the sections that it takes from beside it, it is the only place where input from outside is
parsed; behind it everything is frozen and checked. `orchestrator.study.reader` reads a file and
collects what is wrong with it.
"""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from eval.suites import SUITES
from eval.tasks import Task
from merge.catalogue import BatchNormPolicy
from orchestrator.study.resources import Budget, Resources
from orchestrator.study.section import Axis, Section, distinct
from orchestrator.study.tasks import Tasks
from workers.specs.hyperparameters import (
    Augmentation,
    Averaging,
    HeadMode,
    Hyperparameters,
    OptimizerName,
    Schedule,
)

Steps = Annotated[int, Field(ge=1, description="optimizer steps, 1 or more")]
BatchSize = Annotated[int, Field(ge=1, description="images per step, 1 or more")]
LearningRate = Annotated[float, Field(gt=0, lt=100, description="above 0 and below 100")]
DataRatio = Annotated[float, Field(gt=0, le=1, description="above 0, at most 1")]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="0 or more, in 64 bits")]
WeightDecay = Annotated[float, Field(ge=0)]
SamRadius = Annotated[float, Field(ge=0)]
WarmupSteps = Annotated[int, Field(ge=0)]
EmaDecay = Annotated[float, Field(ge=0, lt=1)]
SwaStart = Annotated[float, Field(ge=0, lt=1)]


def _suite_or_names(value: object) -> object:
    is_names = isinstance(value, list) and bool(value) and all(type(each) is str for each in value)
    if not isinstance(value, str) and not is_names:
        raise ValueError("a suite or a list of tasks is expected")
    return distinct(value) if isinstance(value, list) else value


def _source_or_sources(value: object) -> object:
    is_mapping = isinstance(value, dict) and all(
        type(each) is str for pair in value.items() for each in pair
    )
    if not isinstance(value, str) and not is_mapping:
        raise ValueError("a source of weights is expected, or a mapping of models to sources")
    return value


def _templates_or_by_task(value: object) -> object:
    lists: list[Any] = list(value.values()) if isinstance(value, dict) else [value]
    is_whole = all(isinstance(each, list) and each for each in lists) and bool(lists)
    if not is_whole or not all(_is_template(text) for each in lists for text in each):
        raise ValueError(
            "a list of texts is expected, each with one {} for the class's name, or a mapping of "
            "tasks to such lists"
        )
    return value


def _is_template(text: object) -> bool:
    return isinstance(text, str) and text.count("{}") == 1


class Optimizer(Section):
    """The optimizer and its constants."""

    name: OptimizerName = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's momentum, or Adam's first decay rate."""
    nesterov: bool = False
    """Lets SGD look ahead along its momentum."""
    weight_decay: WeightDecay = 0.0
    sam_rho: SamRadius = 0.0
    """Radius of sharpness-aware minimization around the optimizer, in the weights' 2-norm; 0 for
    none. The paper (Foret 2021) takes 0.05. Doubles the time of a step."""


class Head(Section):
    """How a task's classifier comes to be."""

    mode: HeadMode = "trained"
    """`trained`: fresh weights, trained with the backbone. `frozen`: the linear probe of the base's
    features, and left so. `probe_first`: trained on from that probe (LP-FT, Kumar 2022)."""
    l2: Annotated[float, Field(gt=0)] = 1.0
    """The probe's penalty, a prior precision of its weights on features of norm 1."""

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: object) -> object:
        """Reads `head: MODE`."""
        return {"mode": value} if isinstance(value, str) else value


class AverageWeights(Section):
    """Which mean over the steps' weights an expert stores in place of the last ones."""

    mode: Averaging = "none"
    """`ema`: each step counts `ema_decay` times the one after it, whatever the number of steps.
    `swa`: the plain mean of the last steps (Izmailov 2018), so that step counts share no run."""
    ema_decay: EmaDecay = 0.999
    swa_start: SwaStart = 0.75
    """Fraction of the steps after which the plain mean begins. Default: the paper."""

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: object) -> object:
        """Reads `average_weights: MODE`."""
        return {"mode": value} if isinstance(value, str) else value


class Pretrain(Section):
    """Supervised training of the backbone on several tasks at once, before any fine-tuning."""

    tasks: Annotated[str | list[str], BeforeValidator(_suite_or_names)]
    """A suite or a list of tasks, the study's own or others; as much of each as of the study's."""
    steps: Annotated[int, Field(ge=0, description="optimizer steps, 0 or more")]
    """0 leaves the weights as they are."""
    batch_size: BatchSize = 64
    """Images of all tasks, mixed."""
    lr: LearningRate = 0.001
    optimizer: Optimizer = Optimizer(name="adam")
    schedule: Schedule = "constant"
    seed: Seed = 0

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks by name, ascending; a suite that does not exist has none."""
        names = SUITES.get(self.tasks, ()) if isinstance(self.tasks, str) else self.tasks
        return tuple(sorted(names))


class BaseAxes(Section):
    """What the study varies of the base, and the values."""

    model: Axis[str] = []
    """timm's names, the smallest first: figures keep the order."""
    weights: Axis[str] = []
    pretrain_steps: Axis[Annotated[int, Field(ge=0)]] = []
    """Instead of `pretrain.steps`; snapshots of one run unless the schedule is a cosine."""

    def varied(self) -> dict[str, list[Any]]:
        """Returns the axes that the study has, in the schema's order."""
        return {name: values for name, values in self if values}


class BackboneSection(Section):
    """The model that is fine-tuned and merged."""

    model: str = "tf_efficientnet_lite0"
    """A timm model name."""
    weights: Annotated[str | dict[str, str], BeforeValidator(_source_or_sources)] = "package"
    """`package` (weights that a Python package carries), `timm` (timm's hub), `none` (random), the
    path of a .safetensors or .pth file, `s3://bucket/key.safetensors#sha256=<its digest>`; or one
    of these for each model."""
    image_size: Annotated[int, Field(ge=8, le=1024)] = 64
    """Height and width of the images, in pixels."""
    pretrain: Pretrain | None = None
    """Training of these weights that makes the base; none when left out."""
    axes: BaseAxes = BaseAxes()
    """Settings whose experts start from another base; groups and tasks are the same."""

    def weights_of(self, model: str) -> str:
        """Returns where a model's weights come from; empty if the study does not say."""
        return self.weights if isinstance(self.weights, str) else self.weights.get(model, "")


class Defaults(Section):
    """The point that one-factor axes vary around."""

    steps: Steps = 4000
    batch_size: BatchSize = 64
    lr: LearningRate = 0.001
    data_ratio: DataRatio = 1.0
    seed: Seed = 0


class Axes(Section):
    """The hyperparameters that the study varies, and their values."""

    lr: Axis[LearningRate] = []
    batch_size: Axis[BatchSize] = []
    steps: Axis[Steps] = []
    data_ratio: Axis[DataRatio] = []
    seed: Axis[Seed] = []
    optimizer: Axis[OptimizerName] = []
    weight_decay: Axis[WeightDecay] = []
    sam_rho: Axis[SamRadius] = []
    schedule: Axis[Schedule] = []
    warmup_steps: Axis[WarmupSteps] = []
    head: Axis[HeadMode] = []
    average_weights: Axis[Averaging] = []
    ema_decay: Axis[EmaDecay] = []
    swa_start: Axis[SwaStart] = []
    augment: Axis[Augmentation] = []
    linearised: Axis[bool] = []

    def varied(self) -> dict[str, list[Any]]:
        """Returns the axes that the study has, in the schema's order."""
        return {name: values for name, values in self if values}


class ZeroShot(Section):
    """Classifiers made of the classes' names by a CLIP model's text tower, and never trained."""

    model: str
    """open_clip's name of the model that the backbone is the image tower of, such as `ViT-B-32`."""
    weights: str
    """One of open_clip's tags, such as `openai`, or the path of a checkpoint of the whole model."""
    templates: Annotated[
        list[str] | dict[str, list[str]] | None, BeforeValidator(_templates_or_by_task)
    ] = None
    """Texts with `{}` for the class's name, whose embeddings are averaged; one list, or one for
    each task. The tasks' own when left out."""

    def templates_of(self, task: Task) -> tuple[str, ...]:
        """Returns a task's templates."""
        if self.templates is None:
            return task.templates
        found = self.templates
        return tuple(found if isinstance(found, list) else found.get(task.name, ()))


class Finetune(Section):
    """How experts are made."""

    optimizer: Optimizer = Optimizer()
    schedule: Schedule = "constant"
    """`cosine` and `linear` fall to 0 over a trial's steps: step counts cannot share a run then."""
    warmup_steps: WarmupSteps = 0
    """Steps over which the learning rate grows linearly to its peak, under every schedule."""
    freeze_batch_norm: bool = True
    """Keeps BatchNorm's statistics at the base's while fine-tuning."""
    head: Head = Head()
    average_weights: AverageWeights = AverageWeights()
    augment: Augmentation = "none"
    """`flip`: random horizontal flips. `crop_flip`: also random crops, the image padded by
    reflection by an eighth of its size."""
    linearised: bool = False
    """Fine-tunes and merges the backbone's first-order expansion at the base (Ortiz-Jimenez 2023);
    experts and merges are evaluated as such. A step takes two to three times as long."""
    zero_shot: ZeroShot | None = None
    """Gives every expert a zero-shot head and trains the backbone alone; heads are drawn and
    trained when left out."""
    defaults: Defaults = Defaults()
    axes: Axes = Axes()
    design: Literal["one-factor", "grid", "random"] = "one-factor"
    """One axis at a time around the defaults; every combination; or heterogeneous experts, each
    drawing its own point from the axes."""
    draws: Annotated[int, Field(ge=1)] = 1
    """Settings of the random design: in each, every expert draws anew."""

    @property
    def default_point(self) -> Hyperparameters:
        """The hyperparameters outside the axes: what this section says, in whichever part."""
        values = {
            **dict(self.defaults),
            **dict(self.optimizer),
            **dict(self.average_weights),
            **dict(self),
            "optimizer": self.optimizer.name,
            "head": self.head.mode,
            "average_weights": self.average_weights.mode,
        }
        return Hyperparameters(**{each.name: values[each.name] for each in fields(Hyperparameters)})


class Groups(Section):
    """Which tasks are merged together."""

    count: Annotated[int, Field(ge=1)] = 15
    """Distinct groups per size; all there are where there are fewer."""
    size: Annotated[int, Field(ge=1)] = 2
    """Tasks in a group."""
    sizes: Axis[Annotated[int, Field(ge=1)]] = []
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


class Study(Section):
    """One study file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    """Names the study in the store and in MLflow: lower-case letters, digits, `.`, `_`, `-`."""
    seed: Seed = 0
    backbone: BackboneSection = BackboneSection()
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
        """The study's tasks: its names, or all of its suite, and its own."""
        return self.tasks.all_names
