import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from eval.own.files import OwnFiles
from eval.own.task import describe_own_task
from eval.task_source import TaskSource
from eval.tasks import Task
from orchestrator.cli.options import open_file
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.results.schema import MEANS
from orchestrator.run.opened import open_by_name, open_study
from orchestrator.study import task_sources
from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study
from orchestrator.study.schema import Study
from orchestrator.study.task_sources import RESERVED_NAMES
from workers.planned import find_planned
from workers.specs.data import DataJob
from workers.store.opening import open_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Makes a folder of two classes with two images of each class per split."""
    for split in ("train", "test"):
        for label, name in enumerate(("daisy", "rose")):
            for number in range(2):
                path = tmp_path / "flowers" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (5, 5), (label, number, 0)).save(path)
    return tmp_path / "flowers"


def problems(fields: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as caught:
        parse_study(yaml.safe_dump(fields), source="study.yaml")
    return str(caught.value)


def test_own_tasks_come_after_those_of_the_suite(
    make_plan: Callable[..., Plan], folder: Path
) -> None:
    """Classes and counts come from the files, and the plan names the files beside the images."""
    own = {"my_flowers": {"folder": str(folder)}}
    plan = make_plan(tasks={"names": ["mnist_5k"], "own": own})
    assert plan.study.task_names == ("mnist_5k", "my_flowers")
    source = plan.sources["my_flowers"]
    assert source.task.classes == ("daisy", "rose")
    assert source.task.num_train == source.task.num_test == 4
    assert source.files is not None
    assert source.files.place == str(folder)
    assert plan.data_jobs[1] == DataJob(spec=plan.datasets[1], source=source)
    assert plan.datasets[1].fingerprint == source.task.fingerprint


def test_own_tasks_are_enough(make_plan: Callable[..., Plan], folder: Path) -> None:
    """A study needs neither a suite nor names if it has tasks of its own."""
    own = {"a": {"folder": str(folder)}, "b": {"folder": str(folder)}}
    plan = make_plan(tasks={"own": own})
    assert plan.study.task_names == ("a", "b")
    assert {group.tasks for group in plan.groups} == {("a", "b")}


def test_ids_do_not_depend_on_where_files_lie(
    make_plan: Callable[..., Plan], folder: Path, tmp_path: Path
) -> None:
    """A copy of the folder and another data root give the same images and experts."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    plans = [
        make_plan(tasks={"names": ["mnist"], "root": root, "own": {"mine": {"folder": str(at)}}})
        for root, at in (("/data", folder), ("/scratch", copy))
    ]
    assert plans[0].datasets == plans[1].datasets
    assert plans[0].sources != plans[1].sources
    assert list(plans[0].merges) == list(plans[1].merges)


def test_published_suites_are_planned_without_their_files(make_plan: Callable[..., Plan]) -> None:
    """A plan needs no download; workers read from the study's data root, or from their node's."""
    plan = make_plan(tasks={"suite": "vision20", "root": "/nowhere"}, groups={"size": 8})
    assert len(plan.datasets) == 20
    assert {source.root for source in plan.sources.values()} == {"/nowhere"}
    plan = make_plan(tasks="vision8")
    assert {source.root for source in plan.sources.values()} == {None}


def test_everything_wrong_with_own_tasks_is_told_at_once(
    study_fields: Callable[..., dict[str, Any]], folder: Path
) -> None:
    """One error lists the wrong names, places, splits and classes of all own tasks."""
    shutil.rmtree(folder / "test" / "rose")
    own = {
        "mnist": {"folder": str(folder)},
        "_My Set": {"folder": "/nowhere"},
        "birds": {"hub": "me/birds", "revision": "0" * 40},
    }
    message = problems(study_fields(tasks={"names": ["mnist_5k", "birds"], "own": own}))
    assert message.startswith("study.yaml: 6 problems")
    assert "tasks.names[1]: 'birds' is not allowed; tasks under tasks.own always" in message
    assert "tasks.own.mnist: 'mnist' is not allowed; a task of the catalogue has this" in message
    assert "test has no class rose, which the other split has" in message
    assert "tasks.own._My Set: '_My Set' is not allowed; expected 1 to 40 letters" in message
    assert "tasks.own._My Set: '/nowhere' is not a usable task; /nowhere is " in message
    assert "python -m eval.vision.download me/birds --revision 000000" in message


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({}, "give exactly one of folder, parquet and hub"),
        ({"folder": "a", "parquet": "b"}, "give exactly one of folder, parquet and hub"),
        ({"hub": "me/birds"}, "give hub and revision together"),
        ({"folder": "a", "revision": "0" * 40}, "give hub and revision together"),
        ({"hub": "birds", "revision": "0" * 40}, "tasks.own.mine.hub: 'birds'"),
        ({"hub": "me/birds", "revision": "main"}, "tasks.own.mine.revision: 'main'"),
        ({"folder": "a", "label": "kind"}, "leave out label: a folder takes labels"),
        ({"foldr": "a"}, "tasks.own.mine.foldr: unknown field; did you mean 'folder'"),
        ({"folder": "a", "revision": "0" * 40}, "mine.revision: '00000000"),
        ({"folder": "a", "label": "kind"}, "tasks.own.mine.label: 'kind' is not allowed"),
        ({"folder": "a", "test": "a/b"}, "tasks.own.mine.test: 'a/b' is not allowed"),
        ({"folder": "a", "test": "train"}, "mine.test: 'train' is not allowed; the training split"),
        ({"folder": "a", "ignore": [""]}, "tasks.own.mine.ignore[0]: ''"),
        ({"parquet": "a", "channels": 4}, "tasks.own.mine.channels: 4"),
        ({"parquet": "a", "channels": True}, "mine.channels: true is not allowed; expected 1 or 3"),
    ],
)
def test_wrong_field_of_an_own_task_is_told(
    own: dict[str, Any], told: str, study_fields: Callable[..., dict[str, Any]]
) -> None:
    """The schema refuses the field before any file is read."""
    assert told in problems(study_fields(tasks={"names": ["mnist_5k"], "own": {"mine": own}}))


