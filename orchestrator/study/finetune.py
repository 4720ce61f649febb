"""The study file's section `finetune`: how experts are made, and what the study varies of it."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from eval.tasks import Task
from orchestrator.study.problems import shown, suggest
from orchestrator.study.section import (
    MAX_WHOLE,
    Axes,
    Axis,
    BatchSize,
    LearningRate,
    Section,
    Seed,
    Steps,
    matching,
)
from workers.specs.hyperparameters import (
    Augmentation,
    Averaging,
    HeadMode,
    Hyperparameters,
    OptimizerName,
    Schedule,
)

DataRatio = Annotated[float, Field(gt=0, le=1)]
WeightDecay = Annotated[float, Field(ge=0)]
SamRadius = Annotated[float, Field(ge=0)]
WarmupSteps = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
EmaDecay = Annotated[float, Field(ge=0, lt=1)]
SwaStart = Annotated[float, Field(ge=0, lt=1)]
LoraRank = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
LoraAlpha = Annotated[float, Field(gt=0)]
LoraTargets = Annotated[
    str,
    matching(
        r"\s*[\w.*-]+(\s*,\s*[\w.*-]+)*\s*",
        expected="auto, all, or names of layers separated by commas, such as `qkv, blocks.0.*`",
    ),
]


class Optimizer(Section):
    """The optimizer and its constants."""

    name: OptimizerName = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's momentum, or Adam's first decay rate."""
    nesterov: bool = False
    """Uses Nesterov momentum; for `sgd` only."""
    weight_decay: WeightDecay = 0.0
    sam_rho: SamRadius = 0.0
    """Radius of sharpness-aware minimization around the optimizer, in the 2-norm over all weights;
    0 for none. Foret 2021 uses 0.05. Doubles the time of a step."""


class Head(Section):
    """The section on the classifier of a task."""

    mode: HeadMode = "trained"
    """`trained`: from random weights, together with the backbone. `frozen`: the linear probe of the
    base's features, not trained further. `probe_first`: trained on from that probe (LP-FT, Kumar
    2022)."""
    l2: Annotated[float, Field(gt=0)] = 1.0
    """Penalty of the probe: the prior precision of its weights on features of norm 1."""

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: object) -> object:
        """Reads `head: MODE`."""
        return {"mode": value} if isinstance(value, str) else value


class AverageWeights(Section):
    """The mean over the steps' weights that an expert stores in place of the last weights."""

    mode: Averaging = "none"
    """`ema`: an exponential moving average that does not depend on the number of steps. `swa`: the
    plain mean of the last steps (Izmailov 2018); it starts at a fraction of the steps, so step
    counts cannot share a training."""
    ema_decay: EmaDecay = 0.999
    """For `ema`: factor by which each step reduces the weight of the steps before it."""
    swa_start: SwaStart = 0.75
    """For `swa`: fraction of the steps after which the mean begins. Default: the paper's."""

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: object) -> object:
        """Reads `average_weights: MODE`."""
        return {"mode": value} if isinstance(value, str) else value


class Lora(Section):
    """The section on LoRA: low-rank adapters that are trained in place of the weights."""

    rank: LoraRank = 0
    """Rank of the adapters; 0 trains the weights themselves."""
    alpha: LoraAlpha | None = None
    """An adapter's product counts alpha / rank times. Default: twice the rank."""
    targets: LoraTargets = "auto"
    """Layers with an adapter. `auto`: the matrices of attention; in models without attention linear
    layers and convolutions of 1 x 1, if these hold at least half of the weights, and otherwise as
    under `all`. `all`: every layer that can have one. Otherwise names, separated by commas: the
    whole name of a layer or its end after a dot, with `*` for any characters."""


class Defaults(Section):
    """Hyperparameters outside the axes. One-factor axes vary around them."""

    steps: Steps = 4000
    batch_size: BatchSize = 64
    lr: LearningRate = 0.001
    data_ratio: DataRatio = 1.0
    """Fraction of the training images."""
    seed: Seed = 0


class FinetuneAxes(Axes):
    """The hyperparameters that the study varies, with their values.

    The order of the fields is the order in which axes run.
    """

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
    lora_rank: Axis[LoraRank] = []
    lora_alpha: Axis[LoraAlpha] = []
    lora_targets: Axis[LoraTargets] = []


def point_of(value: object) -> dict[str, Any]:
    """Returns a point of the listed design, checked as the axes of its hyperparameters are.

    Raises:
        ValueError: It is no mapping, or a hyperparameter is unknown or has a wrong value.
    """
    if not isinstance(value, dict) or not value or not all(isinstance(n, str) for n in value):
        raise ValueError("expected a mapping of hyperparameters to values, such as `{lr: 0.001}`")
    try:
        axes = FinetuneAxes.model_validate({name: [each] for name, each in value.items()})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        known = FinetuneAxes.model_fields
        if name not in known:
            remedy = suggest(name, known=known, kind="hyperparameters")
            raise ValueError(f"{name}: unknown; {remedy}") from error
        raise ValueError(f"{name}: {shown(value[name])} is not allowed") from error
    return {name: values[0] for name, values in axes.varied().items()}


