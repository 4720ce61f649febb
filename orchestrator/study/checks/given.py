"""Checks experts that are given as files: one for each task, and nothing that trains."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from eval.user_paths import is_file
from orchestrator.study.backbone import BackboneSection, GivenExpert
from orchestrator.study.checks.backbone import check_remote
from orchestrator.study.finetune import Finetune
from orchestrator.study.problems import StudyProblem, suggest, wrong_value
from orchestrator.study.tasks import Tasks
from workers.models.lora.files import ADAPTER_FILE, CONFIG_FILE, adapter_folder
from workers.models.pretrained_weights import is_remote

_ON_HEADS = ("head", "zero_shot")
"""Fields of `finetune` that say how heads are made."""


def check_given(
    experts: Mapping[str, GivenExpert],
    *,
    tasks: Tasks | None,
    finetune: Finetune | None,
    backbone: BackboneSection | None,
    is_trained: bool,
) -> Iterator[StudyProblem]:
    """Yields tasks without a file, files that do not exist, and fields without effect.

    Args:
        experts: The section; nothing is checked if it is empty.
        tasks: The study's section; None if that is invalid.
        finetune: The study's section; None if that is invalid.
        backbone: The study's section; None if that is invalid.
        is_trained: Whether the study has a search or multi-task models.
    """
    if not experts:
        return
    if tasks is not None:
        yield from _check_names(experts, tasks=tasks)
    for task, expert in experts.items():
        yield from _check_file(f"experts.{task}.file", source=expert.file)
        if expert.head == "file" and adapter_folder(Path(expert.file)) is not None:
            remedy = "an adapter has no classifier; leave this field out"
            yield wrong_value(f"experts.{task}.head", expert.head, remedy=remedy)
    if finetune is not None:
        yield from _check_finetune(finetune, experts=experts)
    if is_trained:
        yield StudyProblem(
            field="experts",
            fault="a search and multi-task models train as experts do, and nothing is trained here",
            remedy="leave out `search` and `baselines.multi_task`, or this section",
        )
    written = set() if backbone is None else backbone.model_fields_set
    for name in ("axes", "pretrain"):
        if name in written:
            yield _without_effect(
                f"backbone.{name}", remedy="the experts of files have one base; leave it out"
            )


def _check_names(experts: Mapping[str, GivenExpert], *, tasks: Tasks) -> Iterator[StudyProblem]:
    lacking = [task for task in tasks.all_names if task not in experts]
    if lacking:
        yield StudyProblem(
            field="experts",
            fault=f"no file for {', '.join(lacking)}",
            remedy="give every task of the study a file, or list the others under tasks.names",
        )
    for name in experts.keys() - set(tasks.all_names):
        remedy = suggest(name, known=tasks.all_names, kind="tasks of the study")
        yield StudyProblem(field=f"experts.{name}", fault="unknown task", remedy=remedy)


def _check_file(field: str, *, source: str) -> Iterator[StudyProblem]:
    if is_remote(source):
        yield from check_remote(field, weights=source)
    elif not is_file(source) and adapter_folder(Path(source)) is None:
        remedy = (
            "expected the path of an existing file, s3://bucket/key#sha256=<digest>, or a folder "
            f"with {CONFIG_FILE} and {ADAPTER_FILE}"
        )
        yield wrong_value(field, source, remedy=remedy)


def _check_finetune(
    finetune: Finetune, *, experts: Mapping[str, GivenExpert]
) -> Iterator[StudyProblem]:
    for name in finetune.model_fields_set - set(_ON_HEADS):
        yield _without_effect(
            f"finetune.{name}",
            remedy="the experts are given as files, so that nothing is trained; leave it out",
        )
    if "mode" in finetune.head.model_fields_set and finetune.head.mode != "frozen":
        remedy = "heads of given experts are probes; expected frozen"
        yield wrong_value("finetune.head.mode", finetune.head.mode, remedy=remedy)
    if finetune.zero_shot is not None:
        for task, expert in experts.items():
            if "head" in expert.model_fields_set:
                remedy = "finetune.zero_shot makes the heads; leave this field out"
                yield wrong_value(f"experts.{task}.head", expert.head, remedy=remedy)


def _without_effect(field: str, *, remedy: str) -> StudyProblem:
    return StudyProblem(field=field, fault="this field would have no effect", remedy=remedy)
