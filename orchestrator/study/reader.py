"""Reads a study file and reports all of its problems at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from eval.suites import SUITES, task_names
from eval.task_source import TaskSource
from orchestrator.study.backbone import BackboneSection, GivenExpert
from orchestrator.study.checks.backbone import check_backbone
from orchestrator.study.checks.finetune import check_finetune
from orchestrator.study.checks.given import check_given
from orchestrator.study.checks.groups import check_group_sizes
from orchestrator.study.checks.merges import check_merges
from orchestrator.study.checks.models import check_models, given_files
from orchestrator.study.checks.multi_task import check_multi_task
from orchestrator.study.checks.pools import check_pools
from orchestrator.study.checks.search import check_search
from orchestrator.study.checks.tracking import check_tracking
from orchestrator.study.checks.tuning import check_steps, check_tuning
from orchestrator.study.checks.zero_shot import check_zero_shot
from orchestrator.study.credentials import masked, remedy_for_credentials
from orchestrator.study.finetune import Finetune
from orchestrator.study.own_methods import OwnMethods, find_methods
from orchestrator.study.problems import StudyError, StudyProblem, as_written, shown, wrong_value
from orchestrator.study.pydantic_errors import problem_of
from orchestrator.study.resources import Budget, Resources, check_budget, check_quota
from orchestrator.study.schema import Baselines, Evaluation, Groups, Merge, Study
from orchestrator.study.search import Search
from orchestrator.study.task_sources import own_sources
from orchestrator.study.tasks import Tasks, unknown_name
from orchestrator.study.yaml_text import load_yaml, yaml_fault
from workers.specs.own_method import OwnMethodSpec
from workers.store.opening import check_store, local_path
from workers.store.protocol import StoreError, StoreUrlError

MAX_STUDY_BYTES = 2**20
_FILE = "(file)"
"""The field of problems that concern the whole file."""
_KINDS = {"NoneType": "nothing", "list": "a list", "str": "only text"}
"""YAML values other than mappings, by Python type, in words."""


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """A study file that was read and checked."""

    study: Study
    text: str
    """The content of the file."""
    own_sources: Mapping[str, TaskSource]
    """The study's own tasks by name, as their files are now."""


def read_study(path: Path, *, checks_store: bool = True, is_read_only: bool = False) -> StudyFile:
    """Reads and checks a study file.

    The file is read once, so it may be a pipe, or change while the study runs.

    Args:
        path: The file.
        checks_store: Whether to try the store. Another machine may be the only one that can use it.
        is_read_only: Try the store without writing to it.

    Raises:
        StudyError: The file cannot be read or has problems; the error lists every problem.
    """
    text = text_of(path)
    study, own = _checked(
        parse_yaml(text, source=str(path)),
        source=str(path),
        recorded={},
        methods={},
        checks_store=checks_store,
        is_read_only=is_read_only,
        is_new=True,
    )
    return StudyFile(study=study, text=text, own_sources=own)


def parse_study(
    text: str,
    *,
    source: str,
    store: str | None = None,
    recorded: Mapping[str, TaskSource] | None = None,
    methods: Mapping[str, OwnMethodSpec] | None = None,
    checks_store: bool = True,
    is_read_only: bool = False,
    is_new: bool = False,
) -> Study:
    """Checks the text of a study file, and that its store can be used.

    Args:
        text: The content of the file.
        source: The file's name in errors.
        store: Replaces the store that the file names.
        recorded: Own tasks as an earlier plan recorded them; their files are not read.
        methods: Users' methods as an earlier plan recorded them, by name; the same holds for them.
        checks_store: Whether to try the store.
        is_read_only: Try the store by listing it; otherwise also by writing and deleting an object.
        is_new: Whether to try the models, in another process, and to check the address of MLflow. A
            study that a store already has was tried when it was first run.

    Raises:
        StudyError: The study has problems; the error lists every problem.
    """
    values = parse_yaml(text, source=source)
    if store is not None:
        values["store"] = store
    study, _ = _checked(
        values,
        source=source,
        recorded=recorded or {},
        methods=methods or {},
        checks_store=checks_store,
        is_read_only=is_read_only,
        is_new=is_new,
    )
    return study


