import pytest

from orchestrator.cli.verbs.submit import _reason
from orchestrator.cluster.submission import Submission, attempt_of, newest_of, submission_id


def submission(study: str = "tiny", *, attempt: int = 1, **changes: object) -> Submission:
    fields = {
        "id": submission_id(study, attempt=attempt),
        "study": study,
        "attempt": attempt,
        "store_url": "s3://bucket/prefix",
        "state": "FAILED",
        "message": "",
        "exit_code": 1,
        **changes,
    }
    return Submission(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("study", ["tiny", "tiny-2", "a.b_c-10-3"])
def test_attempt_is_told_from_a_study_that_ends_in_a_number(study: str) -> None:
    """Names may end in dashes and digits."""
    assert attempt_of(submission_id(study, attempt=12), study=study) == 12
    assert attempt_of(submission_id(f"{study}-1", attempt=12), study=study) is None


def test_newest_is_the_highest_attempt() -> None:
    """Attempts are compared as numbers; other studies do not count."""
    found = [submission(attempt=n) for n in (2, 10, 9)] + [submission("other", attempt=99)]
    assert newest_of(found, study="tiny") == found[1]
    assert newest_of(found, study="none") is None


def test_reason_is_one_line_with_every_problem() -> None:
    """The job's own findings come first, then those of the shell, Python or Ray."""
    log = "Running entrypoint\nerror: on node a: not installed: timm\nerror: on node b: no x\n"
    assert _reason(submission(exit_code=2), log=log) == (
        "tiny-1: on node a: not installed: timm; on node b: no x"
    )
    shell = "sh: 1: exec: python: not found"
    assert "no `python`" in _reason(submission(exit_code=127), log=shell)
    lacking = "/usr/bin/python: (ModuleNotFoundError: No module named 'orchestrator')"
    assert "mergesweep is not installed" in _reason(submission(), log=lacking)
    assert _reason(submission(message="runtime_env\nsetup failed"), log="") == (
        "tiny-1 ended before it began: runtime_env setup failed"
    )
    assert "was stopped" in _reason(submission(state="STOPPED", exit_code=None), log="")
