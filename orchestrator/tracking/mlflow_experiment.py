"""Writes MLflow runs into one MLflow experiment.

This is the only module that imports mlflow, which takes 3.5 s. Only the publisher process imports
it, never the driver.
"""

import getpass
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_USER
from mlflow.utils.uri import is_local_uri
from sqlalchemy import event
from sqlalchemy.engine import Engine

from eval.user_paths import is_there
from orchestrator.tracking.database import (
    database_path,
    database_uri,
    only_creator,
    prepare_database,
)
from orchestrator.tracking.figures_folder import artifact_root, follow_move
from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import EXPERIMENT_ID, NOTE_TAG, Target
from orchestrator.tracking.run_tags import (
    DIGEST_TAG,
    KEY_TAG,
    finite,
    mlflow_tags,
)
from workers.store.atomic import link_if_absent, temporary_beside
from workers.store.scratch import scratch_directory

_PAGE = 1000  # MLflow runs per search request: 2.8 s on SQLite, and 15 s for 5,000 in all
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _StoredRun:
    """The MLflow run that the server has under a key."""

    key: str
    run_id: str
    name: str
    digest: str | None
    """None for an MLflow run without content: begun, or created as the parent of another."""
    status: str
    params: Mapping[str, str]
    parent_id: str | None


def _create_database(path: Path) -> None:
    """Creates an SQLite file with MLflow's tables, unless it exists.

    The file gets its name when it is whole. MLflow makes its tables in dozens of steps, and can
    never open a file that a killed publisher has left between two of them.
    """
    if path.exists():
        return
    with only_creator(path), temporary_beside(path) as temporary:
        root = artifact_root(path, study="Default")
        store = SqlAlchemyStore(database_uri(temporary), root)  # type: ignore[no-untyped-call]
        store.engine.dispose()
        link_if_absent(temporary, path)


