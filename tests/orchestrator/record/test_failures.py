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


def failure(artifact_id: str = FIRST) -> Failure:
    return Failure(artifact_id=artifact_id, reason="OSError: gone", trace="Traceback ...")


def test_failure_is_tried_again_as_often_as_the_study_says(folder: StudyFolder) -> None:
    """Two retries are three tries; the answer to the last one gives up."""
    failures = Failures(folder, retries=2)
    assert [failures.note(failure()) is None for _ in range(3)] == [True, True, False]


def test_no_retries_give_up_at_once(folder: StudyFolder) -> None:
    """`retries: 0` means one try."""
    assert Failures(folder, retries=0).note(failure()) is not None


def test_tries_are_counted_for_each_artifact(folder: StudyFolder) -> None:
    """One trial's failures are not another's."""
    failures = Failures(folder, retries=1)
    assert failures.note(failure(FIRST)) is None
    assert failures.note(failure(OTHER)) is None
    assert failures.note(failure(FIRST)) is not None


def test_what_would_happen_again_is_not_tried_again(folder: StudyFolder) -> None:
    """A merge that is not finite stays so."""
    hopeless = Failures(folder, retries=5).note(failure(), is_final=True)
    assert hopeless is not None
    assert "tried 1x" in hopeless


def test_each_failure_is_kept_with_its_trace(folder: StudyFolder) -> None:
    """The message names the file, which has what the worker saw."""
    failures = Failures(folder, retries=1)
    failures.note(failure())
    hopeless = failures.note(failure())
    assert hopeless is not None
    assert "OSError: gone (tried 2x" in hopeless
    for number in (1, 2):
        content = folder.read_bytes(f"failure-{FIRST}-{number}.json")
        assert content is not None
        assert json.loads(content) == {
            "id": FIRST,
            "reason": "OSError: gone",
            "trace": "Traceback ...",
        }
    assert folder.location(f"failure-{FIRST}-2.json") in hopeless
    assert FIRST in hopeless
