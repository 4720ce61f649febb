"""Tests of ids. The golden file makes a changed id a diff that someone reviews."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.specs.ids import UnhashableSpecError, canonical_json, content_id, plain_json

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "ids.json").read_text())

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["why"])
def test_ids_are_those_of_the_golden_file(case: dict[str, Any]) -> None:
    """A changed id would make stores train again what they already have."""
    made = content_id(
        case["kind"], version=case["version"], spec=case["spec"], inputs=case["inputs"]
    )
    assert made == case["id"]


def test_golden_ids_are_all_different() -> None:
    """Each case differs from the others in one respect, which the hash contains."""
    assert len({case["id"] for case in GOLDEN}) == len(GOLDEN)


def test_canonical_json_is_sorted_compact_and_ascii() -> None:
    """The whole text stands here, so that no refactoring changes it unnoticed."""
    value = {"b": [1, 1.0, True, None], "a": {"ü": "x y", "A": -0.5}}
    assert canonical_json(value) == r'{"a":{"A":-0.5,"\u00fc":"x y"},"b":[1,1.0,true,null]}'


def test_tuple_and_list_are_the_same() -> None:
    """JSON has lists and no tuples."""
    assert canonical_json((1, (2,))) == canonical_json([1, [2]])


@given(values)
def test_parsed_text_gives_the_same_text(value: object) -> None:
    """A specification read back from a manifest has the id it was stored under."""
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text
    assert plain_json(value) == json.loads(text)


@given(st.dictionaries(st.text(), scalars))
def test_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    """A dict filled in another order is the same specification."""
    turned = dict(reversed(value.items()))
    assert canonical_json(turned) == canonical_json(value)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr"),
        ({"optimizer": {"lr": float("inf")}}, "optimizer.lr"),
        ({"steps": [1, {"at": {2}}]}, "steps[1].at"),
        ({"path": Path("x")}, "path"),
        ({"raw": b"x"}, "raw"),
        ({"outer": {1: "x"}}, "outer"),
        ({1: "x"}, "key 1"),
    ],
)
def test_inexact_value_is_refused_with_its_path(spec: dict[str, Any], path: str) -> None:
    """A value without an exact JSON form has no id; the message has the value's path."""
    with pytest.raises(UnhashableSpecError, match=path.replace("[", r"\[")):
        content_id("trial", version=1, spec=spec)


def test_single_string_as_inputs_is_refused() -> None:
    """A str would count as a list of ids of one letter each."""
    with pytest.raises(UnhashableSpecError, match="inputs"):
        content_id("trial", version=1, spec={}, inputs="0123456789abcdef")