class MlflowExperiment:
    """A study's MLflow experiment and the MLflow runs that were found in it.

    Not thread-safe. After a failed call it is unknown whether the server has the MLflow run, so
    the next call looks its key up before it creates anything. Otherwise a creation whose reply was
    lost would leave a second MLflow run.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._database = database_path(target.uri)
        if self._database is not None:
            _create_database(self._database)
            prepare_database(self._database)
            follow_move(self._database, beside=self._database)
            event.listen(Engine, "connect", _sync_rarely)
        self._client = MlflowClient(tracking_uri=target.uri)
        self._experiment_id: str | None = None
        self._stored: dict[str, _StoredRun] = {}
        self._in_doubt: set[str] = set()
        self._user = _user()

    def check(self) -> None:
        """Raises the client's error if the server does not answer."""
        self._client.get_experiment_by_name(self._target.study)

    def publish(self, run: MlflowRun) -> bool:
        """Writes an MLflow run; returns False if the server already has it with equal content.

        Texts that are too long for MLflow are cut.

        Raises:
            Exception: Any error of mlflow, requests or SQLAlchemy; the call can be repeated.
        """
        run = run.fitted()
        try:
            stored = self._find(run.key)
            parent_id = self._parent_id(run)
            wanted = (run.digest, run.status, parent_id)
            if (
                stored
                and (stored.digest, stored.status, stored.parent_id) == wanted
                and not self._lacks_files(run, stored=stored)
            ):
                return False
            self._stored[run.key] = self._write(run, stored=stored, parent_id=parent_id)
        except Exception:
            self._experiment_id = None
            self._stored.pop(run.key, None)
            self._in_doubt.update({run.key} | ({run.parent_key} if run.parent_key else set()))
            raise
        return True

    def delete_runs(self) -> int:
        """Deletes the study's MLflow runs; MLflow keeps them in its trash until `mlflow gc`.

        MLflow runs that others put into the experiment stay.

        Returns:
            The number of deleted MLflow runs.

        Raises:
            Exception: Any error of mlflow, requests or SQLAlchemy; the call can be repeated.
        """
        self._open()
        num_runs = len(self._stored)
        for key in [*self._stored]:
            self._client.delete_run(self._stored[key].run_id)
            del self._stored[key]
        return num_runs

    def _lacks_files(self, run: MlflowRun, *, stored: _StoredRun) -> bool:
        """Returns whether files of an MLflow run were deleted; never for those on a server."""
        if self._database is None or not run.artifacts:
            return False
        uri = self._client.get_run(stored.run_id).info.artifact_uri
        if not is_local_uri(uri):  # type: ignore[no-untyped-call]
            return False
        folder = Path(local_file_uri_to_path(uri))  # type: ignore[no-untyped-call]
        return not all(is_there(folder / path) for path in run.artifacts)

    def _write(
        self, run: MlflowRun, *, stored: _StoredRun | None, parent_id: str | None
    ) -> _StoredRun:
        """Writes the content, then the status: an interrupted write is repeated.

        A new MLflow run is created with its tags, digest included, which costs the server a third
        less than tags in the batch. It counts as written once it has its status too. One that stays
        RUNNING, or that changes, gets its digest after its artifacts, with the batch.
        """
        params = stored.params if stored else {}
        tags = mlflow_tags(run, stored_params=params)
        tags |= {MLFLOW_PARENT_RUN_ID: parent_id} if parent_id else {}
        if stored is None:
            last = {DIGEST_TAG} if run.status == "RUNNING" else set()
            first = {key: value for key, value in tags.items() if key not in last}
            run_id = self._create(run.key, run=run, tags=first)
            tags = {key: tags[key] for key in last}
        else:
            run_id = stored.run_id
        for path, content in run.artifacts.items():
            self._log_artifact(run_id, path=path, content=content)
        self._client.log_batch(
            run_id,
            metrics=[Metric(m.name, finite(m.value), m.timestamp_ms, m.step) for m in run.metrics],
            params=[Param(k, v) for k, v in run.params.items() if k not in params],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        if stored and stored.name != run.name:
            self._client.update_run(run_id, name=run.name)
        if run.status != "RUNNING":
            self._client.set_terminated(run_id, status=run.status, end_time=run.end_ms)
        elif stored and stored.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        return _StoredRun(
            key=run.key,
            run_id=run_id,
            name=run.name,
            digest=run.digest,
            status=run.status,
            params={**run.params, **params},
            parent_id=parent_id,
        )

    def _parent_id(self, run: MlflowRun) -> str | None:
        """Returns the id of the parent MLflow run; creates it if needed, its content may follow."""
        key = run.parent_key
        if key is None:
            return None
        stored = self._find(key)
        if stored is None:
            run_id = self._create(key, run=run, tags={})
            stored = _StoredRun(
                key=key,
                run_id=run_id,
                name=key,
                digest=None,
                status="RUNNING",
                params={},
                parent_id=None,
            )
            self._stored[key] = stored
        return stored.run_id

    def _create(self, key: str, *, run: MlflowRun, tags: dict[str, str]) -> str:
        """Creates the MLflow run of a key: `run` itself, or its parent with the same start time."""
        created: Run = self._client.create_run(
            self._open(),
            start_time=run.start_ms,
            tags={KEY_TAG: key, **({MLFLOW_USER: self._user} if self._user else {}), **tags},
            run_name=run.name if key == run.key else key,
        )
        run_id: str = created.info.run_id
        return run_id

    def _find(self, key: str) -> _StoredRun | None:
        experiment_id = self._open()
        if key in self._in_doubt:
            found = self._search(experiment_id, where=f"tags.`{KEY_TAG}` = '{key}'")
            self._stored.update(found)
            self._in_doubt.discard(key)
        return self._stored.get(key)

    def _search(self, experiment_id: str, *, where: str) -> dict[str, _StoredRun]:
        """Returns the MLflow runs that a search finds, by key; deletes duplicates of a key.

        A key can have two MLflow runs because MLflow restores an experiment together with all that
        was ever deleted in it, or because a driver was killed and another machine resumed the study
        before the first publisher had ended. One that was written to its end is preferred.
        """
        found: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [experiment_id], where, max_results=_PAGE, page_token=token
            )
            found += page
            if not (token := page.token):
                break
        stored: dict[str, _StoredRun] = {}
        for each in sorted(map(_stored_run, found), key=_is_begun):
            if each.key in stored:
                _log.warning("%s has two MLflow runs; deleting %s", each.key, each.run_id)
                self._client.delete_run(each.run_id)
            else:
                stored[each.key] = each
        return stored

    def _open(self) -> str:
        """Returns the experiment's id; creates or restores it and reads its MLflow runs once."""
        if self._experiment_id is not None:
            return self._experiment_id
        experiment_id = self._get_or_create()
        self._set_tags(experiment_id)
        if not self._stored:
            self._stored = self._search(experiment_id, where=f"tags.`{KEY_TAG}` != ''")
        self._experiment_id = experiment_id
        return experiment_id

    def _get_or_create(self) -> str:
        study = self._target.study
        found = self._client.get_experiment_by_name(study)
        if found is None:
            location = artifact_root(self._database, study=study) if self._database else None
            created: str = self._client.create_experiment(study, artifact_location=location)
            return created
        if found.lifecycle_stage == "deleted":
            _log.warning("MLflow experiment %r was deleted; restoring it", study)
            self._client.restore_experiment(found.experiment_id)
        experiment_id: str = found.experiment_id
        return experiment_id

    def _set_tags(self, experiment_id: str) -> None:
        """Sets the experiment's tags; keeps a description that a person has written.

        A tag that the server refuses is left out: it is only a view of the MLflow runs.
        """
        tags: dict[str, str] = self._client.get_experiment(experiment_id).tags
        for key, template in self._target.experiment_tags.items():
            value = template.replace(EXPERIMENT_ID, experiment_id)
            heading = value.partition(":")[0]
            foreign = key == NOTE_TAG and not tags.get(key, heading).startswith(heading)
            if tags.get(key) != value and not foreign:
                try:
                    self._client.set_experiment_tag(experiment_id, key, value)
                except MlflowException as error:
                    self.check()  # raises if the server is down
                    _log.warning("the experiment lacks the tag %s: %s", key, error)

    def _log_artifact(self, run_id: str, *, path: str, content: bytes) -> None:
        relative = PurePosixPath(path)
        folder = None if relative.parent == PurePosixPath() else str(relative.parent)
        with scratch_directory("mlflow") as scratch:
            local = scratch / relative.name
            local.write_bytes(content)
            self._client.log_artifact(run_id, str(local), artifact_path=folder)


def _sync_rarely(connection: object, _record: object) -> None:
    """Lets SQLite sync the disk now and then instead of at every commit, five times an MLflow run.

    In write-ahead mode this keeps the database whole. A power cut may lose the last seconds, which
    the store has too. A killed process loses nothing.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=NORMAL")


def _is_begun(run: _StoredRun) -> bool:
    """Returns whether an MLflow run lacks some of its content."""
    return run.digest is None or run.status == "RUNNING"


def _user() -> str:
    """Returns the name of the user who publishes; empty if the system has none for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _stored_run(run: Run) -> _StoredRun:
    return _StoredRun(
        key=run.data.tags[KEY_TAG],
        run_id=run.info.run_id,
        name=run.info.run_name,
        digest=run.data.tags.get(DIGEST_TAG),
        status=run.info.status,
        params=run.data.params,
        parent_id=run.data.tags.get(MLFLOW_PARENT_RUN_ID),
    )
