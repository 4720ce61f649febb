"""Reads a wrong study; returns what is said about it."""

from typing import Any

import pytest
import yaml

from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study


def problems_of(fields: dict[str, Any], *, is_new: bool = False) -> dict[str, str]:
    """Returns fault and remedy of each problem of a study, by field.

    Args:
        fields: The fields of the study file.
        is_new: Whether models and files are checked too.
    """
    with pytest.raises(StudyError) as caught:
        parse_study(yaml.safe_dump(fields), source="study.yaml", is_new=is_new)
    return {each.field: f"{each.fault} | {each.remedy}" for each in caught.value.problems}
