"""A study's own files in the store: its text, plan, tables and what tracking has seen of them.

study.yaml       the text; its digest stands in plan.json
plan.json        checksummed (`workers.artifacts.checksummed_json`)
results.parquet, experts.parquet, report.html    their digests stand in outputs.json
outputs.json     checksummed; written last, with what was committed then
calibration.json  checksummed; how fast devices were, for estimates
unfinished.json  checksummed; seconds spent on uncommitted trials, if there is a budget
tracking.json, failure-*.json, <name>.<n>, withdrawn-<n>-<name>    views and history

LookupError
├── StudyNotFoundError    the store holds no study of this name
└── StudyDamagedError     it does, and something of it is not as it was written
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eval.digests import sha256_of_bytes
from orchestrator.plan.export import plan_file
from orchestrator.plan.plan import Plan
from workers.artifacts.checksummed_json import DamagedJsonError, dump_checksummed, parse_checksummed
from workers.artifacts.layout import Layout
from workers.specs.plan_file import PLAN_FILE, PlanFile, PlanFileError
from workers.store.protocol import NotFoundError, Store

STUDY_FILE = "study.yaml"
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

    def write_plan(self, plan: Plan, *, study_text: str) -> None:
        """Writes the study's text and plan, keeping the ones that they replace."""
        text = study_text.encode()
        file = replace(plan_file(plan), study_sha256=sha256_of_bytes(text))
        self._write_revision(STUDY_FILE, text)
        self._write_revision(PLAN_FILE, dump_checksummed(file.to_json()))

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

    def read_checksummed(self, name: str) -> dict[str, Any] | None:
        """Returns the fields of one of the study's checksummed JSON files, None if it is not there.

        Raises:
            StudyDamagedError: It is not as it was written, or that of another study.
        """
        content = self._find(name)
        if content is None:
            return None
        try:
            fields = parse_checksummed(content)
        except DamagedJsonError as error:
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


def study_problem(content: bytes | None, *, plan: PlanFile | None) -> str | None:
    """Says what is wrong with a study's text; None if nothing is, or no plan says what it was."""
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
