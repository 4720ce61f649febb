"""The study file's sections `backbone` (model, weights, pretraining) and `experts` (as files)."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from eval.suites import SUITES
from orchestrator.study.finetune import Optimizer
from orchestrator.study.section import (
    MAX_WHOLE,
    Axes,
    Axis,
    BatchSize,
    LearningRate,
    Section,
    Seed,
    Text,
    distinct,
)
from workers.specs.expert import HeadSource
from workers.specs.hyperparameters import Schedule

PretrainSteps = Annotated[int, Field(ge=0, le=MAX_WHOLE)]


def _suite_or_names(value: object) -> object:
    is_names = isinstance(value, list) and bool(value) and all(type(each) is str for each in value)
    if not isinstance(value, str) and not is_names:
        raise ValueError("expected the name of a suite or a list of task names")
    return distinct(value) if isinstance(value, list) else value


def _source_or_sources(value: object) -> object:
    is_mapping = isinstance(value, dict) and all(
        type(each) is str for pair in value.items() for each in pair
    )
    if not isinstance(value, str) and not is_mapping:
        raise ValueError("expected one source of weights, or a mapping of models to sources")
    return value


class Pretrain(Section):
    """Supervised training of the backbone on several tasks at once, before any fine-tuning."""

    tasks: Annotated[str | list[str], BeforeValidator(_suite_or_names)]
    """A suite or a list of tasks: the study's own or any others. `tasks.max_train` limits their
    images too."""
    steps: PretrainSteps
    """Optimizer steps. 0 leaves the weights as they are."""
    batch_size: BatchSize = 64
    """Images per step, of all tasks mixed."""
    lr: LearningRate = 0.001
    optimizer: Optimizer = Optimizer(name="adam")
    schedule: Schedule = "constant"
    seed: Seed = 0

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, sorted; empty for an unknown suite."""
        names = SUITES.get(self.tasks, ()) if isinstance(self.tasks, str) else self.tasks
        return tuple(sorted(names))


class BackboneAxes(Axes):
    """The properties of the base that the study varies, with their values."""

    model: Axis[str] = []
    """timm's names. Figures keep the order, so list the smallest model first."""
    weights: Axis[str] = []
    """Sources of weights, in the same forms as `backbone.weights`."""
    pretrain_steps: Axis[PretrainSteps] = []
    """Values for `pretrain.steps`. They are snapshots of one pretraining if its schedule is
    constant."""


class BackboneSection(Section):
    """The model that is fine-tuned and merged."""

    model: str = "tf_efficientnet_lite0"
    """A timm model name."""
    weights: Annotated[str | dict[str, str], BeforeValidator(_source_or_sources)] = "package"
    """`package` (weights that a Python package contains), `timm` (timm's hub), `none` (random), the
    path of a checkpoint file, or `s3://bucket/key.safetensors#sha256=<digest>`. A mapping gives
    each model its own source."""
    image_size: Annotated[int, Field(ge=8, le=1024)] = 64
    """Height and width of the images, in pixels."""
    pretrain: Pretrain | None = None
    """Training of these weights that makes the base; none when left out."""
    axes: BackboneAxes = BackboneAxes()
    """Settings whose experts start from different bases; tasks and groups are the same."""

    def weights_of(self, model: str) -> str:
        """Returns the source of a model's weights; empty if the study names none."""
        return self.weights if isinstance(self.weights, str) else self.weights.get(model, "")


class GivenExpert(Section):
    """An expert that the study does not train."""

    file: Text
    """The path of a file of weights, `s3://bucket/key.safetensors#sha256=<digest>`, or the folder
    of a LoRA adapter in peft's layout, whose product is added to the base."""
    head: HeadSource = "probe"
    """`probe`: the linear probe of the expert's features is fitted here. `file`: the classifier in
    the file, whose classes must have the task's order. With `finetune.zero_shot`, neither."""

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: object) -> object:
        """Reads `TASK: FILE`."""
        return {"file": value} if isinstance(value, str) else value
