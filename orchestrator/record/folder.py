"""Reads and writes the files of a study's own folder, `studies/<name>/` in the store.

study.yaml                 the study file; plan.json has its digest
plan.json                  the plan
results.parquet, experts.parquet, report.html   the outputs; outputs.json has their digests
candidates.parquet         the table of a search, another output
outputs.json               written after the outputs, with the ids of all committed artifacts
calibration.json           measured speeds of devices, for estimates
external.json              scores of models of other tools (`orchestrator.record.external`)
unfinished.json            seconds spent on uncommitted trainings, for the budget
tracking.json              whether MLflow has everything
theory.json, theory-<table>.parquet   the theory tables and their digests (`orchestrator.theory`)
search-<n>.json            the decisions of a search (`orchestrator.search`), never rewritten
failure-<id>-<n>.json      the traceback of a failed try
<file>.<n>                 an earlier version of study.yaml or plan.json, of an edited study
withdrawn-<n>-<file>       a damaged file that `verify` took out

plan.json, outputs.json, calibration.json, external.json, unfinished.json and the decisions of a
search carry a checksum (`workers.artifacts.checksummed_json`).

LookupError
├── StudyNotFoundError    the store has no study of this name
└── StudyDamagedError     a file of the study, or the manifest of an artifact, is damaged
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eval.digests import sha256_of_bytes
from orchestrator.plan.export import plan_file
from orchestrator.plan.plan import Plan
from workers.artifacts.checksummed_json import DamagedJsonError, dump_checksummed, parse_checksummed
from workers.artifacts.layout import Layout
from workers.own_methods.loading import stored_file
from workers.specs.plan_file import PLAN_FILE, PlanFile, PlanFileError
from workers.store.protocol import NotFoundError, Store

STUDY_FILE = "study.yaml"
RESULTS_FILE = "results.parquet"
EXPERTS_FILE = "experts.parquet"
REPORT_FILE = "report.html"
CANDIDATES_FILE = "candidates.parquet"
TRACKING_FILE = "tracking.json"
CALIBRATION_FILE = "calibration.json"
UNFINISHED_FILE = "unfinished.json"
EXTERNAL_FILE = "external.json"


_INSIDE_A_STORE = re.compile(r"(.+)/studies(?:/[^/]+)?/?")
"""The path of a study's folder, or of that of all studies, in place of the store's."""


class StudyNotFoundError(LookupError):
    """The store has no study of this name; the message names those that it has."""

    def __init__(self, store: Store, name: str) -> None:
        names = ", ".join(study_names(store)) or "none"
        found = _INSIDE_A_STORE.fullmatch(store.url)
        hint = f"; the store is the folder above studies, {found[1]}" if found else ""
        super().__init__(f"{store.url} has no study {name!r}; studies there: {names}{hint}")


class StudyDamagedError(LookupError):
    """A file of a study or the manifest of an artifact is damaged.

    The message names the file and the command that shows and repairs the damage.
    """

    def __init__(self, damage: str, *, study: str, store_url: str) -> None:
        self.damage = damage
        super().__init__(
            f"study {study!r} in {store_url} is damaged: {damage}; list and repair the damage "
            f"with: mergesweep verify {study} --store {shlex.quote(store_url)}"
        )


class StudyFolder:
    """The folder of one study in a store.

    A study file may be edited and run again. The folder keeps the replaced study file and plan
    under numbered names.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    def read_study_and_plan(self) -> tuple[str, PlanFile | None]:
        """Returns the text of the study file that was run last, and its plan if there is one.

        Raises:
            StudyNotFoundError: The store has neither study file nor plan of this study.
            StudyDamagedError: The study file or the plan is damaged.
        """
        content, plan = self._find(STUDY_FILE), self.read_plan()
        if content is None and plan is None:
            raise StudyNotFoundError(self._store, self.name)
        problem = study_problem(content, plan=plan)
        if content is None or problem is not None:
            raise self.damaged(f"{STUDY_FILE} {problem}")
        return content.decode(), plan

    def read_plan(self) -> PlanFile | None:
        """Returns the plan that the study ran last; None if there is none.

        Raises:
            StudyDamagedError: The plan is damaged, or belongs to another study.
        """
        fields = self.read_checksummed(PLAN_FILE)
        try:
            return None if fields is None else PlanFile.from_json(fields)
        except PlanFileError as error:
            raise self.damaged(f"{PLAN_FILE} {error}") from error

    def write_plan(self, plan: Plan, *, study_text: str, has_grown: bool = False) -> None:
        """Writes the study file and the plan; keeps the replaced ones under numbered names.

        Files of users' methods come first, so that the store has everything that a plan names.

        Args:
            plan: The plan.
            study_text: The study file, as written.
            has_grown: Whether the plan has everything of the one that it replaces, which is then
                not kept: a search writes a plan for each decision, which has a file of its own.

        Raises:
            OwnMethodError: The store lacks the file of a method, and the study was opened by name.
        """
        for merge in plan.study.merge:
            sha256 = None if merge.own_method is None else merge.own_method.sha256
            if sha256 is not None and merge.own_file is not None:
                self._store.put(Layout.method(sha256), merge.own_file)
            elif sha256 is not None:
                stored_file(sha256, store=self._store)
        text = study_text.encode()
        file = replace(plan_file(plan), study_sha256=sha256_of_bytes(text))
        self._write_revision(STUDY_FILE, text)
        content = dump_checksummed(file.to_json())
        if has_grown:
            self.write_bytes(PLAN_FILE, content)
        else:
            self._write_revision(PLAN_FILE, content)

    def _write_revision(self, name: str, content: bytes) -> None:
        key = self._key(name)
        before = self._find(name)
        if before == content:
            return
        if before is not None:
            number = sum(1 for _ in self._store.list(f"{key}.")) + 1
            self._store.put(f"{key}.{number:04d}", before)
        self._store.put(key, content)

    def withdraw(self, name: str) -> None:
        """Renames a damaged file to `withdrawn-<n>-<name>`; does nothing if it is missing."""
        content = self._find(name)
        if content is None:
            return
        number = 1 + sum(1 for _ in self._store.list(self._key("withdrawn-")))
        self.write_bytes(f"withdrawn-{number:04d}-{name}", content)
        self._store.delete([self._key(name)])

    def damaged(self, damage: str) -> StudyDamagedError:
        """Returns the error for a damage of this study, such as `plan.json is not JSON`."""
        return StudyDamagedError(damage, study=self.name, store_url=self.store_url)

    def read_bytes(self, name: str) -> bytes | None:
        """Returns the content of a file, None if it is missing."""
        return self._find(name)

    def read_checksummed(self, name: str) -> dict[str, Any] | None:
        """Returns the fields of a checksummed JSON file, None if it is missing.

        Raises:
            StudyDamagedError: The checksum does not fit, or the file names another study.
        """
        content = self._find(name)
        if content is None:
            return None
        try:
            fields = parse_checksummed(content)
        except DamagedJsonError as error:
            raise self.damaged(f"{name} {error}") from error
        if fields.get("study") != self.name:
            raise self.damaged(f"{name} belongs to study {fields.get('study')!r}")
        return fields

    def write_bytes(self, name: str, content: bytes) -> None:
        """Writes or replaces a file."""
        self._store.put(self._key(name), content)

    def write_new(self, name: str, content: bytes) -> bool:
        """Writes a file unless it exists; returns whether it did not exist."""
        return self._store.put_if_absent(self._key(name), content)

    @property
    def store(self) -> Store:
        """The store."""
        return self._store

    @property
    def store_url(self) -> str:
        """The store's URL."""
        return self._store.url

    def location(self, name: str) -> str:
        """Returns the path or URL of a file."""
        url, mark, query = self._store.url, "", ""
        if url.startswith("s3://"):
            url, mark, query = url.partition("?")
        return f"{url.rstrip('/')}/{self._key(name)}{mark}{query}"

    def _find(self, name: str) -> bytes | None:
        try:
            return self._store.get(self._key(name))
        except NotFoundError:
            return None

    def _key(self, name: str) -> str:
        return Layout.study(self.name, name)


def study_names(store: Store) -> Sequence[str]:
    """Returns the names of all studies of a store, sorted."""
    keys = (Layout.parse_study_key(entry.key) for entry in store.list(Layout.studies()))
    return sorted({key.study for key in keys if key is not None and key.name == STUDY_FILE})


def study_problem(content: bytes | None, *, plan: PlanFile | None) -> str | None:
    """Returns the damage of a study file in words, None if there is none.

    Args:
        content: The study file; None if it is missing.
        plan: The stored plan, which has the digest; None leaves the digest unchecked.
    """
    if content is None:
        return "is missing"
    if plan is not None and sha256_of_bytes(content) != plan.study_sha256:
        return (
            f"does not match its digest in {PLAN_FILE}: damaged, or a run was stopped while it "
            "wrote an edited study"
        )
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"is not text: {error}"
    return None
