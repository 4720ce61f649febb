import math
import os
import shutil
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.tracking.database import database_uri
from orchestrator.tracking.mlflow_run import MetricPoint, MlflowRun
from orchestrator.tracking.protocol import EXPERIMENT_ID, NOTE_TAG, Target
from orchestrator.tracking.run_tags import CHANGED_PARAM_TAG, INFINITE_TAG, KEY_TAG
from orchestrator.tracking.ui import readable

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mlflow's own imports warn of their dependencies
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache, _get_store

    from orchestrator.tracking.mlflow_experiment import MlflowExperiment

pytestmark = pytest.mark.filterwarnings("ignore")  # SQLAlchemy and alembic under mlflow warn


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creates MLflow's 65 tables once, which takes two seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowExperiment(
        Target(uri=f"sqlite:///{path}", study="other", experiment_tags={}, rebuild=False)
    ).check()
    return path


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    source, copy = sqlite3.connect(empty_database), sqlite3.connect(tmp_path / "mlflow.db")
    with closing(source), closing(copy):
        source.backup(copy)  # a bare copy of the file would miss its write-ahead log
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_database_gets_its_name_when_its_tables_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that ends between two of MLflow's steps leaves nothing that cannot be opened."""
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mlflow.store.db.utils._upgrade_db", stop)
        with pytest.raises(KeyboardInterrupt):
            open_experiment(uri)
    assert list((tmp_path / "new").iterdir()) == []
    assert open_experiment(uri).publish(make_run())
    assert len(read_runs(uri)) == 1


def open_experiment(uri: str, **tags: str) -> MlflowExperiment:
    return MlflowExperiment(Target(uri=uri, study="demo", experiment_tags=tags, rebuild=False))


def read_runs(uri: str) -> dict[str, Run]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len({run.data.tags[KEY_TAG] for run in runs}) == len(runs)
    return {run.data.tags[KEY_TAG]: run for run in runs}


def make_run(key: str = "expert/a", **changes: object) -> MlflowRun:
    fields = {
        "key": key,
        "kind": "expert",
        "name": f"name of {key}",
        "params": {"lr": "0.1"},
        "tags": {"task": "digits"},
        "metrics": [
            MetricPoint(name="loss", value=2.0 / (step + 1), step=step, timestamp_ms=1000 + step)
            for step in range(5)
        ],
        "start_ms": 1_000,
        "end_ms": 61_000,
        "status": "FINISHED",
        **changes,
    }
    return MlflowRun(**fields)  # type: ignore[arg-type]


