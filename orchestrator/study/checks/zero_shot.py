"""Checks that the zero-shot heads of a study can be made."""

from collections.abc import Iterator
from pathlib import Path

from eval.suites import SUITES, task_names
from eval.user_paths import is_file
from orchestrator.study.backbone import BackboneSection
from orchestrator.study.finetune import Finetune, ZeroShot
from orchestrator.study.problems import StudyProblem, suggest, wrong_value
from orchestrator.study.tasks import Tasks
from workers.models.pretrained_weights import SUFFIXES


def check_zero_shot(
    zero_shot: ZeroShot,
    *,
    finetune: Finetune,
    backbone: BackboneSection | None,
    tasks: Tasks | None,
) -> Iterator[StudyProblem]:
    """Yields the problems between a section that is valid by itself and the rest of the study.

    Args:
        zero_shot: The section.
        finetune: The section that contains it.
        backbone: The study's section; None if that is invalid.
        tasks: The study's section; None if that is invalid.
    """
    if Path(zero_shot.weights).suffix in SUFFIXES and not is_file(zero_shot.weights):
        yield wrong_value(
            "finetune.zero_shot.weights",
            zero_shot.weights,
            remedy="expected one of open_clip's tags, or the path of an existing checkpoint file",
        )
    if finetune.head.mode != "trained" or "head" in finetune.varied():
        yield StudyProblem(
            field="finetune.zero_shot",
            fault="a zero-shot head is neither probed nor trained",
            remedy="leave out finetune.head and finetune.axes.head, or this section",
        )
    for model in () if backbone is None else (backbone.model, *backbone.axes.model):
        if "clip" not in model:
            yield StudyProblem(
                field="finetune.zero_shot",
                fault=f"the backbone {model!r} is not the image tower of a CLIP model",
                remedy="use one as backbone.model, such as "
                "vit_base_patch32_clip_quickgelu_224.openai",
            )
    if tasks is not None and isinstance(zero_shot.templates, dict):
        yield from _check_templates(zero_shot.templates, tasks=tasks)


def _check_templates(templates: dict[str, list[str]], *, tasks: Tasks) -> Iterator[StudyProblem]:
    field = "finetune.zero_shot.templates"
    for task in (*(tasks.names or SUITES[tasks.suite or ""]), *tasks.own):
        if task not in templates:
            yield StudyProblem(
                field=field,
                fault=f"no templates for the task {task!r}",
                remedy="give every task of the study a list, or give one list for all tasks",
            )
    known = (*task_names(), *tasks.own)
    for task in templates.keys() - set(known):
        remedy = suggest(task, known=known, kind="tasks")
        yield StudyProblem(field=f"{field}.{task}", fault="unknown task", remedy=remedy)
