"""Checks the models of a study in another process: names, image size, batches, linearisation."""

import importlib.util
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.suites import find_task, task_names
from eval.task_source import TaskSource
from orchestrator.study.backbone import BackboneSection, GivenExpert
from orchestrator.study.checks.lora import fields_of_targets
from orchestrator.study.checks.points import points
from orchestrator.study.finetune import Finetune
from orchestrator.study.problems import StudyProblem
from orchestrator.study.schema import Study
from workers.check.ask import model_reports
from workers.check.report import (
    MAX_CHECKED_IMAGES,
    AdapterUse,
    FaultKind,
    FileUse,
    ModelReport,
    ModelUse,
    StepKind,
    TowerUse,
    Use,
    Weights,
)
from workers.models.lora.files import ADAPTER_FILE, adapter_folder
from workers.models.pretrained_weights import INSTALL_OPEN_CLIP, SUFFIXES, is_remote


@dataclass(frozen=True, kw_only=True)
class GivenFile:
    """A file with the weights of an expert."""

    field: str
    """The field of the study that names it."""
    source: str
    """The path or URL."""
    num_classes: int | None
    """Classes of the classifier that the file must have; None if it needs none."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a model of a study, for the process that tries models."""

    use: Use
    fields: Mapping[FaultKind, tuple[str, ...]]
    """The fields of the study to change, by the kind of the fault."""


def given_files(
    experts: Mapping[str, GivenExpert], *, own: Mapping[str, TaskSource]
) -> Iterator[GivenFile]:
    """Yields the files of experts whose tasks are known.

    Args:
        experts: The study's section.
        own: The study's own tasks, by name.
    """
    known = task_names()
    for task, expert in experts.items():
        if task in own:
            found = own[task].task
        elif task in known:
            found = find_task(task)
        else:
            continue  # the check of the names reports it
        yield GivenFile(
            field=f"experts.{task}.file",
            source=expert.file,
            num_classes=found.num_classes if expert.head == "file" else None,
        )


def check_models(
    backbone: BackboneSection, *, finetune: Finetune | None, experts: Sequence[GivenFile] = ()
) -> Iterator[StudyProblem]:
    """Yields the models that the study cannot use, as far as this machine can tell.

    Args:
        backbone: The section.
        finetune: The study's section; None if that is invalid.
        experts: The files of experts.
    """
    asked = [
        *questions(backbone, finetune=finetune or Finetune()),
        *_expert_questions(backbone, experts=experts),
    ]
    reports = model_reports(each.use for each in asked)
    for each in asked:
        for fault in reports.get(each.use, ModelReport()).faults:
            for field in each.fields[fault.kind]:
                yield StudyProblem(field=field, fault=fault.fault, remedy=fault.remedy)


def unchecked_models(study: Study) -> list[str]:
    """Returns a sentence for each part of a checked study that this machine could not try."""
    reasons = [each.unchecked for each in _all_reports(study) if each.unchecked]
    if study.finetune.zero_shot is not None and not _has_open_clip():
        reasons.append(
            "the zero-shot heads could not be checked: open_clip, which every node needs, is not "
            f"installed here ({INSTALL_OPEN_CLIP})"
        )
    return list(dict.fromkeys(reasons))


def model_remarks(study: Study) -> list[str]:
    """Returns sentences about the models of a checked study, and about the files for them."""
    return list(dict.fromkeys(remark for each in _all_reports(study) for remark in each.remarks))


def _all_reports(study: Study) -> Collection[ModelReport]:
    asked = questions(study.backbone, finetune=study.finetune)
    return model_reports(each.use for each in asked).values()


def resized_models(study: Study) -> frozenset[str]:
    """Returns the models of a checked study that must be built for its image size."""
    return frozenset(
        model for model, report in reports_by_model(study).items() if report.is_resized
    )


def reports_by_model(study: Study) -> dict[str, ModelReport]:
    """Returns the report on each model of a checked study, by timm's name.

    A model is missing if this machine cannot check it.
    """
    asked = _model_questions(study.backbone, finetune=study.finetune)
    reports = model_reports(each.use for each in asked)
    return {use.model: report for use, report in reports.items()}


def questions(backbone: BackboneSection, *, finetune: Finetune) -> list[Question]:
    """Returns all questions about the models of a study."""
    return [
        *_model_questions(backbone, finetune=finetune),
        *_file_questions(backbone, finetune=finetune),
        *_tower_questions(backbone, finetune=finetune),
        *_adapter_questions(backbone, finetune=finetune),
    ]