def test_published_run_holds_everything_with_its_own_times(uri: str) -> None:
    """Times are those of the content, not of publishing."""
    run = make_run(artifacts={"figures/a.png": b"png", "table.csv": b"1,2"})
    assert open_experiment(uri).publish(run)
    held = read_runs(uri)["expert/a"]
    assert (held.info.start_time, held.info.end_time) == (1_000, 61_000)
    assert (held.info.run_name, held.info.status) == ("name of expert/a", "FINISHED")
    assert held.data.params == {"lr": "0.1"}
    assert held.data.tags["kind"] == "expert"
    assert held.data.tags["task"] == "digits"
    client = MlflowClient(tracking_uri=uri)
    history = client.get_metric_history(held.info.run_id, "loss")
    assert [(m.step, m.timestamp) for m in history] == [(step, 1000 + step) for step in range(5)]
    paths = [item.path for item in client.list_artifacts(held.info.run_id)]
    assert sorted(paths) == ["figures", "table.csv"]
    inside = Path(uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts"
    assert held.info.artifact_uri.startswith(inside.as_uri())


def read_files(uri: str) -> dict[str, bytes]:
    """Returns the files of the MLflow run `expert/a`, as MLflow's pages would find them."""
    _artifact_repos_cache.clear()  # each command is a process of its own
    run_id = read_runs(uri)["expert/a"].info.run_id
    client = MlflowClient(tracking_uri=uri)
    return {
        item.path: Path(client.download_artifacts(run_id, item.path)).read_bytes()
        for item in client.list_artifacts(run_id)
    }


@pytest.fixture
def store(uri: str, tmp_path: Path) -> Path:
    """Returns a folder with a database whose MLflow run has a file."""
    store = tmp_path / "store 1"
    store.mkdir()
    Path(uri.removeprefix("sqlite:///")).rename(store / "mlflow.db")
    publish(store, table=b"old")
    return store


def publish(store: Path, *, table: bytes) -> bool:
    _artifact_repos_cache.clear()  # each command is a process of its own
    run = make_run(artifacts={"table.csv": table}, params={"table": table.decode()})
    return open_experiment(database_uri(store / "mlflow.db")).publish(run)


def test_figures_move_with_the_store(store: Path) -> None:
    """Pages find those that were there, and new ones do not bring the old folder back."""
    moved = store.rename(store.with_name("moved"))
    with readable(database_uri(moved / "mlflow.db")) as uri:
        assert read_files(uri) == {"table.csv": b"old"}
    again = moved.rename(moved.with_name("again"))
    assert publish(again, table=b"new")
    assert read_files(database_uri(again / "mlflow.db")) == {"table.csv": b"new"}
    assert [each.name for each in store.parent.iterdir()] == ["again"]


def test_copied_store_leaves_the_figures_of_the_original(store: Path) -> None:
    """Two stores are then two studies."""
    copy = Path(shutil.copytree(store, store.with_name("copy")))
    assert publish(copy, table=b"new")
    assert read_files(database_uri(copy / "mlflow.db")) == {"table.csv": b"new"}
    assert read_files(database_uri(store / "mlflow.db")) == {"table.csv": b"old"}


def test_moved_store_that_cannot_be_written_shows_its_figures(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is copied for the pages, the figures are not."""
    moved = store.rename(store.with_name("moved"))
    before = (moved / "mlflow.db").read_bytes()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != moved and access(path, mode))
    with readable(database_uri(moved / "mlflow.db")) as uri:
        assert uri != database_uri(moved / "mlflow.db")
        assert read_files(uri) == {"table.csv": b"old"}
    assert (moved / "mlflow.db").read_bytes() == before


def test_experiments_of_others_keep_the_places_of_their_files(store: Path) -> None:
    """A database may have more than studies."""
    uri = database_uri(store / "mlflow.db")
    elsewhere = (store.parent / "elsewhere").as_uri()
    MlflowClient(tracking_uri=uri).create_experiment("mine", artifact_location=elsewhere)
    publish(store, table=b"old")
    found = MlflowClient(tracking_uri=uri).get_experiment_by_name("mine")
    assert found is not None
    assert found.artifact_location == elsewhere


def test_deleted_figures_are_written_again(store: Path) -> None:
    """The database still says that they were written."""
    assert not publish(store, table=b"old")
    shutil.rmtree(store / "mlflow-artifacts")
    assert publish(store, table=b"old")
    assert read_files(database_uri(store / "mlflow.db")) == {"table.csv": b"old"}
    assert not publish(store, table=b"old")


def test_figures_of_a_study_whose_experiment_has_them_elsewhere_are_written_once(uri: str) -> None:
    """A user may have created the experiment, with a place for its files."""
    folder = Path(uri.removeprefix("sqlite:///")).parent / "elsewhere"
    MlflowClient(tracking_uri=uri).create_experiment("demo", artifact_location=folder.as_uri())
    run = make_run(artifacts={"table.csv": b"old"})
    assert open_experiment(uri).publish(run)
    assert [each.name for each in folder.rglob("*.csv")] == ["table.csv"]
    assert not open_experiment(uri).publish(run)


def test_second_session_writes_no_run_again(uri: str) -> None:
    """A resumed study finds its MLflow runs and leaves them as they are."""
    first = open_experiment(uri)
    runs = [make_run(f"expert/{number}") for number in range(7)]
    assert [first.publish(run) for run in runs] == [True] * 7
    second = open_experiment(uri)
    assert [second.publish(run) for run in runs] == [False] * 7
    assert len(read_runs(uri)) == 7


def test_changed_run_is_completed_in_place_and_its_history_is_not_doubled(uri: str) -> None:
    """A growing trial stays one MLflow run, and its points stay single."""
    metrics = make_run().metrics
    open_experiment(uri).publish(make_run(metrics=metrics[:3], status="RUNNING", name="begun"))
    assert read_runs(uri)["expert/a"].info.status == "RUNNING"
    assert open_experiment(uri).publish(make_run(metrics=metrics))
    held = read_runs(uri)["expert/a"]
    assert (held.info.status, held.info.run_name) == ("FINISHED", "name of expert/a")
    history = MlflowClient(tracking_uri=uri).get_metric_history(held.info.run_id, "loss")
    assert [point.step for point in history] == list(range(5))


def test_failed_run_that_runs_again_is_running(uri: str) -> None:
    """The status follows the study in both directions."""
    experiment = open_experiment(uri)
    experiment.publish(make_run(status="FAILED"))
    experiment.publish(make_run(status="RUNNING"))
    assert read_runs(uri)["expert/a"].info.status == "RUNNING"


def test_changed_param_becomes_a_tag(uri: str) -> None:
    """MLflow refuses a new value of a parameter; the MLflow run is published anyway."""
    open_experiment(uri).publish(make_run())
    assert open_experiment(uri).publish(make_run(params={"lr": "0.2", "seed": "3"}))
    held = read_runs(uri)["expert/a"]
    assert held.data.params == {"lr": "0.1", "seed": "3"}
    assert held.data.tags[f"{CHANGED_PARAM_TAG}lr"] == "0.2"


def test_child_points_to_a_parent_that_comes_later(uri: str) -> None:
    """The parent is created on demand, and completed when its content arrives."""
    experiment = open_experiment(uri)
    experiment.publish(make_run("merge/1", parent_key="setting/s"))
    assert read_runs(uri)["setting/s"].info.status == "RUNNING"
    experiment.publish(make_run("setting/s"))
    open_experiment(uri).publish(make_run("merge/2", parent_key="setting/s"))
    held = read_runs(uri)
    parent = held["setting/s"]
    assert (parent.info.run_name, parent.info.status) == ("name of setting/s", "FINISHED")
    for child in ("merge/1", "merge/2"):
        assert held[child].data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_infinite_values_are_published_as_nan_and_listed(uri: str) -> None:
    """A diverged trial's history does not stretch every axis to 1.8e308."""
    points = [
        MetricPoint(name="loss", value=value, step=step, timestamp_ms=step)
        for step, value in enumerate([1.0, math.inf, math.nan])
    ]
    open_experiment(uri).publish(make_run(metrics=points))
    held = read_runs(uri)["expert/a"]
    history = MlflowClient(tracking_uri=uri).get_metric_history(held.info.run_id, "loss")
    assert [math.isnan(point.value) for point in history] == [False, True, True]
    assert held.data.tags[INFINITE_TAG] == "loss@1=inf"


def test_creation_whose_reply_was_lost_leaves_one_run(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is looked up before a second attempt creates anything."""
    experiment = open_experiment(uri)
    create_run = MlflowClient.create_run

    def create_and_lose(*args: object, **kwargs: object) -> None:
        create_run(*args, **kwargs)  # type: ignore[arg-type]
        raise ConnectionError("reply lost")

    monkeypatch.setattr(MlflowClient, "create_run", create_and_lose)
    run = make_run("merge/average", parent_key="setting/s")
    for _ in range(2):
        with pytest.raises(ConnectionError):
            experiment.publish(run)
    monkeypatch.undo()
    assert experiment.publish(run)
    assert sorted(read_runs(uri)) == ["merge/average", "setting/s"]


@pytest.mark.parametrize("step", ["log_artifact", "log_batch", "set_terminated"])
def test_publishing_cut_off_anywhere_is_redone(
    uri: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The next session does not take a half-written MLflow run for a whole one."""
    run = make_run(artifacts={"a.txt": b"1"})

    def fail(*_args: object, **_kwargs: object) -> None:
        raise ConnectionError(step)

    monkeypatch.setattr(MlflowClient, step, fail)
    with pytest.raises(ConnectionError):
        open_experiment(uri).publish(run)
    monkeypatch.undo()
    assert open_experiment(uri).publish(run)
    assert not open_experiment(uri).publish(run)
    held = read_runs(uri)
    assert len(held) == 1
    assert held["expert/a"].info.status == "FINISHED"


def test_deleted_experiment_is_restored(uri: str) -> None:
    """Somebody deleted the experiment in MLflow, even while the study runs."""
    experiment = open_experiment(uri)
    experiment.publish(make_run("expert/1"))
    client = MlflowClient(tracking_uri=uri)
    held = client.get_experiment_by_name("demo")
    assert held is not None
    client.delete_experiment(held.experiment_id)
    with pytest.raises(Exception, match="active"):
        experiment.publish(make_run("expert/2"))
    experiment.publish(make_run("expert/2"))
    assert sorted(read_runs(uri)) == ["expert/1", "expert/2"]


def test_deleted_run_is_published_again(uri: str) -> None:
    """The next session publishes an MLflow run that somebody deleted in MLflow."""
    open_experiment(uri).publish(make_run())
    first = read_runs(uri)["expert/a"].info.run_id
    MlflowClient(tracking_uri=uri).delete_run(first)
    assert open_experiment(uri).publish(make_run())
    assert read_runs(uri)["expert/a"].info.run_id != first


def test_run_points_to_a_parent_that_was_published_again(uri: str) -> None:
    """A deleted setting comes back with its merges as children."""
    runs = [make_run("setting/s"), make_run("merge/1", parent_key="setting/s")]
    assert [open_experiment(uri).publish(run) for run in runs] == [True, True]
    MlflowClient(tracking_uri=uri).delete_run(read_runs(uri)["setting/s"].info.run_id)
    again = open_experiment(uri)
    assert [again.publish(run) for run in runs] == [True, True]
    held = read_runs(uri)
    assert held["merge/1"].data.tags["mlflow.parentRunId"] == held["setting/s"].info.run_id
    assert [open_experiment(uri).publish(run) for run in runs] == [False, False]


def test_second_run_under_one_key_is_deleted_and_the_whole_one_stays(uri: str) -> None:
    """Restoring an experiment brings back MLflow runs that were deleted in it before."""
    open_experiment(uri).publish(make_run())
    kept = read_runs(uri)["expert/a"].info
    client = MlflowClient(tracking_uri=uri)
    for _ in range(2):
        client.create_run(kept.experiment_id, tags={KEY_TAG: "expert/a"})
    assert not open_experiment(uri).publish(make_run())
    assert read_runs(uri)["expert/a"].info.run_id == kept.run_id


def test_deleting_the_runs_spares_runs_without_a_key(uri: str) -> None:
    """MLflow runs with a key belong to the study; they go to the trash."""
    experiment = open_experiment(uri)
    experiment.publish(make_run())
    before = read_runs(uri)["expert/a"].info
    client = MlflowClient(tracking_uri=uri)
    foreign = client.create_run(before.experiment_id).info.run_id
    assert experiment.delete_runs() == 1
    assert client.get_run(before.run_id).info.lifecycle_stage == "deleted"
    assert client.get_run(foreign).info.lifecycle_stage == "active"
    assert experiment.publish(make_run())
    client.delete_run(foreign)
    assert read_runs(uri)["expert/a"].info.run_id != before.run_id


def test_experiment_gets_its_tags_but_keeps_a_persons_description(uri: str) -> None:
    """Links contain the experiment's id; a description that a person wrote is kept."""
    tags = {NOTE_TAG: f"Charts: [lr](#/experiments/{EXPERIMENT_ID}/runs)", "store": "s3://b"}
    open_experiment(uri, **tags).publish(make_run())
    client = MlflowClient(tracking_uri=uri)
    held = client.get_experiment_by_name("demo")
    assert held is not None
    assert held.tags[NOTE_TAG] == f"Charts: [lr](#/experiments/{held.experiment_id}/runs)"
    assert held.tags["store"] == "s3://b"
    client.set_experiment_tag(held.experiment_id, NOTE_TAG, "my own words")
    open_experiment(uri, **tags).publish(make_run())
    assert client.get_experiment(held.experiment_id).tags[NOTE_TAG] == "my own words"


def test_database_is_not_synced_at_every_commit(uri: str) -> None:
    """MLflow's own connections have the setting, which SQLite does not keep in the file."""
    experiment = open_experiment(uri)
    experiment.check()
    engine = _get_store(store_uri=uri).engine
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL


def test_database_is_in_write_ahead_mode_in_a_directory_of_its_own(tmp_path: Path) -> None:
    """The first use creates the directory and sets the mode, which the file keeps."""
    path = tmp_path / "new" / "store" / "mlflow.db"
    open_experiment(f"sqlite:///{path}").check()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_database_that_was_deleted_without_its_log_is_created_again(tmp_path: Path) -> None:
    """SQLite would write the old log into the new file, which no publisher could then use."""
    path = tmp_path / "mlflow.db"
    first = open_experiment(f"sqlite:///{path}")
    for number in range(20):
        first.publish(make_run(f"expert/{number}"))
    log = path.with_name("mlflow.db-wal").read_bytes()
    assert log, "the first one's connections are open, so that its log is there"
    _get_store(store_uri=f"sqlite:///{path}").engine.dispose()
    path.unlink()
    path.with_name("mlflow.db-wal").write_bytes(log)
    uri = f"sqlite:///{path}"
    assert open_experiment(uri).publish(make_run("expert/new"))
    assert [*read_runs(uri)] == ["expert/new"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_run_has_the_user_who_publishes(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's column is filled; a system without names for users leaves it empty."""
    monkeypatch.setenv("LOGNAME", "ada")
    open_experiment(uri).publish(make_run())
    held = read_runs(uri)["expert/a"]
    assert (held.info.user_id, held.data.tags["mlflow.user"]) == ("ada", "ada")

    def nameless() -> str:
        raise KeyError("no such uid")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert open_experiment(uri).publish(make_run("expert/b"))
    assert "mlflow.user" not in read_runs(uri)["expert/b"].data.tags


def test_refused_view_of_the_experiment_leaves_the_runs(uri: str) -> None:
    """A tag that is longer than the server takes is left out, and the others are there."""
    experiment = open_experiment(uri, **{"x" * 300: "refused", "plan": "abc"})
    assert experiment.publish(make_run())
    assert set(read_runs(uri)) == {"expert/a"}
    found = MlflowClient(tracking_uri=uri).get_experiment_by_name("demo")
    assert found is not None
    assert found.tags["plan"] == "abc"
    assert "x" * 300 not in found.tags
