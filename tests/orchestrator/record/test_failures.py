import json
from pathlib import Path

import pytest

from orchestrator.record.failures import Failure, Failures
from orchestrator.record.folder import StudyFolder
from workers.store.opening import open_store

FIRST, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(open_store(str(tmp_path)), "small")


def failure(artifact_id: str = FIRST, *, reason: str = "OSError: gone") -> Failure:
    return Failure(artifact_id=artifact_id, reason=reason, trace="Traceback ...")


def test_job_is_tried_again_as_often_as_the_study_allows(folder: StudyFolder) -> None:
    """Two retries are three tries; there is no retry after the last one."""
    failures = Failures(folder, retries=2)
    reasons = ("OSError: gone", "OSError: away", "OSError: lost")
    notes = [failures.note(failure(reason=reason)) for reason in reasons]
    assert [note is None for note in notes] == [True, True, False]
    assert "OSError: lost (tried 3x; " in str(notes[-1])


@pytest.mark.parametrize(
    "reasons",
    [
        ("OSError: gone", "OSError: gone"),
        ("OSError: gone", "TimeoutError: slow", "OSError: gone"),
        ("OSError: <_io.BytesIO object at 0x7f12ab>", "OSError: <_io.BytesIO object at 0x7e00>"),
    ],
)
def test_same_error_again_ends_the_tries(folder: StudyFolder, reasons: tuple[str, ...]) -> None:
    """No further try can mend it, and the reason says why there is none."""
    failures = Failures(folder, retries=9)
    *earlier, last = [failures.note(failure(reason=reason)) for reason in reasons]
    assert earlier == [None] * len(earlier)
    assert f"{reasons[-1]} (tried {len(reasons)}x, the same error again; traceback: " in str(last)


def test_other_message_or_other_type_is_another_error(folder: StudyFolder) -> None:
    """Deaths of worker processes name the process, so each of them has its try."""
    failures = Failures(folder, retries=9)
    for reason in ("OSError: a", "OSError: b", "ValueError: a", "ActorDiedError: pid 1"):
        assert failures.note(failure(reason=reason)) is None


def test_without_retries_the_first_failure_is_final(folder: StudyFolder) -> None:
    """`retries: 0` allows one try."""
    assert Failures(folder, retries=0).note(failure()) is not None


def test_tries_are_counted_for_each_job(folder: StudyFolder) -> None:
    """A failure of one trial takes no try from another."""
    failures = Failures(folder, retries=1)
    assert failures.note(failure(FIRST)) is None
    assert failures.note(failure(OTHER)) is None
    assert failures.note(failure(FIRST)) is not None


def test_final_failure_is_not_tried_again(folder: StudyFolder) -> None:
    """A merge that is not finite would be the same again, whatever the number of retries."""
    final = Failures(folder, retries=5).note(failure(), is_final=True)
    assert final is not None
    assert "tried 1x, as it would fail again; " in final


def test_each_failure_is_stored_with_its_traceback(folder: StudyFolder) -> None:
    """The reason names the file of the last one and the command that runs the job by hand."""
    failures = Failures(folder, retries=1)
    failures.note(failure())
    final = failures.note(failure())
    assert final is not None
    assert "OSError: gone (tried 2x" in final
    for number in (1, 2):
        content = folder.read_bytes(f"failure-{FIRST}-{number}.json")
        assert content is not None
        assert json.loads(content) == {
            "id": FIRST,
            "reason": "OSError: gone",
            "trace": "Traceback ...",
        }
    assert folder.location(f"failure-{FIRST}-2.json") in final
    assert f"python -m workers.run {FIRST} --store {folder.store_url}" in final
