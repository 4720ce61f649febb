"""Checks the models of a study in another process: names, image size, batches, linearisation."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.study.backbone import BackboneSection
from orchestrator.study.checks.finetune import points
from orchestrator.study.finetune import Finetune
from orchestrator.study.problems import StudyProblem
from orchestrator.study.schema import Study
from workers.check.ask import model_reports
from workers.check.report import (
    MAX_CHECKED_IMAGES,
    Fault,
    FileUse,
    ModelReport,
    ModelUse,
    StepKind,
    Weights,
)
from workers.models.pretrained_weights import is_remote

_KINDS: dict[str, Weights] = {"none": "none", "timm": "timm"}


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model that a study names."""

    field: str
    """The field that names it."""
    use: ModelUse
    sources: Mapping[str, str]
    """The sources of its weights, by the fields that name them."""

    @property
    def file_uses(self) -> dict[str, FileUse]:
        """The files among its sources, by the fields that name them; missing files left out."""
        found = {
            field: _file_use(source, model=self.use.model) for field, source in self.sources.items()
        }
        return {field: use for field, use in found.items() if use is not None}


def check_models(backbone: BackboneSection, *, finetune: Finetune | None) -> Iterator[StudyProblem]:
    """Yields the models that the study cannot use, as far as this machine can tell.

    Args:
        backbone: The section.
        finetune: The study's section; None if that is invalid.
    """
    finetune = finetune or Finetune()
    named = list(named_models(backbone, finetune=finetune))
    files = [use for each in named for use in each.file_uses.values()]
    reports = model_reports([*(each.use for each in named), *files])
    for each in named:
        for fault in reports.get(each.use, ModelReport()).faults:
            for field in _fields(fault, model=each, backbone=backbone, finetune=finetune):
                yield StudyProblem(field=field, fault=fault.fault, remedy=fault.remedy)
        for field, use in each.file_uses.items():
            for fault in reports.get(use, ModelReport()).faults:
                yield StudyProblem(field=field, fault=fault.fault, remedy=fault.remedy)


def reports_by_model(study: Study) -> dict[str, ModelReport]:
    """Returns the report on each model of a checked study, by timm's name.

    A model is missing if this machine cannot check it.
    """
    named = list(named_models(study.backbone, finetune=study.finetune))
    reports = model_reports(each.use for each in named)
    return {each.use.model: reports[each.use] for each in named if each.use in reports}


def unchecked_models(study: Study) -> list[str]:
    """Returns a sentence for each model of a checked study that this machine could not try."""
    return [each.unchecked for each in reports_by_model(study).values() if each.unchecked]


def resized_models(study: Study) -> frozenset[str]:
    """Returns the models of a checked study that must be built for its image size."""
    return frozenset(
        model for model, report in reports_by_model(study).items() if report.is_resized
    )


def named_models(backbone: BackboneSection, *, finetune: Finetune) -> Iterator[NamedModel]:
    """Yields every model that a study names, with its use."""
    steps = _hardest(_steps(backbone, finetune=finetune))
    named = {backbone.model: "backbone.model"}
    for index, model in enumerate(backbone.axes.model):
        named.setdefault(model, f"backbone.axes.model[{index}]")
    for model, field in named.items():
        sources = dict(_sources(backbone, model=model, design=finetune.design))
        use = ModelUse(
            model=model,
            image_size=backbone.image_size,
            weights=tuple(sorted({_KINDS.get(source, "file") for source in sources.values()})),
            steps=steps,
        )
        yield NamedModel(field=field, use=use, sources=sources)


def _sources(backbone: BackboneSection, *, model: str, design: str) -> Iterator[tuple[str, str]]:
    """Yields the sources of a model's weights by the fields that name them."""
    if isinstance(backbone.weights, str):
        yield "backbone.weights", backbone.weights
    elif model in backbone.weights:
        yield f"backbone.weights.{model}", backbone.weights[model]
    if model == backbone.model or design == "grid":
        for index, source in enumerate(backbone.axes.weights):
            yield f"backbone.axes.weights[{index}]", source


def _file_use(source: str, *, model: str) -> FileUse | None:
    """Returns the question whether a local file has a model's weights; None for other sources."""
    if source in _KINDS or source == "package" or is_remote(source):
        return None
    path = Path(source).absolute()
    try:
        found = path.stat()
    except OSError:
        return None  # the check of the paths reports it
    return FileUse(
        model=model, path=str(path), num_bytes=found.st_size, modified_ns=found.st_mtime_ns
    )


def _steps(backbone: BackboneSection, *, finetune: Finetune) -> Iterator[StepKind]:
    for point in points(finetune, "batch_size", "linearised"):
        yield StepKind(
            batch_size=min(point["batch_size"], MAX_CHECKED_IMAGES),
            trains_batch_norm=not finetune.freeze_batch_norm,
            linearised=point["linearised"],
        )
    if backbone.pretrain is not None:
        yield StepKind(
            batch_size=min(backbone.pretrain.batch_size, MAX_CHECKED_IMAGES),
            trains_batch_norm=True,
            linearised=False,
        )


def _hardest(steps: Iterable[StepKind]) -> tuple[StepKind, ...]:
    """Returns the smallest batch of each kind of step: a model that takes it takes larger ones."""
    hardest: dict[tuple[bool, bool], StepKind] = {}
    for step in sorted(steps):
        hardest.setdefault((step.trains_batch_norm, step.linearised), step)
    return tuple(hardest.values())


def _fields(
    fault: Fault, *, model: NamedModel, backbone: BackboneSection, finetune: Finetune
) -> Iterator[str]:
    """Yields the fields of the study that a fault asks to change."""
    match fault.kind:
        case "image_size" | "resizing":
            yield "backbone.image_size"
        case "batch_size":
            yield from _fields_of_one_image(backbone, finetune=finetune)
        case "linearised":
            if finetune.linearised:
                yield "finetune.linearised"
            if True in finetune.axes.linearised:
                yield f"finetune.axes.linearised[{finetune.axes.linearised.index(True)}]"
        case "hub":
            yield from (field for field, source in model.sources.items() if source == "timm")
        case "name" | "model" | "file":
            yield model.field


def _fields_of_one_image(backbone: BackboneSection, *, finetune: Finetune) -> Iterator[str]:
    """Yields the fields of batches of one image that BatchNorm normalizes by themselves."""
    pretrain = backbone.pretrain
    if pretrain is not None and pretrain.batch_size == 1:
        yield "backbone.pretrain.batch_size"
    if finetune.freeze_batch_norm:
        return
    if finetune.defaults.batch_size == 1:
        yield "finetune.defaults.batch_size"
    if 1 in finetune.axes.batch_size:
        yield f"finetune.axes.batch_size[{finetune.axes.batch_size.index(1)}]"