def test_names_of_own_tasks_may_have_capitals_and_hyphens(
    study_fields: Callable[..., dict[str, Any]],
    make_plan: Callable[..., Plan],
    folder: Path,
) -> None:
    """Names that differ from others in capitals alone are refused, as are the means' names."""
    own = {name: {"folder": str(folder)} for name in ("Cars196", "My-Set")}
    assert make_plan(tasks={"own": own}).study.task_names == ("Cars196", "My-Set")
    own |= {name: {"folder": str(folder)} for name in ("my-set", "MNIST", "Union")}
    message = problems(study_fields(tasks={"own": own}))
    assert "'my-set' is not allowed; the task 'My-Set' of this study has this name" in message
    assert "'MNIST' is not allowed; a task of the catalogue has this name, apart from" in message
    assert "'Union' is not allowed; the tables' means have this name, apart from" in message
    assert set(MEANS) == {*RESERVED_NAMES}


def test_groups_count_own_tasks(study_fields: Callable[..., dict[str, Any]], folder: Path) -> None:
    """One named task and one own task are two tasks, too few for a group of three."""
    tasks = {"names": ["mnist_5k"], "own": {"mine": {"folder": str(folder)}}}
    message = problems(study_fields(tasks=tasks, groups={"size": 3}))
    assert "groups.size: 3 is not allowed; the study has 2 tasks" in message


def test_study_of_own_tasks_is_opened_where_their_files_are_not(
    make_study: Callable[..., Study], study_fields: Callable[..., dict[str, Any]], folder: Path
) -> None:
    """Opening a study by name reads own tasks from the plan; a study file needs their files."""
    fields = study_fields(tasks={"names": ["mnist_5k"], "own": {"mine": {"folder": str(folder)}}})
    text = yaml.safe_dump(fields)
    opened = open_study(parse_study(text, source="study.yaml"), text=text)
    opened.folder.write_plan(opened.plan, study_text=text)
    shutil.rmtree(folder)
    again = open_by_name("small", store_url=fields["store"])
    assert again.plan.sources == opened.plan.sources
    assert again.plan.datasets == opened.plan.datasets
    job = opened.plan.data_jobs[1]
    assert find_planned(open_store(fields["store"]), job.id) == job
    with pytest.raises(StudyError, match="is no directory on this machine"):
        build_plan(make_study(tasks=fields["tasks"]))


def test_plans_of_embedded_tasks_name_no_files(make_plan: Callable[..., Plan]) -> None:
    """Their plans contain nothing about this machine."""
    plan = make_plan()
    assert all(
        source == TaskSource(task=source.task, files=None, root=None)
        for source in plan.sources.values()
    )


def test_too_few_images_to_hold_any_out_is_a_problem(
    study_fields: Callable[..., dict[str, Any]], folder: Path
) -> None:
    """A fifth of two training images is none, so nothing could be evaluated."""
    for name in ("daisy", "rose"):
        (folder / "train" / name / "1.png").unlink()
    own = {"mine": {"folder": str(folder)}}
    fields = study_fields(tasks={"names": ["mnist_5k"], "own": own, "evaluate_on": "validation"})
    assert "no image can be held out of the 2 training images of task 'mine'" in problems(fields)
    fields["tasks"]["evaluate_on"] = "test"
    parse_study(yaml.safe_dump(fields), source="study.yaml")


def test_files_of_an_own_task_are_read_once_to_open_a_study(
    study_fields: Callable[..., dict[str, Any]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All bytes are read to describe a task; the plan takes what the check has found."""
    described: list[str] = []

    def counting(name: str, *, files: OwnFiles, root: Path) -> Task:
        described.append(name)
        return describe_own_task(name, files=files, root=root)

    monkeypatch.setattr(task_sources, "describe_own_task", counting)
    tasks = {"names": ["mnist_5k"], "own": {"my_flowers": {"folder": str(folder)}}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study_fields(tasks=tasks)))
    opened = open_file(path)
    assert described == ["my_flowers"]
    assert opened.plan.sources["my_flowers"].task.num_train == 4