ListedPoint = Annotated[dict[str, Any], BeforeValidator(point_of)]


def _templates_or_by_task(value: object) -> object:
    lists: list[Any] = list(value.values()) if isinstance(value, dict) else [value]
    has_names = not isinstance(value, dict) or all(isinstance(name, str) for name in value)
    is_whole = has_names and bool(lists) and all(isinstance(each, list) and each for each in lists)
    if not is_whole or not all(_is_template(text) for each in lists for text in each):
        raise ValueError(
            "expected a list of texts, each with one {} for the class's name, or a mapping of "
            "tasks to such lists"
        )
    return value


def _is_template(text: object) -> bool:
    return isinstance(text, str) and text.count("{}") == 1


class ZeroShot(Section):
    """Classifiers that a CLIP model's text tower makes from the names of the classes."""

    model: str
    """open_clip's name of the CLIP model whose image tower is the backbone, such as `ViT-B-32`."""
    weights: str
    """One of open_clip's tags, such as `openai`, or the path of a checkpoint of the whole model."""
    templates: Annotated[
        list[str] | dict[str, list[str]] | None, BeforeValidator(_templates_or_by_task)
    ] = None
    """Texts with `{}` for the class's name, whose embeddings are averaged: one list, or one list
    per task. The tasks' own templates when left out."""

    def templates_of(self, task: Task) -> tuple[str, ...]:
        """Returns the templates of a task."""
        if self.templates is None:
            return task.templates
        found = self.templates
        return tuple(found if isinstance(found, list) else found.get(task.name, ()))


class Finetune(Section):
    """The section on fine-tuning: the defaults, the axes and their design."""

    optimizer: Optimizer = Optimizer()
    schedule: Schedule = "constant"
    """Learning rate after the warmup. `cosine` and `linear` fall to 0 over the steps of a training,
    so that step counts cannot share a training."""
    warmup_steps: WarmupSteps = 0
    """Steps over which the learning rate grows linearly to its peak, under every schedule."""
    freeze_batch_norm: bool = True
    """Keeps BatchNorm's running statistics at those of the base."""
    head: Head = Head()
    average_weights: AverageWeights = AverageWeights()
    augment: Augmentation = "none"
    """`flip`: random horizontal flips. `crop_flip`: also random crops of the image padded by an
    eighth of its size, by reflection."""
    linearised: bool = False
    """Fine-tunes, merges and evaluates the backbone's first-order expansion at the base
    (Ortiz-Jimenez 2023). A step takes two to three times as long."""
    lora: Lora = Lora()
    """Trains low-rank adapters in place of the backbone's weights (Hu 2021), with the package
    peft. Experts have dense weights, and their adapter beside them."""
    zero_shot: ZeroShot | None = None
    """Gives every expert a zero-shot head and trains the backbone alone. When left out, heads are
    made as `head` says."""
    defaults: Defaults = Defaults()
    axes: FinetuneAxes = FinetuneAxes()
    design: Literal["one-factor", "grid", "random", "listed"] = "one-factor"
    """`one-factor`: one axis at a time around the defaults. `grid`: every combination. `random`:
    every expert draws its own value on each axis, so that a group mixes different experts.
    `listed`: the settings are those of `points`."""
    points: Axis[ListedPoint] = []
    """The settings of the listed design, each with its own values in place of the defaults."""
    draws: Annotated[int, Field(ge=1)] = 1
    """Number of settings of the random design. The experts of each setting are drawn anew."""

    def varied(self) -> dict[str, list[Any]]:
        """Returns the hyperparameters that the study varies, with their values."""
        if self.design != "listed":
            return self.axes.varied()
        names = dict.fromkeys(name for point in self.points for name in point)
        return {name: [point[name] for point in self.points if name in point] for name in names}

    @property
    def default_point(self) -> Hyperparameters:
        """The hyperparameters outside the axes, collected from the parts of this section."""
        values = {
            **dict(self.defaults),
            **dict(self.optimizer),
            **dict(self.average_weights),
            **dict(self),
            "optimizer": self.optimizer.name,
            "head": self.head.mode,
            "average_weights": self.average_weights.mode,
            "lora_rank": self.lora.rank,
            "lora_alpha": self.lora.alpha or 0.0,
            "lora_targets": self.lora.targets,
        }
        return Hyperparameters(**{each.name: values[each.name] for each in fields(Hyperparameters)})