def _checked(
    values: Mapping[str, Any],
    *,
    source: str,
    recorded: Mapping[str, TaskSource],
    methods: Mapping[str, OwnMethodSpec],
    checks_store: bool,
    is_read_only: bool,
    is_new: bool,
) -> tuple[Study, Mapping[str, TaskSource]]:
    """Returns a checked study and its own tasks; the arguments are those of `parse_study`."""
    own: Mapping[str, TaskSource] = {}
    found = find_methods(values.get("merge"), recorded=methods)
    problems: list[StudyProblem] = [*found.problems]
    try:
        study = found.given_to(Study.model_validate(values))
    except ValidationError as error:
        problems += [problem_of(details) for details in error.errors()]
    tasks = _valid_section(Tasks, values.get("tasks"))
    if tasks is not None:
        own, faults = own_sources(tasks, recorded=recorded)
        problems += [*_check_task_names(tasks), *faults]
    problems += _check_between_sections(values, tasks=tasks, methods=found)
    if is_new:
        problems += _check_models(values, own=own)
        problems += _check_address(values.get("tracking"))
    problems += _check_costs(values)
    problems += _check_tracking(values.get("tracking"))
    if checks_store:
        problems += _check_store(values, writes=not is_read_only, is_last=not problems)
    if problems:
        problems = [replace(each, field=as_written(each.field, values)) for each in problems]
        raise StudyError(source, problems=problems)
    return study, own


def absolute_store(url: str) -> str:
    """Returns a store's URL with a local path made absolute.

    Raises:
        StoreUrlError: The path cannot be one (`local_path`), leads in a circle, or is relative to a
            folder that was deleted.
    """
    if "://" in url:
        return url
    try:
        return str(local_path(url).resolve())
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StoreUrlError(
            f"store {url!r} cannot be found from the current folder: {reason}; give its full path"
        ) from error