def _model_questions(backbone: BackboneSection, *, finetune: Finetune) -> Iterator[Question]:
    steps = _hardest(_steps(backbone, finetune=finetune))
    for model, field in _named(backbone).items():
        sources = dict(_sources(backbone, model=model, design=finetune.design))
        use = ModelUse(
            model=model,
            image_size=backbone.image_size,
            weights=tuple(sorted({_kind(source) for source in sources.values()})),
            steps=steps,
        )
        fields: dict[FaultKind, tuple[str, ...]] = {
            "name": (field,),
            "model": (field,),
            "image_size": ("backbone.image_size",),
            "resizing": ("backbone.image_size",),
            "batch_size": tuple(_fields_of_one_image(backbone, finetune=finetune)),
            "linearised": tuple(_fields_of_linearised(finetune)),
            "hub": tuple(field for field, source in sources.items() if source == "timm"),
        }
        yield Question(use=use, fields=fields)


def _file_questions(backbone: BackboneSection, *, finetune: Finetune) -> Iterator[Question]:
    """Yields a question for each checkpoint file and model; missing files are left out."""
    for model in _named(backbone):
        for field, source in _sources(backbone, model=model, design=finetune.design):
            use = _file_use(source, model=model, image_size=backbone.image_size)
            if use is not None:
                fields: dict[FaultKind, tuple[str, ...]] = {
                    "file": (field,),
                    "model": (field,),
                    "resizing": ("backbone.image_size",),
                }
                yield Question(use=use, fields=fields)


def _expert_questions(
    backbone: BackboneSection, *, experts: Iterable[GivenFile]
) -> Iterator[Question]:
    for each in experts:
        use = _file_use(each.source, model=backbone.model, image_size=backbone.image_size)
        if use is not None:
            fields: dict[FaultKind, tuple[str, ...]] = {
                "file": (each.field,),
                "model": (each.field,),
                "resizing": ("backbone.image_size",),
            }
            yield Question(use=replace(use, num_classes=each.num_classes), fields=fields)


def _tower_questions(backbone: BackboneSection, *, finetune: Finetune) -> Iterator[Question]:
    """Yields a question for each image tower under a zero-shot head."""
    zero_shot = finetune.zero_shot
    if zero_shot is None:
        return
    is_file = Path(zero_shot.weights).suffix in SUFFIXES
    for model, field in _named(backbone).items():
        use = TowerUse(
            model=model,
            tower=zero_shot.model,
            tag=None if is_file else zero_shot.weights,
            has_open_clip=_has_open_clip(),
        )
        fields: dict[FaultKind, tuple[str, ...]] = {
            "model": (field,),
            "tower": ("finetune.zero_shot.model",),
            "tower_weights": ("finetune.zero_shot.weights",),
        }
        yield Question(use=use, fields=fields)


def _adapter_questions(backbone: BackboneSection, *, finetune: Finetune) -> Iterator[Question]:
    """Yields a question for each model and each choice of layers with adapters."""
    for targets, fields_of in fields_of_targets(finetune).items():
        for model in _named(backbone):
            use = AdapterUse(model=model, image_size=backbone.image_size, targets=targets)
            yield Question(use=use, fields={"adapters": fields_of})


def _has_open_clip() -> bool:
    return importlib.util.find_spec("open_clip") is not None


def _named(backbone: BackboneSection) -> dict[str, str]:
    """Returns the models of a study with the first field that names each."""
    named = {backbone.model: "backbone.model"}
    for index, model in enumerate(backbone.axes.model):
        named.setdefault(model, f"backbone.axes.model[{index}]")
    return named


def _sources(backbone: BackboneSection, *, model: str, design: str) -> Iterator[tuple[str, str]]:
    """Yields the sources of a model's weights by the fields that name them."""
    if isinstance(backbone.weights, str):
        yield "backbone.weights", backbone.weights
    elif model in backbone.weights:
        yield f"backbone.weights.{model}", backbone.weights[model]
    if model == backbone.model or design == "grid":
        for index, source in enumerate(backbone.axes.weights):
            yield f"backbone.axes.weights[{index}]", source


def _kind(source: str) -> Weights:
    """Returns the kind of a source of weights."""
    kinds: dict[str, Weights] = {"none": "none", "timm": "timm", "package": "elsewhere"}
    return kinds.get(source, "elsewhere" if is_remote(source) else "file")


def _file_use(source: str, *, model: str, image_size: int) -> FileUse | None:
    """Returns the question whether a local file has a model's weights; None for other sources."""
    if _kind(source) != "file":
        return None
    path = Path(source).absolute()
    if (folder := adapter_folder(path)) is not None:
        path = folder / ADAPTER_FILE
    try:
        found = path.stat()
    except OSError:
        return None  # the check of the paths reports it
    return FileUse(
        model=model,
        image_size=image_size,
        path=str(path),
        num_bytes=found.st_size,
        modified_ns=found.st_mtime_ns,
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


def _fields_of_linearised(finetune: Finetune) -> Iterator[str]:
    if finetune.linearised:
        yield "finetune.linearised"
    if True in finetune.axes.linearised:
        yield f"finetune.axes.linearised[{finetune.axes.linearised.index(True)}]"
    if True in finetune.varied().get("linearised", []) and finetune.points:
        yield "finetune.points"


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
    if 1 in finetune.varied().get("batch_size", []) and finetune.points:
        yield "finetune.points"
