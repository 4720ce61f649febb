"""Reads a study file and reports everything that is wrong with it at once."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from eval.suites import SUITES, task_names
from eval.task_source import TaskSource
from merge.catalogue import parse_params
from merge.errors import ParameterErrors
from orchestrator.study.check_backbone import check_backbone
from orchestrator.study.check_finetune import check_finetune
from orchestrator.study.check_groups import check_group_sizes
from orchestrator.study.check_zero_shot import check_zero_shot
from orchestrator.study.credentials import masked, remedy_for_credentials
from orchestrator.study.method_labels import method_labels
from orchestrator.study.problems import StudyError, StudyProblem, suggest
from orchestrator.study.resources import Budget, Resources, check_budget, check_quota
from orchestrator.study.schema import BackboneSection, Finetune, Groups, Merge, Study
from orchestrator.study.task_sources import check_own_tasks
from orchestrator.study.tasks import Tasks
from orchestrator.study.yaml_text import load_yaml
from workers.store.opening import check_store
from workers.store.protocol import StoreError

MAX_SHOWN_CHARS = 80
"""A wrong value is shown in messages up to this length."""


def read_study(path: Path, *, checks_store: bool = True) -> Study:
    """Reads and checks a study file; its store too, unless it is another machine that uses it.

    Raises:
        StudyError: The file cannot be read or something in it is wrong; every problem is listed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = StudyProblem(field="(file)", value=str(path), allowed=str(error))
        raise StudyError(path, problems=[problem]) from error
    return parse_study(text, source=str(path), checks_store=checks_store)


def parse_study(
    text: str,
    *,
    source: str,
    store: str | None = None,
    recorded: Mapping[str, TaskSource] | None = None,
    checks_store: bool = True,
) -> Study:
    """Checks the text of a study file, and that its store can be used.

    Args:
        text: The file's content.
        source: How errors name the file.
        store: Takes the place of the store that the file names.
        recorded: Own tasks as an earlier plan of it found them, whose files need not be here.
        checks_store: Writes to the store and deletes that again; who only reads must not.

    Raises:
        StudyError: Something is wrong; every problem is listed.
    """
    values = _parse_yaml(text, source=source)
    if store is not None:
        values["store"] = store
    problems: list[StudyProblem] = []
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        problems += [_from_pydantic(details) for details in error.errors()]
    problems += _check_meaning(values, recorded=recorded or {})
    problems += _check_costs(values)
    problems += _check_tracking(values.get("tracking"))
    if checks_store:
        problems += _check_store(values, is_last=not problems)
    if problems:
        raise StudyError(source, problems=problems)
    return study


def absolute_store(url: str) -> str:
    """Returns a store's URL with a local path made absolute."""
    return url if "://" in url else str(Path(url).expanduser().resolve())


def _check_store(values: Mapping[str, Any], *, is_last: bool) -> Iterator[StudyProblem]:
    """Tries the store; a directory, which the trial would create, only for a study that runs."""
    url = values.get("store", Study.model_fields["store"].default)
    if not isinstance(url, str) or not (is_last or url.startswith("s3:")):
        return
    try:
        check_store(absolute_store(url))
    except StoreError as error:
        yield StudyProblem(field="store", value=masked(repr(url)), allowed=masked(str(error)))


def _check_tracking(uri: object) -> Iterator[StudyProblem]:
    remedy = remedy_for_credentials(uri) if isinstance(uri, str) else None
    if remedy is not None:
        yield StudyProblem(
            field="tracking",
            value="an address with credentials, which the store and the report would show,",
            allowed=remedy,
        )


def _parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    try:
        values = load_yaml(text)
    except yaml.YAMLError as error:
        problem = StudyProblem(field="(file)", value="the text", allowed=f"not YAML: {error}")
        raise StudyError(source, problems=[problem]) from error
    if not isinstance(values, dict):
        problem = StudyProblem(
            field="(file)", value=type(values).__name__, allowed="a mapping of fields is expected"
        )
        raise StudyError(source, problems=[problem])
    return values


def _from_pydantic(details: ErrorDetails) -> StudyProblem:
    field = _field_path(details["loc"])
    kind, message = details["type"], details["msg"]
    if kind == "extra_forbidden":
        known = _fields_beside(details["loc"])
        return StudyProblem(
            field=field, value="this field", allowed=suggest(str(details["loc"][-1]), known=known)
        )
    if kind == "missing":
        return StudyProblem(field=field, value="leaving it out", allowed="the field is required")
    message = message.removeprefix("Value error, ")
    return StudyProblem(field=field, value=_shown(details["input"]), allowed=_lower(message))


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _shown(value: object) -> str:
    text = masked(repr(value))
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 3]}..."


