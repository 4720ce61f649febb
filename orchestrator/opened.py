"""A study together with its store: its plan, and what of it exists already."""

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.ledger import Ledger
from orchestrator.plan import Plan, build_plan, plan_digest
from orchestrator.reading import absolute_store, parse_study
from orchestrator.study import Study
from orchestrator.study_folder import TRACKING_FILE, StudyFolder, groups_drawn_from
from orchestrator.tracking.tracker import PublishReport
from workers.artifacts import Artifacts
from workers.manifests import Manifest
from workers.store.opening import open_store


@dataclass(frozen=True, kw_only=True)
class OpenedStudy:
    """Everything that commands on a study start from."""

    plan: Plan
    ledger: Ledger
    text: str
    """The study file, as written."""
    folder: StudyFolder
    artifacts: Artifacts
    store_url: str
    """Absolute, so that workers in other directories find it."""
    tracking_uri: str
    base: Manifest | None
    """The base's manifest, if it is committed."""
    prepared: frozenset[str]
    """Ids of the base and the images that are committed."""

    def note_published(self, report: PublishReport) -> None:
        """Remembers that MLflow has everything, so that the next run need not ask it."""
        if report.num_pending == 0:
            content = {"uri": self.tracking_uri, "content": self._content_digest()}
            self.folder.write_bytes(TRACKING_FILE, json.dumps(content).encode())

    def is_published(self) -> bool:
        """Tells whether MLflow had everything that is committed when a run last ended."""
        content = self.folder.read_bytes(TRACKING_FILE)
        if content is None:
            return False
        expected = {"uri": self.tracking_uri, "content": self._content_digest()}
        return bool(json.loads(content) == expected)

    def _content_digest(self) -> str:
        counts = self.ledger.counts()
        return f"{plan_digest(self.plan)} {counts.num_experts_done} {counts.num_merges_done}"


def open_study(study: Study, *, text: str) -> OpenedStudy:
    """Opens a study's store and reads what it has of the plan; writes nothing.

    Args:
        study: A checked study.
        text: The study file, as written.

    Raises:
        StoreError: The store fails while it is read.
    """
    store_url = absolute_store(study.store)
    store = open_store(store_url)
    artifacts, folder = Artifacts(store), StudyFolder(store, study.name)
    plan = build_plan(study)
    groups = folder.read_groups(drawn_from=groups_drawn_from(plan))
    if groups is not None and groups != plan.groups:
        plan = build_plan(study, groups=groups)
    experts = artifacts.committed_ids("expert") & plan.experts.keys()
    merges = artifacts.committed_ids("merge") & plan.merges.keys()
    manifests = [
        *artifacts.find_all("expert", sorted(experts)).values(),
        *artifacts.find_all("merge", sorted(merges)).values(),
    ]
    prepared = {data.id for data in plan.datasets} & artifacts.committed_ids("data")
    base = artifacts.find("base", plan.base.spec.id)
    return OpenedStudy(
        plan=plan,
        ledger=Ledger(plan, manifests=manifests),
        text=text,
        folder=folder,
        artifacts=artifacts,
        store_url=store_url,
        tracking_uri=tracking_uri(study, store_url=store_url),
        base=base,
        prepared=frozenset(prepared | ({base.id} if base else set())),
    )


def open_by_name(name: str, *, store_url: str) -> OpenedStudy:
    """Opens a study from its store alone.

    Raises:
        StudyNotFoundError: The store holds no study of this name.
        StudyError: What the store holds under the name is no study that this release can run.
        StoreError: The store cannot be read.
    """
    location = absolute_store(store_url)
    text = StudyFolder(open_store(location), name).read_study()
    study = parse_study(text, source=f"{name} in {store_url}", store=location)
    return open_study(study, text=text)


def tracking_uri(study: Study, *, store_url: str) -> str:
    """Returns where MLflow keeps the study's runs: as the study says, or beside the store."""
    if study.tracking is not None:
        return study.tracking
    parts = urlsplit(store_url)
    folder = Path.cwd() if parts.scheme == "s3" else Path(parts.path)
    return f"sqlite:///{folder / 'mlflow.db'}"
