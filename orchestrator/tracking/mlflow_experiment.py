"""One MLflow experiment: the only file that imports mlflow, which takes 3.5 s.

Imported by the publisher process alone, never by the driver.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from orchestrator.tracking.database import artifact_root, database_path, prepare_database
from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import EXPERIMENT_ID, NOTE_TAG, Target

KEY_TAG = "mergesweep.key"
DIGEST_TAG = "mergesweep.digest"
INFINITE_TAG = "mergesweep.infinite"
CHANGED_PARAM_TAG = "mergesweep.changed_param."

_PAGE = 1000  # runs a search request: 2.8 s on SQLite, and 15 s for 5,000 runs in all
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the server holds under a key."""

    key: str
    run_id: str
    name: str
    digest: str | None
    """None for a run that was only begun, or made as a parent ahead of its own content."""
    status: str
    params: Mapping[str, str]
    parent_id: str | None


class MlflowExperiment:
    """A study's experiment and the runs found in it; opened once, then kept.

    Not thread-safe. A failed call leaves the server's state in doubt, so the next call for that
    run looks its key up before it creates anything: a creation whose reply was lost would
    otherwise leave a second run.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._database = database_path(target.uri)
        if self._database is not None:
            prepare_database(self._database)
        self._client = MlflowClient(tracking_uri=target.uri)
        self._experiment_id: str | None = None
        self._known: dict[str, _Known] = {}
        self._in_doubt: set[str] = set()

    def check(self) -> None:
        """Raises whatever the client raises if the server does not answer."""
        self._client.get_experiment_by_name(self._target.study)

    def publish(self, run: MlflowRun) -> bool:
        """Makes the server hold the run and tells whether anything had to be written.

        Raises:
            Exception: Anything mlflow, requests or SQLAlchemy raise; safe to call again.
        """
        try:
            known = self._find(run.key)
            parent_id = self._parent_id(run)
            wanted = (run.digest, run.status, parent_id)
            if known and (known.digest, known.status, known.parent_id) == wanted:
                return False
            self._known[run.key] = self._write(run, known=known, parent_id=parent_id)
        except Exception:
            self._experiment_id = None
            self._known.pop(run.key, None)
            self._in_doubt.update({run.key} | ({run.parent_key} if run.parent_key else set()))
            raise
        return True

    def delete_runs(self) -> int:
        """Deletes the study's runs, as the UI does: MLflow keeps them until its own collection.

        Returns:
            The number of runs deleted; runs that others put into the experiment stay.

        Raises:
            Exception: Anything mlflow, requests or SQLAlchemy raise; safe to call again.
        """
        self._open()
        num_runs = len(self._known)
        for key in [*self._known]:
            self._client.delete_run(self._known[key].run_id)
            del self._known[key]
        return num_runs

    def _write(self, run: MlflowRun, *, known: _Known | None, parent_id: str | None) -> _Known:
        """Writes the digest after the artifacts and the status last: what is cut off is redone."""
        parent = {MLFLOW_PARENT_RUN_ID: parent_id} if parent_id else {}
        run_id = known.run_id if known else self._create(run.key, run=run, tags=parent)
        held = known.params if known else {}
        for path, content in run.artifacts.items():
            self._log_artifact(run_id, path=path, content=content)
        tags = {**_tags(run, held=held), **parent}
        self._client.log_batch(
            run_id,
            metrics=[Metric(m.name, _finite(m.value), m.timestamp_ms, m.step) for m in run.metrics],
            params=[Param(k, v) for k, v in run.params.items() if k not in held],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        if known and known.name != run.name:
            self._client.update_run(run_id, name=run.name)
        if run.status != "RUNNING":
            self._client.set_terminated(run_id, status=run.status, end_time=run.end_ms)
        elif known and known.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        return _Known(
            key=run.key,
            run_id=run_id,
            name=run.name,
            digest=run.digest,
            status=run.status,
            params={**run.params, **held},
            parent_id=parent_id,
        )

    def _parent_id(self, run: MlflowRun) -> str | None:
        """Finds the parent's run, or begins it under its key: its own content may follow."""
        key = run.parent_key
        if key is None:
            return None
        known = self._find(key)
        if known is None:
            run_id = self._create(key, run=run, tags={})
            known = _Known(
                key=key,
                run_id=run_id,
                name=key,
                digest=None,
                status="RUNNING",
                params={},
                parent_id=None,
            )
            self._known[key] = known
        return known.run_id

    def _create(self, key: str, *, run: MlflowRun, tags: dict[str, str]) -> str:
        """Begins the run of a key: `run` itself, or its parent, which starts with it."""
        created: Run = self._client.create_run(
            self._open(),
            start_time=run.start_ms,
            tags={KEY_TAG: key, **tags},
            run_name=run.name if key == run.key else key,
        )
        run_id: str = created.info.run_id
        return run_id

    def _find(self, key: str) -> _Known | None:
        experiment_id = self._open()
        if key in self._in_doubt:
            found = self._search(experiment_id, where=f"tags.`{KEY_TAG}` = '{key}'")
            self._known.update(found)
            self._in_doubt.discard(key)
        return self._known.get(key)

    def _search(self, experiment_id: str, *, where: str) -> dict[str, _Known]:
        """Reads runs page by page; where a key has two, one stays, whole if there is such a one.

        Two arise when MLflow restores an experiment, with all that was ever deleted in it, or when
        a driver is killed and another machine goes on before its publisher has ended.
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
        known: dict[str, _Known] = {}
        for each in sorted(map(_as_known, found), key=lambda each: each.digest is None):
            if each.key in known:
                _log.warning("run %s is there twice; deleting run %s", each.key, each.run_id)
                self._client.delete_run(each.run_id)
            else:
                known[each.key] = each
        return known

    def _open(self) -> str:
        """Gets, restores or creates the experiment; reads its runs the first time."""
        if self._experiment_id is not None:
            return self._experiment_id
        experiment_id = self._get_or_create()
        self._describe(experiment_id)
        if not self._known:
            self._known = self._search(experiment_id, where=f"tags.`{KEY_TAG}` != ''")
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
            _log.warning("experiment %r was deleted in MLflow; restoring it", study)
            self._client.restore_experiment(found.experiment_id)
        experiment_id: str = found.experiment_id
        return experiment_id

    def _describe(self, experiment_id: str) -> None:
        """Sets the experiment's tags, but keeps a description that a person has written."""
        held: dict[str, str] = self._client.get_experiment(experiment_id).tags
        for key, template in self._target.experiment_tags.items():
            value = template.replace(EXPERIMENT_ID, experiment_id)
            heading = value.partition(":")[0]
            foreign = key == NOTE_TAG and not held.get(key, heading).startswith(heading)
            if held.get(key) != value and not foreign:
                self._client.set_experiment_tag(experiment_id, key, value)

    def _log_artifact(self, run_id: str, *, path: str, content: bytes) -> None:
        relative = PurePosixPath(path)
        folder = None if relative.parent == PurePosixPath() else str(relative.parent)
        with TemporaryDirectory() as scratch:
            local = Path(scratch) / relative.name
            local.write_bytes(content)
            self._client.log_artifact(run_id, str(local), artifact_path=folder)