def _field_path(location: Sequence[int | str]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _fields_beside(location: Sequence[int | str]) -> list[str]:
    """Returns the field names that the schema knows where an unknown one was found."""
    model: Any = Study
    for part in location[:-1]:
        if isinstance(part, str) and part in model.model_fields:  # else a name that a user gave
            model = _section_in(model.model_fields[part].annotation)
    return list(model.model_fields)


def _section_in(annotation: Any) -> Any:  # noqa: ANN401 a type
    """Returns the section that a field holds: itself, in a list, or nothing beside it."""
    members = [each for each in get_args(annotation) if hasattr(each, "model_fields")]
    return members[0] if members else annotation


def _check_meaning(
    values: Mapping[str, Any], *, recorded: Mapping[str, TaskSource]
) -> list[StudyProblem]:
    """Checks what lies between fields, on the sections that are well formed themselves."""
    problems: list[StudyProblem] = []
    tasks = _valid_section(Tasks, values.get("tasks"))
    groups = _valid_section(Groups, values.get("groups", {}))
    finetune = _valid_section(Finetune, values.get("finetune", {}))
    backbone = _valid_section(BackboneSection, values.get("backbone", {}))
    entries = values.get("merge")
    merges = {
        index: valid
        for index, entry in enumerate(entries if isinstance(entries, list) else [])
        if (valid := _valid_section(Merge, entry)) is not None
    }
    if tasks is not None:
        problems += _check_tasks(tasks)
        problems += check_own_tasks(tasks, recorded=recorded)
    if groups is not None:
        problems += check_group_sizes(groups, tasks=tasks, merges=merges)
    if finetune is not None:
        base_axes = backbone.axes.varied() if backbone is not None else {}
        problems += check_finetune(finetune, merges=merges, base_axes=base_axes)
        if finetune.zero_shot is not None:
            problems += check_zero_shot(
                finetune.zero_shot, finetune=finetune, backbone=backbone, tasks=tasks
            )
    if backbone is not None:
        problems += check_backbone(
            backbone, finetune=finetune, own=tasks.own if tasks is not None else {}
        )
    problems += _check_merges(merges)
    return problems


def _check_costs(values: Mapping[str, Any]) -> Iterator[StudyProblem]:
    budget = _valid_section(Budget, values.get("budget", {}))
    resources = _valid_section(Resources, values.get("resources", {}))
    if resources is not None:
        yield from check_quota(resources)
    if budget is not None and resources is not None:
        yield from check_budget(budget, resources=resources)


def _valid_section(section: Any, values: object) -> Any:  # noqa: ANN401 any section
    try:
        return TypeAdapter(section).validate_python(values)
    except ValidationError:
        return None


def _check_tasks(tasks: Tasks) -> Iterator[StudyProblem]:
    known = SUITES[tasks.suite] if tasks.suite else task_names()
    for index, name in enumerate(tasks.names or []):
        if name not in known:
            allowed = (
                "what stands under tasks.own is taken by itself; leave it out here"
                if name in tasks.own
                else suggest(name, known=known)
            )
            yield StudyProblem(field=f"tasks.names[{index}]", value=repr(name), allowed=allowed)


def _check_merges(merges: Mapping[int, Merge]) -> Iterator[StudyProblem]:
    labels = method_labels(list(merges.values()))
    seen_labels: set[str] = set()
    seen_merges: set[object] = set()
    for (index, method), label in zip(merges.items(), labels, strict=True):
        field = f"merge[{index}]"
        if label in seen_labels:
            yield StudyProblem(
                field=field, value=repr(label), allowed="another entry has this label"
            )
        seen_labels.add(label)
        try:
            params = parse_params(method.method, method.params)
        except ParameterErrors as error:
            for problem in error.problems:
                yield StudyProblem(
                    field=f"{field}.{problem.field}",
                    value=_shown(problem.value),
                    allowed=problem.allowed,
                )
            continue
        merge = (params, method.batch_norm, method.recalibration_images, method.surgery)
        if merge in seen_merges:
            yield StudyProblem(
                field=field, value=repr(label), allowed="another entry is the same merge"
            )
        seen_merges.add(merge)
