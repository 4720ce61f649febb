"""A study's own files in the store: its text, plan, tables and what tracking has seen of them."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.groups import Group
from orchestrator.plan import Plan
from workers.layout import Layout
from workers.store.protocol import NotFoundError, Store

STUDY_FILE = "study.yaml"
PLAN_FILE = "plan.json"
RESULTS_FILE = "results.parquet"
EXPERTS_FILE = "experts.parquet"
REPORT_FILE = "report.html"
TRACKING_FILE = "tracking.json"


class StudyNotFoundError(LookupError):
    """The store holds no study of this name."""


class StudyFolder:
    """Reads and writes `studies/<name>/` in a store.

    A study's text may be edited and run again; the text and plan that it replaces are kept beside
    it under their digest.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    def read_study(self) -> str:
        """Returns the study's text as it was last run.

        Raises:
            StudyNotFoundError: No such study was run in this store.
        """
        try:
            return self._store.get(self._key(STUDY_FILE)).decode()
        except NotFoundError as error:
            names = ", ".join(study_names(self._store)) or "none"
            raise StudyNotFoundError(
                f"{self._store.url} holds no study {self.name!r}; studies there: {names}"
            ) from error

    def write_plan(self, plan: Plan, *, study_text: str) -> None:
        """Writes the study's text and plan, keeping the ones that they replace."""
        plan_text = json.dumps(plan_to_json(plan), indent=1, sort_keys=True)
        self._write_revision(STUDY_FILE, study_text.encode())
        self._write_revision(PLAN_FILE, plan_text.encode())

    def _write_revision(self, name: str, content: bytes) -> None:
        key = self._key(name)
        before = self._find(name)
        if before == content:
            return
        if before is not None:
            number = sum(1 for _ in self._store.list(f"{key}.")) + 1
            self._store.put(f"{key}.{number:04d}", before)
        self._store.put(key, content)

    def read_groups(self, *, drawn_from: dict[str, Any]) -> tuple[Group, ...] | None:
        """Returns the groups that the plan wrote down, if they were drawn from the same lists."""
        content = self._find(PLAN_FILE)
        if content is None:
            return None
        plan = json.loads(content)
        if plan["groups_drawn_from"] != drawn_from:
            return None
        groups = [Group(name=name, tasks=tuple(tasks)) for name, tasks in plan["groups"].items()]
        # As they were sampled: the file has them by name, where 2x100 stands before 2x11.
        return tuple(sorted(groups, key=lambda group: (group.size, len(group.name), group.name)))

    def write_tables(self, *, results: pa.Table, experts: pa.Table) -> None:
        """Writes the two result tables; equal tables give equal bytes."""
        self._store.put(self._key(RESULTS_FILE), _to_parquet(results))
        self._store.put(self._key(EXPERTS_FILE), _to_parquet(experts))

    def read_bytes(self, name: str) -> bytes | None:
        """Returns one of the study's files, None if it is not there."""
        return self._find(name)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Replaces one of the study's files."""
        self._store.put(self._key(name), content)

    @property
    def store_url(self) -> str:
        """Where the store is."""
        return self._store.url

    def location(self, name: str) -> str:
        """Returns where one of the study's files lies, a path or a URL."""
        return f"{self._store.url.rstrip('/')}/{self._key(name)}"

    def _find(self, name: str) -> bytes | None:
        try:
            return self._store.get(self._key(name))
        except NotFoundError:
            return None

    def _key(self, name: str) -> str:
        return Layout.study(self.name, name)


def study_names(store: Store) -> Sequence[str]:
    """Returns the names of the studies that were run in a store."""
    keys = (entry.key.split("/") for entry in store.list("studies/"))
    return sorted({parts[1] for parts in keys if parts[-1] == STUDY_FILE})


def groups_drawn_from(plan: Plan) -> dict[str, Any]:
    """Returns all that the sampling of groups depends on."""
    groups = plan.study.groups
    return {
        "tasks": sorted(plan.study.task_names),
        "sizes": sorted({group.size for group in plan.groups}),
        "count": groups.count,
        "seed": plan.study.seed if groups.seed is None else groups.seed,
    }


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Returns the whole plan as plain values: what runs, from what, under which ids."""
    return {
        "study": plan.study.name,
        "groups_drawn_from": groups_drawn_from(plan),
        "groups": {group.name: list(group.tasks) for group in plan.groups},
        "base": {"id": plan.base.spec.id, **asdict(plan.base.spec)},
        "data": {data.task: {"id": data.id, **asdict(data)} for data in plan.datasets},
        "trials": [
            {
                "id": trial.id,
                "snapshots": {str(expert.steps): expert.id for expert in trial.experts},
                "longest": asdict(trial.longest),
            }
            for trial in plan.trials
        ],
        "merges": {
            merge.id: {
                "method": merge.method,
                "params": dict(merge.params),
                "batch_norm": merge.batch_norm,
                "recalibration_images": merge.recalibration_images,
                "seed": merge.seed,
                "experts": [expert.id for expert in merge.experts],
                "held_out": [expert.id for expert in merge.held_out],
            }
            for merge in plan.merges.values()
        },
        "cells": [
            {
                "axis": cell.setting.axis,
                "value": cell.setting.value,
                "method": cell.label,
                "group": cell.group.name,
                "merge": cell.merge.id,
            }
            for cell in plan.cells
        ],
    }


def _to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
