"""Tasks of the tests' store, prepared once more with validation images held out."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from eval.suites import find_task
from eval.task_source import TaskSource
from workers.prepare.images import prepare_data
from workers.specs.data import DataJob, DataSpec
from workers.specs.expert import ExpertSpec
from workers.workspace import Workspace


@pytest.fixture(scope="module")
def hold_out(make_expert: Callable[..., ExpertSpec]) -> Callable[..., str]:
    """Prepares a task with 30 validation images; returns the id of its images."""

    def prepare(task: str, *, workspace: Workspace) -> str:
        committed = workspace.manifest("data", make_expert(task).data_id).spec
        data = replace(DataSpec.from_json(committed), max_validation=30)
        job = DataJob(spec=data, source=TaskSource(task=find_task(task)))
        list(prepare_data(job, workspace=workspace))
        return data.id

    return prepare
