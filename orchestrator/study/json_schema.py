"""Makes the JSON Schema of a study file, for editors that complete and check YAML.

The schema is made of the pydantic models, with the strings below their fields as descriptions, and
of the methods' parameters. It accepts every valid study, and some that the other checks refuse.
"""

import ast
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from pydantic import BaseModel

from merge.catalogue import CARDS, PARAMS
from merge.ranges import Choice, Count, Flag, Number, Numbers, Range, range_of
from orchestrator.study.schema import STEP_RULES, STEPS, TUNE, Merge, Study
from orchestrator.study.section import Section

Json = dict[str, Any]

SCHEMA_FILE = "study.schema.json"
"""Name of the schema beside study files."""
_TEXT: Json = {"type": "string"}
_OWN_METHOD: Json = {
    "type": "string",
    "pattern": r"^(package:.+|.+\.py:[A-Za-z_][A-Za-z0-9_]*)$",
    "description": "A method of your own: ./my_method.py:MyMethod, or package:my_method.",
}
_STEPS = (
    "chosen: for each task the snapshot that merges best, by coordinate descent on the validation "
    "loss of the merge, jointly with tuned parameters. stopped: the one with the least validation "
    "loss of the expert."
)
_SHORTHANDS: Mapping[str, list[Json]] = {
    "Tasks": [_TEXT, {"type": "array", "items": _TEXT}],
    "Head": [_TEXT],
    "AverageWeights": [_TEXT],
}
"""Other forms of a section: `tasks: SUITE`, `tasks: [NAME, ...]`, `head: MODE` and the like."""


def schema_line() -> str:
    """Returns the first line of a study file, by which editors find the schema."""
    return f"# yaml-language-server: $schema={SCHEMA_FILE}\n"


def study_json_schema() -> Json:
    """Returns the JSON Schema of a study file."""
    schema = Study.model_json_schema()
    definitions: Json = schema["$defs"]
    definitions["Merge"] = _merge_schema(definitions["Merge"])
    for name, each in {**definitions, "Study": schema}.items():
        documented = _comments(_models()[name])
        for field, values in each["properties"].items():
            values.pop("title", None)
            if field in documented:
                values["description"] = documented[field]
    for name, shorthands in _SHORTHANDS.items():
        definitions[name] = {"anyOf": [definitions[name], *shorthands]}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def _models() -> dict[str, type[BaseModel]]:
    """Returns the models of all sections by name."""
    models: list[type[BaseModel]] = [*_subclasses(Section), Merge]
    return {each.__name__: each for each in models}


def _subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in model.__subclasses__():
        yield each
        yield from _subclasses(each)


def _comments(model: type[BaseModel]) -> dict[str, str]:
    """Returns the strings below the fields of a model and of the models that it extends."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if each in {BaseModel, Section} or not issubclass(each, BaseModel):
            continue
        (definition,) = ast.parse(inspect.getsource(each)).body
        assert isinstance(definition, ast.ClassDef)
        body = definition.body
        for field, below in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def _merge_schema(schema: Json) -> Json:
    """Returns the schema of a merge with the parameters of every method."""
    names: Json = {"anyOf": [{"enum": list(CARDS)}, _OWN_METHOD]}
    own = {**schema["properties"], "method": names}
    parameters = {name: _parameters(name) for name in PARAMS}
    known = dict.fromkeys(each for of_method in parameters.values() for each in of_method)
    return {
        **schema,
        "properties": {**own, **{name: {} for name in known}},
        "allOf": [
            {
                "if": {"properties": {"method": {"const": name}}},
                "then": {
                    "description": f"{CARDS[name].title}. {CARDS[name].paper}",
                    "properties": of_method,
                    "propertyNames": {"enum": [*own, *of_method]},
                },
            }
            for name, of_method in parameters.items()
        ],
    }


def _parameters(method: str) -> Json:
    own = {
        each.name: {**_parameter_schema(range_of(each)), "description": range_of(each).allowed}
        for each in fields(PARAMS[method])
    }
    rules: Json = {"enum": list(STEP_RULES), "description": _STEPS}
    return {**own, STEPS: {"anyOf": [rules, own[STEPS]]} if STEPS in own else rules}


def _parameter_schema(values: Range) -> Json:
    """Returns the schema of a parameter: a value, or values to try if it is a number."""
    value = _range_schema(values)
    if not isinstance(values, Number | Count):
        return value
    tried = {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}
    tuned = {"properties": {TUNE: tried}, "required": [TUNE], "additionalProperties": False}
    return {"anyOf": [value, {"type": "object", **tuned}]}


def _range_schema(values: Range) -> Json:
    match values:
        case Number():
            bounds = {
                "minimum": values.at_least,
                "exclusiveMinimum": values.above,
                "maximum": values.at_most,
            }
            finite = {name: bound for name, bound in bounds.items() if abs(bound) != float("inf")}
            return {"type": "number", **finite}
        case Count():
            return {"type": "integer", "minimum": values.at_least, "maximum": values.at_most}
        case Flag():
            return {"type": "boolean"}
        case Choice():
            return {"enum": list(values.options)}
        case Numbers():
            return {"type": "array", "items": {"type": "number"}}
    raise AssertionError(values)
