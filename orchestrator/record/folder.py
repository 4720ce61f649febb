"""A study's own files in the store: its text, plan, tables and what tracking has seen of them.

study.yaml       the text; its digest stands in plan.json
plan.json        sealed (`workers.artifacts.sealed`)
results.parquet, experts.parquet, report.html    their digests stand in outputs.json
outputs.json     sealed; written last, with what was committed then
calibration.json  sealed; how fast devices were, for estimates
unfinished.json  sealed; seconds spent on trials that are not committed, where there is a budget
tracking.json, failure-*.json, <name>.<n>, withdrawn-<n>-<name>    views and history

LookupError
├── StudyNotFoundError    the store holds no study of this name
└── StudyDamagedError     it does, and something of it is not as it was written
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from eval.task_source import TaskSource, source_from_json, source_to_json
from orchestrator.plan.groups import Group
from orchestrator.plan.plan import Plan
from workers.artifacts.layout import Layout
from workers.artifacts.sealed import SealError, seal, unseal
from workers.store.protocol import NotFoundError, Store

STUDY_FILE = "study.yaml"
PLAN_FILE = "plan.json"
RESULTS_FILE = "results.parquet"
EXPERTS_FILE = "experts.parquet"
REPORT_FILE = "report.html"
TRACKING_FILE = "tracking.json"
CALIBRATION_FILE = "calibration.json"
UNFINISHED_FILE = "unfinished.json"


class StudyNotFoundError(LookupError):
    """The store holds no study of this name."""


class StudyDamagedError(LookupError):
    """Something of a study is not as it was written; the message has the command that mends it."""

    def __init__(self, what: str, *, study: str, store_url: str) -> None:
        self.what = what
        super().__init__(
            f"study {study!r} in {store_url} is damaged: {what}; see what is broken and mend it: "
            f"mergesweep verify {study} --store {shlex.quote(store_url)}"
        )


class StudyFolder:
    """Reads and writes `studies/<name>/` in a store.

    A study's text may be edited and run again; the text and plan that it replaces are kept beside
    it under a number.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    def read_study(self) -> str:
        """Returns the study's text as it was last run.

        Raises:
            StudyNotFoundError: No such study was run in this store.
            StudyDamagedError: The text or the plan is not as it was written.
        """
        content, plan = self._find(STUDY_FILE), self.read_plan()
        if content is None and plan is None:
            names = ", ".join(study_names(self._store)) or "none"
            raise StudyNotFoundError(
                f"{self._store.url} holds no study {self.name!r}; studies there: {names}"
            )
        problem = study_problem(content, plan=plan)
        if content is None or problem is not None:
            raise self.damaged(f"{STUDY_FILE} {problem}")
        return content.decode()

    def read_plan(self) -> dict[str, Any] | None:
        """Returns the plan as `plan_to_json` gave it, None if there is none.

        Raises:
            StudyDamagedError: It is not as it was written, or that of another study.
        """
        return self.read_sealed(PLAN_FILE)

    def write_plan(self, plan: Plan, *, study_text: str) -> None:
        """Writes the study's text and plan, keeping the ones that they replace."""
        text = study_text.encode()
        fields = {**plan_to_json(plan), "study_sha256": hashlib.sha256(text).hexdigest()}
        self._write_revision(STUDY_FILE, text)
        self._write_revision(PLAN_FILE, seal(fields))

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
        """Returns the groups that the plan wrote down, if they were drawn from the same lists.

        Raises:
            StudyDamagedError: The plan is not as it was written.
        """
        plan = self.read_plan()
        if plan is None or plan["groups_drawn_from"] != drawn_from:
            return None
        groups = [Group(name=name, tasks=tuple(tasks)) for name, tasks in plan["groups"].items()]
        # As they were sampled: the file has them by name, where 2x100 stands before 2x11.
        return tuple(sorted(groups, key=lambda group: (group.size, len(group.name), group.name)))

    def read_own_tasks(self) -> dict[str, TaskSource]:
        """Returns the study's own tasks as the plan found them; empty where there is no plan.

        Raises:
            StudyDamagedError: The plan is not as it was written.
        """
        written = (self.read_plan() or {}).get("sources", {})
        return {
            name: source_from_json(name, values)
            for name, values in written.items()
            if values["own"] is not None
        }

    def withdraw(self, name: str) -> None:
        """Takes a broken file of the study out, and keeps it under another name."""
        content = self._find(name)
        if content is None:
            return
        number = 1 + sum(1 for _ in self._store.list(self._key("withdrawn-")))
        self.write_bytes(f"withdrawn-{number:04d}-{name}", content)
        self._store.delete([self._key(name)])

    def damaged(self, what: str) -> StudyDamagedError:
        """Returns the error that says what of this study is damaged."""
        return StudyDamagedError(what, study=self.name, store_url=self.store_url)

    def read_bytes(self, name: str) -> bytes | None:
        """Returns one of the study's files, None if it is not there."""
        return self._find(name)

    def read_sealed(self, name: str) -> dict[str, Any] | None:
        """Returns the fields of one of the study's sealed files, None if it is not there.

        Raises:
            StudyDamagedError: It is not as it was written, or that of another study.
        """
        content = self._find(name)
        if content is None:
            return None
        try:
            fields = unseal(content)
        except SealError as error:
            raise self.damaged(f"{name} {error}") from error
        if fields.get("study") != self.name:
            raise self.damaged(f"{name} is that of study {fields.get('study')!r}")
        return fields

    def write_bytes(self, name: str, content: bytes) -> None:
        """Replaces one of the study's files."""
        self._store.put(self._key(name), content)

    @property
    def store_url(self) -> str:
        """Where the store is."""
        return self._store.url

    def location(self, name: str) -> str:
        """Returns where one of the study's files lies, a path or a URL."""
        url, mark, server = self._store.url, "", ""
        if url.startswith("s3://"):
            url, mark, server = url.partition("?")
        return f"{url.rstrip('/')}/{self._key(name)}{mark}{server}"

    def _find(self, name: str) -> bytes | None:
        try:
            return self._store.get(self._key(name))
        except NotFoundError:
            return None

    def _key(self, name: str) -> str:
        return Layout.study(self.name, name)


def study_names(store: Store) -> Sequence[str]:
    """Returns the names of the studies that were run in a store."""
    keys = (Layout.parse_study_key(entry.key) for entry in store.list(Layout.studies()))
    return sorted({key.study for key in keys if key is not None and key.name == STUDY_FILE})


def study_problem(content: bytes | None, *, plan: Mapping[str, Any] | None) -> str | None:
    """Says what is wrong with a study's text; None if nothing is, or no plan says what it was."""
    if content is None:
        return "is missing"
    if plan is not None and hashlib.sha256(content).hexdigest() != plan["study_sha256"]:
        return (
            f"does not match its digest in {PLAN_FILE}: damaged, or a run was stopped while it "
            "wrote an edited study"
        )
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"is not text: {error}"
    return None


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
        "bases": plan.bases.to_json(),
        "heads": {job.spec.id: asdict(job.spec) for job in plan.heads.values()},
        "data": {data.task: {"id": data.id, **asdict(data)} for data in plan.datasets},
        "sources": {name: source_to_json(source) for name, source in plan.sources.items()},
        "trials": [
            {
                "id": trial.id,
                "snapshots": {
                    str(steps): expert.id
                    for steps, expert in zip(trial.snapshots, trial.experts, strict=True)
                },
                "longest": trial.longest.to_json(),
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
                "base_id": merge.base_id,
                "surgery": None if merge.surgery is None else asdict(merge.surgery),
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
