from pathlib import Path

import pytest

from orchestrator.advice.candidate_file import read_candidates
from orchestrator.study.problems import StudyError


def test_axes_are_read_as_in_a_study_file(tmp_path: Path) -> None:
    """Numbers are those of YAML 1.2."""
    path = tmp_path / "c.yaml"
    path.write_text("axes: {lr: [1e-4, 0.002], steps: [5]}\n")
    assert read_candidates(path) == {"lr": [1e-4, 0.002], "steps": [5]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("axes: {lr: [-1]}", ("axes.lr[0]: -1 is not allowed; expected more than 0",)),
        ("axes: {augment: [flip]}", ("axes.augment", "no predictor knows", "lr, batch_size")),
        ("axes: {rate: [1]}", ("axes.rate: unknown field", "known fields: lr")),
        ("axes: {}", ("axes: missing",)),
        ("lr: [0.1]", ("lr: unknown field", "one field, `axes`")),
        ("- 1", ("expected a mapping of fields",)),
        (f"axes: {{steps: {list(range(1, 1002))}}}", ("1,001 combinations", "at most 1,000")),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    """The message names file, field and what would be right."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(StudyError) as caught:
        read_candidates(path)
    assert str(path) in str(caught.value)
    for part in said:
        assert part in str(caught.value)
