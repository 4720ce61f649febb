import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.plan.plan import Plan
from orchestrator.record.folder import REPORT_FILE
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy, open_by_name, open_study
from orchestrator.run.republish import publish_theory, republish, start_tracker
from orchestrator.run.write_outputs import publish_outputs, write_outputs
from orchestrator.study.reader import parse_study
from orchestrator.theory.answers import compute_answers
from orchestrator.theory.schema import SCHEMAS
from orchestrator.theory.stored import store_answers, table_file
from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import Target
from orchestrator.tracking.run_tags import KEY_TAG
from orchestrator.tracking.tracker import PublishReport
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mlflow's own imports warn of their dependencies
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.entities import Run
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    from orchestrator.tracking.mlflow_experiment import MlflowExperiment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # SQLAlchemy and alembic under mlflow warn
]
NUM_RUNS = 3 + 2 * (1 + 1 + 3) + 1  # experts; setting, curve, merges of two methods; report


@pytest.fixture
def opened(
    study_fields: Callable[..., dict[str, Any]],
    make_plan: Callable[..., Plan],
    all_manifests: Callable[[Plan], list[Manifest]],
) -> OpenedStudy:
    """Returns a finished study that was read from its store by name."""
    methods = [{"method": "average"}, {"method": "ties"}]
    text = yaml.safe_dump(study_fields(merge=methods))
    empty = open_study(parse_study(text, source="study.yaml"), text=text)
    empty.folder.write_plan(empty.plan, study_text=text)
    for manifest in all_manifests(make_plan(merge=methods)):
        key = Layout.manifest(manifest.kind, manifest.id)
        empty.artifacts.store.put(key, manifest.to_json())
    opened = open_by_name("small", store_url=empty.store_url)
    write_outputs(opened, results=StudyResults.of(opened.ledger.committed()))
    return opened


def client_of(opened: OpenedStudy) -> MlflowClient:
    return MlflowClient(tracking_uri=opened.tracking_uri)


def held_runs(opened: OpenedStudy) -> list[Run]:
    client = client_of(opened)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def contents(opened: OpenedStudy) -> dict[str, Any]:
    """Returns all that MLflow has of the study, without the ids of MLflow runs."""
    runs = held_runs(opened)
    keys = {run.info.run_id: run.data.tags[KEY_TAG] for run in runs}
    assert len(set(keys.values())) == len(runs)
    return {keys[run.info.run_id]: dict(_content(opened, run=run, keys=keys)) for run in runs}


def _content(
    opened: OpenedStudy, *, run: Run, keys: dict[str, str]
) -> Iterator[tuple[str, object]]:
    client, run_id = client_of(opened), run.info.run_id
    yield "name", run.info.run_name
    yield "span", (run.info.status, run.info.start_time, run.info.end_time)
    yield "params", run.data.params
    tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
    yield "tags", tags
    yield "parent", keys.get(run.data.tags.get(MLFLOW_PARENT_RUN_ID, ""))
    for name in run.data.metrics:
        history = client.get_metric_history(run_id, name)
        yield f"metric {name}", sorted((m.step, m.timestamp, m.value) for m in history)
    if run.data.tags["kind"] == "report":
        folder = Path(
            download_artifacts(run_id=run_id, artifact_path="", tracking_uri=opened.tracking_uri)
        )
        for path in sorted(folder.rglob("*.*")):
            yield f"artifact {path.relative_to(folder)}", path.read_bytes()


def publish_as_a_run_does(opened: OpenedStudy) -> None:
    """Fills MLflow from this process, which has imported mlflow."""
    target = Target(uri=opened.tracking_uri, study="small", experiment_tags={}, rebuild=False)
    experiment = MlflowExperiment(target)
    hand_over(opened, publish=experiment.publish)


def hand_over(opened: OpenedStudy, *, publish: Callable[[MlflowRun], Any]) -> None:
    """Publishes everything that the end of a run publishes."""
    page = opened.folder.read_bytes(REPORT_FILE)
    assert page is not None
    committed = opened.ledger.committed()
    results = StudyResults.of(committed)
    publish_outputs(committed, results=results, make_page=lambda _: page.decode(), publish=publish)