def text_of(path: Path) -> str:
    """Returns the text of a study file; one that cannot be read raises `StudyError`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_STUDY_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise _file_error(path, fault="it cannot be read", remedy=reason) from error
    if len(content) > MAX_STUDY_BYTES:
        remedy = f"a study file has at most {MAX_STUDY_BYTES:,} bytes"
        raise _file_error(path, fault="it is too large", remedy=remedy)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        remedy = f"line {line} has the byte {content[error.start]:#04x}; save the file as UTF-8"
        raise _file_error(path, fault="it is not UTF-8 text", remedy=remedy) from error


def _file_error(source: str | Path, *, fault: str, remedy: str) -> StudyError:
    """Returns the error of a file that has no fields to name."""
    return StudyError(source, problems=[StudyProblem(field=_FILE, fault=fault, remedy=remedy)])


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """Returns the fields of a YAML file; a file that has none raises `StudyError`."""
    try:
        values = load_yaml(text)
    except yaml.YAMLError as error:
        raise _file_error(
            source, fault="it cannot be parsed as YAML", remedy=yaml_fault(error)
        ) from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise _file_error(
            source,
            fault=f"it contains {_KINDS.get(kind, f'a value of type {kind}')}",
            remedy="expected a mapping of fields, such as `name: my-study`",
        )
    return values


def _check_store(
    values: Mapping[str, Any], *, writes: bool, is_last: bool
) -> Iterator[StudyProblem]:
    """Tries the store. Writing creates a directory, so only a study without problems does it."""
    url = values.get("store", Study.model_fields["store"].default)
    if not isinstance(url, str) or not (is_last or not writes or url.startswith("s3:")):
        return
    try:
        check_store(absolute_store(url), writes=writes)
    except StoreError as error:
        fault = f"{shown(url)} cannot be used"
        yield StudyProblem(field="store", fault=fault, remedy=masked(str(error)))


def _check_tracking(uri: object) -> Iterator[StudyProblem]:
    remedy = remedy_for_credentials(uri) if isinstance(uri, str) else None
    if remedy is not None:
        fault = "the address contains credentials, which the store and the report would show"
        yield StudyProblem(field="tracking", fault=fault, remedy=remedy)


def _check_address(uri: object) -> Iterator[StudyProblem]:
    if isinstance(uri, str) and remedy_for_credentials(uri) is None:
        yield from check_tracking(uri)


def _check_between_sections(
    values: Mapping[str, Any], *, tasks: Tasks | None, methods: OwnMethods
) -> list[StudyProblem]:
    """Makes the checks that pydantic cannot, on the sections that are valid by themselves."""
    problems: list[StudyProblem] = []
    groups = _valid_section(Groups, values.get("groups", {}))
    finetune = _valid_section(Finetune, values.get("finetune", {}))
    backbone = _valid_section(BackboneSection, values.get("backbone", {}))
    entries = values.get("merge")
    merges = {
        index: known
        for index, entry in enumerate(entries if isinstance(entries, list) else [])
        if (valid := _valid_section(Merge, entry)) is not None
        and (known := methods.given_to_entry(valid)) is not None
    }
    if groups is not None:
        problems += check_group_sizes(groups, tasks=tasks, merges=merges)
        problems += check_pools(groups, tasks=tasks, finetune=finetune)
    if finetune is not None:
        base_axes = backbone.axes.varied() if backbone is not None else {}
        if values.get("search") is None:
            problems += check_finetune(finetune, merges=merges, base_axes=base_axes)
        if finetune.zero_shot is not None:
            problems += check_zero_shot(
                finetune.zero_shot, finetune=finetune, backbone=backbone, tasks=tasks
            )
    if backbone is not None:
        problems += check_backbone(
            backbone, finetune=finetune, own=tasks.own if tasks is not None else {}
        )
    baselines = _valid_section(Baselines, values.get("baselines", {}))
    multi_task = None if baselines is None else baselines.multi_task
    search = _valid_section(Search, values.get("search"))
    if search is not None:
        problems += check_search(
            search,
            finetune=finetune,
            backbone=backbone,
            groups=groups,
            tasks=tasks,
            merges=merges,
            baselines=baselines,
        )
    given = _valid_section(dict[str, GivenExpert], values.get("experts", {})) or {}
    problems += check_given(
        given,
        tasks=tasks,
        finetune=finetune,
        backbone=backbone,
        is_trained=search is not None or multi_task is not None,
    )
    problems += check_multi_task(
        multi_task, finetune=finetune, backbone=backbone, groups=groups, merges=merges
    )
    evaluation = _valid_section(Evaluation, values.get("evaluation", {}))
    problems += [*check_merges(merges), *check_tuning(merges, tasks=tasks, evaluation=evaluation)]
    return [*problems, *check_steps(merges, finetune=finetune, is_searched=search is not None)]


def _check_models(
    values: Mapping[str, Any], *, own: Mapping[str, TaskSource]
) -> Iterator[StudyProblem]:
    backbone = _valid_section(BackboneSection, values.get("backbone", {}))
    if backbone is not None:
        finetune = _valid_section(Finetune, values.get("finetune", {}))
        experts = _valid_section(dict[str, GivenExpert], values.get("experts", {})) or {}
        files = tuple(given_files(experts, own=own))
        yield from check_models(backbone, finetune=finetune, experts=files)


def _check_costs(values: Mapping[str, Any]) -> Iterator[StudyProblem]:
    budget = _valid_section(Budget, values.get("budget", {}))
    resources = _valid_section(Resources, values.get("resources", {}))
    if resources is not None:
        yield from check_quota(resources)
    if budget is not None and resources is not None:
        yield from check_budget(budget, resources=resources)
    search = _valid_section(Search, values.get("search"))
    if search is not None and resources is not None:
        for problem in check_budget(search.budget.hours, resources=resources):
            yield replace(problem, field=f"search.{problem.field}")


def _valid_section(section: Any, values: object) -> Any:  # noqa: ANN401 any section
    """Returns a section; None if it is invalid, which `problem_of` reports."""
    try:
        return TypeAdapter(section).validate_python(values)
    except ValidationError:
        return None


def _check_task_names(tasks: Tasks) -> Iterator[StudyProblem]:
    known = SUITES[tasks.suite] if tasks.suite else task_names()
    for index, name in enumerate(tasks.names or []):
        if name not in known:
            remedy = (
                "tasks under tasks.own always take part; leave the name out here"
                if name in tasks.own
                else unknown_name(name, known=known, kind="tasks")
            )
            yield wrong_value(f"tasks.names[{index}]", name, remedy=remedy)
