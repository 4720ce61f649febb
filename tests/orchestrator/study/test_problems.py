import pytest

from orchestrator.study.problems import StudyError, StudyProblem, suggest


def problem(field: str) -> StudyProblem:
    return StudyProblem(field=field, value="-1", allowed="1 or more")


def test_error_names_the_source_and_one_line_per_problem() -> None:
    """A user reads which file, how many problems, and each on a line of its own."""
    error = StudyError("a.yaml", problems=[problem("steps"), problem("lr")])
    assert str(error).splitlines() == [
        "a.yaml: 2 problems",
        "  steps: -1 is not allowed; 1 or more",
        "  lr: -1 is not allowed; 1 or more",
    ]


def test_one_problem_is_said_in_the_singular() -> None:
    """The count is grammatical."""
    assert str(StudyError("a.yaml", problems=[problem("lr")])).startswith("a.yaml: 1 problem\n")


@pytest.mark.parametrize(
    ("wrong", "start"), [("tiess", "did you mean 'ties'? known: average, ties"), ("x", "known:")]
)
def test_only_a_close_name_is_suggested(wrong: str, start: str) -> None:
    """A wild guess would send the user astray; the known names always follow."""
    assert suggest(wrong, known=["average", "ties"]).startswith(start)