def test_rebuild_and_an_empty_mlflow_get_the_same_from_the_store_alone(
    opened: OpenedStudy, tmp_path: Path
) -> None:
    """Changed and deleted MLflow runs are restored under new ids; foreign ones stay."""
    publish_as_a_run_does(opened)
    before = contents(opened)
    assert len(before) == NUM_RUNS
    assert before["report"]["artifact report.html"].startswith(b"<!")
    assert any(name.startswith("artifact figures/") for name in before["report"])
    client = client_of(opened)
    runs = {run.data.tags[KEY_TAG]: run.info.run_id for run in held_runs(opened)}
    client.set_tag(runs["report"], "kind", "spoilt")
    client.delete_run(runs["setting/default/average"])
    foreign = client.create_run(held_runs(opened)[0].info.experiment_id).info.run_id

    rebuilt = republish(opened, rebuild=True)
    assert (rebuilt.num_published, rebuilt.num_unchanged, rebuilt.error) == (NUM_RUNS, 0, None)
    assert opened.is_published()
    assert client.get_run(foreign).info.lifecycle_stage == "active"
    client.delete_run(foreign)
    assert contents(opened) == before
    assert not {run.info.run_id for run in held_runs(opened)} & set(runs.values())

    elsewhere = replace(opened, tracking_uri=f"sqlite:///{tmp_path}/elsewhere/mlflow.db")
    assert republish(elsewhere, rebuild=False).num_published == NUM_RUNS
    assert contents(elsewhere) == before


def test_rebuild_whose_publisher_is_killed_deletes_nothing_twice(
    opened: OpenedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor continues, and keeps the MLflow runs of the killed publisher."""
    monkeypatch.setattr("orchestrator.tracking.tracker._RESTART_WAIT_S", 0.1)
    publish_as_a_run_does(opened)
    old = {run.info.run_id for run in held_runs(opened)}
    tracker = start_tracker(opened, rebuild=True)
    hand_over(opened, publish=tracker.publish)
    deadline_s = time.monotonic() + 60
    while tracker.num_pending() > NUM_RUNS - 3:
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    assert tracker._process is not None
    os.kill(tracker._process.pid, signal.SIGKILL)
    by_first = {run.info.run_id for run in held_runs(opened)}
    report = tracker.close(60)
    assert (report.num_pending, report.error) == (0, None)
    held = {run.info.run_id for run in held_runs(opened)}
    assert not by_first & old
    assert len(by_first) >= 3
    assert by_first <= held
    assert len(contents(opened)) == len(held) == NUM_RUNS


def test_rebuild_without_an_answer_leaves_the_study_unpublished(opened: OpenedStudy) -> None:
    """The next run sends pending MLflow runs, because the study does not count as published."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        unanswered = replace(opened, tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        unanswered.note_published(
            PublishReport(num_published=NUM_RUNS, num_unchanged=0, num_pending=0, error=None)
        )
        assert unanswered.is_published()
        report = republish(unanswered, rebuild=True, timeout_s=0.5)
    assert report.num_pending == NUM_RUNS
    assert not unanswered.is_published()


def test_theory_runs_are_children_of_one_with_the_tables(opened: OpenedStudy) -> None:
    """Each method has an MLflow run whose metrics name their labels; a rebuild sends them too."""
    results = StudyResults.of(opened.ledger.committed())
    answers = compute_answers(results.merges, trainings="no images in this store")
    store_answers(opened.folder, answers, results=results.merges)
    publish_theory(opened, answers=answers)
    runs = {run.data.tags[KEY_TAG]: run for run in held_runs(opened)}
    assert set(runs) == {"theory", "theory/average", "theory/ties"}
    parent = runs["theory"].info.run_id
    assert runs["theory/ties"].data.tags[MLFLOW_PARENT_RUN_ID] == parent
    assert runs["theory/ties"].data.tags["kind"] == "theory"
    names = {item.path for item in client_of(opened).list_artifacts(parent)}
    assert names == {"findings.txt", *(table_file(name) for name in SCHEMAS)}
    republish(opened, rebuild=True)
    assert len(held_runs(opened)) == NUM_RUNS + len(runs)
