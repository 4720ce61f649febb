import pytest

from eval.class_names import alike_names
from eval.suites import find_task, task_names


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "Cat"),
        ("ice cream", "ice_cream", "ice-cream", "IceCream", "ice - cream", "ice\u2013cream"),
        ("caf\u00e9", "cafe\u0301"),
        ("c\u0430t", "cat"),
        ("dog", "dog ", "dog\u200b", "\uff44\uff4f\uff47"),
        ("Ford F-150", "ford f150"),
        ("2 - 3", "2_3"),
    ],
)
def test_one_class_in_several_spellings_is_noticed(names: tuple[str, ...]) -> None:
    """Case, separators, Unicode's spellings and letters of other scripts make no difference."""
    assert alike_names(["newt", *names, "oak"]) == [names]


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "cats"),
        ("a", "A", "\u0410"),
        ("1-2", "12", "1 2 3"),
        ("-1", "1"),
        ("C", "C++", "C#"),
        ("A+", "A", "A-"),
        ("0", "O", "o"),
        ("shirt", "T-shirt"),
    ],
)
def test_other_classes_are_left_alone(names: tuple[str, ...]) -> None:
    """Plurals, characters, ranges, signs and grades are classes of their own."""
    assert alike_names(names) == []


def test_no_built_in_task_has_alike_names() -> None:
    """None of the embedded and published tasks is warned about."""
    assert [name for name in task_names() if alike_names(find_task(name).classes)] == []
