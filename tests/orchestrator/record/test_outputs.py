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


class NotedStore:
    """Notes the keys in the order in which they are written."""

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
def directory(tmp_path_factory: pytest.TempPathFactory) -> NotedStore:
    return NotedStore(open_store(str(tmp_path_factory.mktemp("store"))))


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


def test_tables_are_written_byte_for_byte_the_same(
    folder: StudyFolder, committed: Committed
) -> None:
    """Equal tables are equal files, and a reader gets the table back."""
    written: list[list[bytes | None]] = []
    for _ in range(2):
        write(folder, committed)
        names = (RESULTS_FILE, EXPERTS_FILE, REPORT_FILE, OUTPUTS_FILE)
        written.append([folder.read_bytes(name) for name in names])
    assert written[0] == written[1]
    table: pa.Table = pq.read_table(io.BytesIO(written[0][0] or b""))
    assert table.equals(results_table(committed))


def test_digests_are_written_last(
    folder: StudyFolder, directory: NotedStore, committed: Committed
) -> None:
    """A run that is stopped before leaves outputs that do not match, and the next writes all."""
    write(folder, committed)
    assert directory.written[-1] == OUTPUTS_FILE
    assert sorted(directory.written[:-1]) == [EXPERTS_FILE, REPORT_FILE, RESULTS_FILE]


def test_whole_outputs_and_none_at_all_have_no_problem(
    folder: StudyFolder, committed: Committed
) -> None:
    """A study that never ended has nothing to compare."""
    assert output_problems(folder) == {}
    assert promised_artifacts(folder) == {}
    write(folder, committed)
    assert output_problems(folder) == {}


def test_what_was_committed_is_remembered(folder: StudyFolder, committed: Committed) -> None:
    """By kind; of damaged outputs nothing is believed."""
    write(folder, committed)
    experts = frozenset(committed.experts)
    assert promised_artifacts(folder) == {"expert": experts, "base": {"0" * 16}}
    folder.write_bytes(OUTPUTS_FILE, (folder.read_bytes(OUTPUTS_FILE) or b"")[:-1])
    assert promised_artifacts(folder) == {}


@pytest.mark.parametrize("name", [RESULTS_FILE, EXPERTS_FILE, REPORT_FILE])
def test_changed_output_does_not_match_its_digest(
    folder: StudyFolder, committed: Committed, name: str
) -> None:
    """It alone is named."""
    write(folder, committed)
    folder.write_bytes(name, b"changed")
    assert output_problems(folder) == {name: "does not match its digest in outputs.json"}


def test_lost_outputs_are_named(
    folder: StudyFolder, directory: NotedStore, committed: Committed
) -> None:
    """One that is gone; and the digests, as long as anything is left that they were of."""
    write(folder, committed)
    directory.delete([f"studies/small/{REPORT_FILE}"])
    assert output_problems(folder) == {REPORT_FILE: "is missing"}
    directory.delete([f"studies/small/{OUTPUTS_FILE}"])
    problem = output_problems(folder)[OUTPUTS_FILE]
    assert problem.startswith(f"is missing beside {RESULTS_FILE}, {EXPERTS_FILE}: ")


def test_outputs_of_another_study_are_refused(
    folder: StudyFolder, directory: NotedStore, committed: Committed
) -> None:
    """A folder copied under another name says so."""
    write(StudyFolder(directory, "other"), committed)
    for name in (RESULTS_FILE, EXPERTS_FILE, REPORT_FILE, OUTPUTS_FILE):
        folder.write_bytes(name, directory.get(f"studies/other/{name}"))
    assert output_problems(folder) == {OUTPUTS_FILE: "is that of study 'other'"}
