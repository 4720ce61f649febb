"""Checks that the zero-shot heads of a study can be made."""

from collections.abc import Iterator
from pathlib import Path

from eval.suites import SUITES, task_names
from orchestrator.study.problems import StudyProblem, suggest
from orchestrator.study.schema import BackboneSection, Finetune, ZeroShot
from orchestrator.study.tasks import Tasks
from workers.models.pretrained_weights import SUFFIXES


def check_zero_shot(
    zero_shot: ZeroShot,
    *,
    finetune: Finetune,
    backbone: BackboneSection | None,
    tasks: Tasks | None,
) -> Iterator[StudyProblem]:
    """Yields what is wrong between a well-formed section and the rest of the study.

    Args:
        zero_shot: The section.
        finetune: The section that it is in.
        backbone: The study's; None while it is wrong itself.
        tasks: The same.
    """
    if Path(zero_shot.weights).suffix in SUFFIXES and not Path(zero_shot.weights).is_file():
        yield StudyProblem(
            field="finetune.zero_shot.weights",
            value=repr(zero_shot.weights),
            allowed="one of open_clip's tags, or the path of an existing checkpoint file",
        )
    if finetune.head.mode != "trained" or finetune.axes.head:
        yield StudyProblem(
            field="finetune.zero_shot",
            value="a zero-shot head",
            allowed="it is neither fitted nor trained: leave out finetune.head and axes.head",
        )
    for model in () if backbone is None else (backbone.model, *backbone.axes.model):
        if "clip" not in model:
            yield StudyProblem(
                field="finetune.zero_shot",
                value=f"a zero-shot head on {model!r}",
                allowed="the backbone has to be an image tower of CLIP, such as "
                "vit_base_patch32_clip_quickgelu_224.openai",
            )
    if tasks is not None and isinstance(zero_shot.templates, dict):
        yield from _check_templates(zero_shot.templates, tasks=tasks)


def _check_templates(templates: dict[str, list[str]], *, tasks: Tasks) -> Iterator[StudyProblem]:
    for task in (*(tasks.names or SUITES[tasks.suite or ""]), *tasks.own):
        if task not in templates:
            yield StudyProblem(
                field="finetune.zero_shot.templates",
                value=f"no entry for {task!r}",
                allowed="a list for every task of the study, or one list for all",
            )
    for task in templates.keys() - {*task_names(), *tasks.own}:
        yield StudyProblem(
            field=f"finetune.zero_shot.templates.{task}",
            value="this task",
            allowed=suggest(task, known=task_names()),
        )
