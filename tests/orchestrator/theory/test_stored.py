from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.record.folder import StudyFolder
from orchestrator.theory import stored
from orchestrator.theory.answers import Answers, compute_answers
from orchestrator.theory.stored import THEORY_FILE, store_answers, stored_answers, table_file
from workers.store.opening import open_store


def loss(index: int, _: str, __: str, task: str) -> float:
    return 1.0 + index + ord(task) / 100


@pytest.fixture
def results(make_results: Callable[..., pa.Table]) -> pa.Table:
    """Returns the result table of two settings."""
    return make_results({"lr": ("0.1", "0.2")}, loss=loss)


@pytest.fixture
def answers(results: pa.Table) -> Answers:
    """Returns the answers of the table."""
    return compute_answers(results, trainings="no images")


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """Returns a study's folder in an empty store."""
    return StudyFolder(open_store(f"{tmp_path}/store"), "small")


def test_stored_tables_come_back(folder: StudyFolder, answers: Answers, results: pa.Table) -> None:
    """All tables, with their types, while the result table is the same."""
    assert stored_answers(folder, results=results) is None
    store_answers(folder, answers, results=results)
    found = stored_answers(folder, results=results)
    assert found is not None
    assert found.tables == answers.tables


def test_tables_of_earlier_results_are_not_shown(
    folder: StudyFolder, answers: Answers, results: pa.Table
) -> None:
    """A merge more, and the stored answers no longer belong to the study's results."""
    store_answers(folder, answers, results=results)
    assert stored_answers(folder, results=results.slice(1)) is None


def test_tables_of_other_measurements_are_computed_again(
    folder: StudyFolder, answers: Answers, results: pa.Table
) -> None:
    """A report takes any of the same results; the command wants all that is measured by now."""
    store_answers(folder, answers, results=results, measured=("0" * 16,))
    assert stored_answers(folder, results=results) is not None
    assert stored_answers(folder, results=results, measured=("0" * 16,)) is not None
    assert stored_answers(folder, results=results, measured=()) is None


def test_tables_of_an_earlier_revision_are_computed_again(
    folder: StudyFolder, answers: Answers, results: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command computes what this release would say; a report keeps the chapter that it has."""
    store_answers(folder, answers, results=results)
    monkeypatch.setattr(stored, "REVISION", stored.REVISION + 1)
    assert stored_answers(folder, results=results) is not None
    assert stored_answers(folder, results=results, measured=()) is None


@pytest.mark.parametrize("name", [THEORY_FILE, table_file("laws")])
def test_damaged_tables_are_not_shown(
    name: str, folder: StudyFolder, answers: Answers, results: pa.Table
) -> None:
    """They are computed again in place of being trusted."""
    store_answers(folder, answers, results=results)
    folder.write_bytes(name, b"{}")
    assert stored_answers(folder, results=results) is None


def test_equal_answers_are_equal_bytes(
    folder: StudyFolder, answers: Answers, results: pa.Table
) -> None:
    """Storing them again changes no file."""
    store_answers(folder, answers, results=results)
    before = folder.read_bytes(THEORY_FILE)
    store_answers(folder, compute_answers(results, trainings="no images"), results=results)
    assert folder.read_bytes(THEORY_FILE) == before
