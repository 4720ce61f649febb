import pytest

from orchestrator.study.problems import (
    StudyError,
    StudyProblem,
    as_written,
    suggest,
    wrong_value,
)


def problem(field: str) -> StudyProblem:
    return StudyProblem(field=field, fault="-1 is not allowed", remedy="expected 1 or more")


def test_error_names_the_source_and_one_line_per_problem() -> None:
    """The error names the file and the number of problems, and has one line per problem."""
    error = StudyError("a.yaml", problems=[problem("steps"), problem("lr")])
    assert str(error).splitlines() == [
        "a.yaml: 2 problems",
        "  steps: -1 is not allowed; expected 1 or more",
        "  lr: -1 is not allowed; expected 1 or more",
    ]


@pytest.mark.parametrize("count", [9, 10, 40])
def test_every_problem_is_said_in_at_most_ten_lines(count: int) -> None:
    """However many problems a file has, the message has all of them, in ten lines."""
    problems = [problem(f"tasks.own.task{index}") for index in range(count)]
    message = str(StudyError("a.yaml", problems=problems))
    first, *lines = message.splitlines()
    assert first == f"a.yaml: {count} problems"
    assert len(lines) == min(count, 9)
    said = [text.strip() for line in lines for text in line.split(" | ")]
    assert said == [str(each) for each in problems]


def test_problems_of_the_same_task_share_a_line_first() -> None:
    """Neighbours with the most of their field in common are the first to share a line."""
    fields = [
        "name",
        "store",
        "tasks.own.a.train",
        "tasks.own.a.test",
        "tasks.own.b",
        "groups.size",
    ]
    fields += ["groups.count", "merge[0].density", "merge[1].density", "tracking"]
    lines = str(StudyError("a.yaml", problems=[problem(field) for field in fields])).splitlines()
    assert [line for line in lines if " | " in line] == [
        f"  {problem(fields[2])} | {problem(fields[3])}"
    ]


def test_one_problem_is_said_in_the_singular() -> None:
    """One problem is not counted as `1 problems`."""
    assert str(StudyError("a.yaml", problems=[problem("lr")])).startswith("a.yaml: 1 problem\n")


@pytest.mark.parametrize(
    ("field", "values", "written"),
    [
        ("tasks.suite", {"tasks": "embedded9"}, "tasks"),
        ("tasks.names[1]", {"tasks": ["a", "b"]}, "tasks[1]"),
        ("tasks.names[1]", {"tasks": {"names": ["a", "b"]}}, "tasks.names[1]"),
        ("finetune.head.mode", {"finetune": {"head": "x"}}, "finetune.head"),
        ("finetune.axes.head[0]", {"finetune": {"axes": {"head": ["x"]}}}, "finetune.axes.head[0]"),
        ("merge[0].density", {"merge": [{"density": 2}]}, "merge[0].density"),
        ("tasks.own.[x]..y", {"tasks": {"own": {"[x]..y": {}}}}, "tasks.own.[x]..y"),
        ("budget.usd", {}, "budget.usd"),
    ],
)
def test_a_field_is_named_as_the_file_writes_it(
    field: str, values: dict[str, object], written: str
) -> None:
    """A short form has no name of the schema; names that a user chose stay as they are."""
    assert as_written(field, values) == written


def test_a_problem_is_one_line_whatever_names_it_quotes() -> None:
    """A path may contain a line feed, and a terminal's control characters."""
    problem = StudyProblem(field="tasks.own.a", fault="wrong", remedy="/a\n\x1b[31m has no train")
    assert str(problem) == r"tasks.own.a: wrong; /a\n\x1b[31m has no train"


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ("tiess", "did you mean 'ties'? Known methods: average, ties"),
        ("TIES", "did you mean 'ties'? Known methods: average, ties"),
        ("x", "known methods: average, ties"),
    ],
)
def test_only_a_close_name_is_suggested(wrong: str, remedy: str) -> None:
    """A dissimilar name is not suggested; the known names always follow."""
    assert suggest(wrong, known=["average", "ties"], kind="methods") == remedy


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (None, "null"), ("true", "'true'"), (1e-4, "0.0001"), ([1, 2], "[1, 2]")],
)
def test_value_is_shown_as_the_file_spells_it(value: object, text: str) -> None:
    """Python's True and None are not words of YAML."""
    problem = wrong_value("seed", value, remedy="expected 0 or more")
    assert str(problem) == f"seed: {text} is not allowed; expected 0 or more"
