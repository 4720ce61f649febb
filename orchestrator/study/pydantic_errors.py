"""Turns pydantic's errors into problems in the words of the study file."""

import math
import re
from collections.abc import Sequence
from typing import Any, get_args

import yaml
from pydantic_core import ErrorDetails

from orchestrator.study.credentials import masked
from orchestrator.study.problems import StudyProblem, shown, suggest, wrong_value
from orchestrator.study.schema import Study

_REMEDIES = {
    "bool_type": "expected true or false",
    "dict_type": "expected a mapping",
    "finite_number": "expected a finite number",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected {ge} or more",
    "int_type": "expected a whole number",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected {le} or less",
    "list_type": "expected a list",
    "model_type": "expected a mapping of fields",
    "string_too_short": "expected text that is not empty",
    "string_type": "expected text; a number, a date, true or false is text only in quotes",
    "too_short": "expected a list with at least one entry",
}

_FIRST_FIELDS = {"backbone": "model", "merge": "method"}
"""The field that a text in place of a section probably means, by section."""
_MAX_EXAMPLE_CHARS = 60
_KEY = "[key]"
"""The last part of the place of a mapping's name, behind the name itself."""


def problem_of(details: ErrorDetails) -> StudyProblem:
    """Returns the problem that one of pydantic's errors describes."""
    field = _field_path(details["loc"])
    kind = details["type"]
    if details["loc"][-1] == _KEY or kind == "invalid_key":
        section = _field_path(details["loc"][: -2 if details["loc"][-1] == _KEY else -1])
        fault = f"a name in it is {shown(details['input'])}"
        return StudyProblem(field=section or "(file)", fault=fault, remedy=_REMEDIES["string_type"])
    if kind == "extra_forbidden":
        name, known = str(details["loc"][-1]), _fields_beside(details["loc"])
        remedy = suggest(name, known=known, kind="fields")
        return StudyProblem(field=field, fault="unknown field", remedy=remedy)
    if kind == "missing":
        remedy = "add it: the study file has no default for this field"
        return StudyProblem(field=field, fault="missing", remedy=remedy)
    return wrong_value(field, details["input"], remedy=_remedy(details))


def _remedy(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        return suggest(str(details["input"]), known=choices, kind="values")
    if kind == "too_short" and isinstance(details["input"], dict):
        return "expected a mapping with at least one entry"
    if kind in ("list_type", "model_type"):
        return f"{_REMEDIES[kind]}{_example(details)}"
    if kind in _REMEDIES:
        return _REMEDIES[kind].format(**{name: _number(value) for name, value in context.items()})
    return details["msg"].removeprefix("Value error, ")


def _example(details: ErrorDetails) -> str:
    """Returns the list or section that a value probably means; empty if that is unclear."""
    value, section = details["input"], details["loc"][0]
    is_section = details["type"] == "model_type"
    is_of_section = len(details["loc"]) <= (2 if section == "merge" else 1)
    if isinstance(value, str) and is_of_section and section in _FIRST_FIELDS:
        value = {_FIRST_FIELDS[section]: value}
    elif is_section or value is None or (section == "merge" and not isinstance(value, dict)):
        return ""
    meant = value if is_section else [value]
    text = yaml.safe_dump(meant, default_flow_style=True, sort_keys=False, width=math.inf)
    example = masked(text.strip())
    return f", such as {example}" if len(example) <= _MAX_EXAMPLE_CHARS else ""


def _number(value: object) -> object:
    """Returns a bound as a user would write it: 0 and not 0.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _field_path(location: Sequence[int | str]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _fields_beside(location: Sequence[int | str]) -> list[str]:
    """Returns the fields that the schema has in the section of an unknown field."""
    model: Any = Study
    for part in location[:-1]:
        if isinstance(part, str) and part in model.model_fields:  # else a name that a user chose
            model = _section_in(model.model_fields[part].annotation)
    return list(model.model_fields)


def _section_in(annotation: Any) -> Any:  # noqa: ANN401 a type
    """Returns the section in a field's type: the type itself, or a member of a list or union."""
    members = [each for each in get_args(annotation) if hasattr(each, "model_fields")]
    return members[0] if members else annotation
