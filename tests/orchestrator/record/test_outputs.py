import io
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.record.folder import EXPERTS_FILE, REPORT_FILE, RESULTS_FILE, StudyFolder
from orchestrator.record.ledger import Ledger
from orchestrator.record.outputs import (
    OUTPUTS_FILE,
    output_problems,
    promised_artifacts,
    store_outputs,
)
from orchestrator.results.rows import experts_table, results_table
from workers.artifacts.manifests import Manifest
from workers.store.opening import open_store
from workers.store.protocol import Store


class RecordingStore:
    """A store that records the names of written files in their order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.written: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def put(self, key: str, content: bytes) -> None:
        """Writes an object."""
        self.written.append(key.rpartition("/")[2])
        self._store.put(key, content)


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> RecordingStore:
    return RecordingStore(open_store(str(tmp_path_factory.mktemp("store"))))


@pytest.fixture
def folder(directory: Store) -> StudyFolder:
    return StudyFolder(directory, "small")


@pytest.fixture
def committed(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> Committed:
    """Returns all artifacts of a finished study."""
    plan = make_plan()
    return Ledger(plan, manifests=all_manifests(plan)).committed()


def write(folder: StudyFolder, committed: Committed) -> None:
    store_outputs(
        folder,
        results=results_table(committed),
        experts=experts_table(committed),
        page="<html>",
        committed={"expert": committed.experts, "base": {"0" * 16}},
    )


def test_equal_outputs_are_equal_bytes(folder: StudyFolder, committed: Committed) -> None:
    """A second run writes the same files, and a table is read back unchanged."""
    written: list[list[bytes | None]] = []
    for _ in range(2):
        write(folder, committed)
        names = (RESULTS_FILE, EXPERTS_FILE, REPORT_FILE, OUTPUTS_FILE)
        written.append([folder.read_bytes(name) for name in names])
    assert written[0] == written[1]
    table: pa.Table = pq.read_table(io.BytesIO(written[0][0] or b""))
    assert table.equals(results_table(committed))


def test_digests_are_written_last(
    folder: StudyFolder, directory: RecordingStore, committed: Committed
) -> None:
    """After an interrupted write the digests do not match, so the next run writes again."""
    write(folder, committed)
    assert directory.written[-1] == OUTPUTS_FILE
    assert sorted(directory.written[:-1]) == [EXPERTS_FILE, REPORT_FILE, RESULTS_FILE]


def test_complete_outputs_and_no_outputs_are_undamaged(
    folder: StudyFolder, committed: Committed
) -> None:
    """A study that never ended has no outputs to check."""
    assert output_problems(folder) == {}
    assert promised_artifacts(folder) == {}
    write(folder, committed)
    assert output_problems(folder) == {}


def test_ids_of_committed_artifacts_are_read_back(
    folder: StudyFolder, committed: Committed
) -> None:
    """By kind. A damaged outputs.json gives no ids."""
    write(folder, committed)
    experts = frozenset(committed.experts)
    assert promised_artifacts(folder) == {"expert": experts, "base": {"0" * 16}}
    folder.write_bytes(OUTPUTS_FILE, (folder.read_bytes(OUTPUTS_FILE) or b"")[:-1])
    assert promised_artifacts(folder) == {}


@pytest.mark.parametrize("name", [RESULTS_FILE, EXPERTS_FILE, REPORT_FILE])
def test_changed_output_does_not_match_its_digest(
    folder: StudyFolder, committed: Committed, name: str
) -> None:
    """Only the changed file is named."""
    write(folder, committed)
    folder.write_bytes(name, b"changed")
    assert output_problems(folder) == {name: "does not match its digest in outputs.json"}


def test_missing_outputs_are_named(
    folder: StudyFolder, directory: RecordingStore, committed: Committed
) -> None:
    """A missing file, and missing digests as long as any output is left."""
    write(folder, committed)
    directory.delete([f"studies/small/{REPORT_FILE}"])
    assert output_problems(folder) == {REPORT_FILE: "is missing"}
    directory.delete([f"studies/small/{OUTPUTS_FILE}"])
    problem = output_problems(folder)[OUTPUTS_FILE]
    assert problem.startswith(f"is missing beside {RESULTS_FILE}, {EXPERTS_FILE}: ")


def test_outputs_of_another_study_are_refused(
    folder: StudyFolder, directory: RecordingStore, committed: Committed
) -> None:
    """A folder that was copied under another name is a damage."""
    write(StudyFolder(directory, "other"), committed)
    for name in (RESULTS_FILE, EXPERTS_FILE, REPORT_FILE, OUTPUTS_FILE):
        folder.write_bytes(name, directory.get(f"studies/other/{name}"))
    assert output_problems(folder) == {OUTPUTS_FILE: "belongs to study 'other'"}