def _as_known(run: Run) -> _Known:
    return _Known(
        key=run.data.tags[KEY_TAG],
        run_id=run.info.run_id,
        name=run.info.run_name,
        digest=run.data.tags.get(DIGEST_TAG),
        status=run.info.status,
        params=run.data.params,
        parent_id=run.data.tags.get(MLFLOW_PARENT_RUN_ID),
    )


def _tags(run: MlflowRun, *, held: Mapping[str, str]) -> dict[str, str]:
    """Adds what the UI filters by, and what a metric or a param could not hold."""
    changed = {k: v for k, v in run.params.items() if held.get(k, v) != v}
    if changed:
        _log.warning("run %s: params are immutable, so these became tags: %s", run.key, changed)
    infinite = [f"{m.name}@{m.step}={m.value}" for m in run.metrics if math.isinf(m.value)]
    return {
        **run.tags,
        **{f"{CHANGED_PARAM_TAG}{key}": value for key, value in changed.items()},
        **({INFINITE_TAG: " ".join(infinite)} if infinite else {}),
        "kind": run.kind,
        KEY_TAG: run.key,
        DIGEST_TAG: run.digest,
    }


def _finite(value: float) -> float:
    """Replaces infinities, which MLflow would store as 1.8e308 and draw, by NaN, which it omits."""
    return math.nan if math.isinf(value) else value
