import json
import pickle
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from merge.catalogue import CARDS, MethodCard, method_of, parse_params
from merge.errors import ParameterErrors
from merge.parameters.method_params import MethodParams
from merge.ranges import Choice, Count, Flag, Number, Numbers, allow
from workers.specs.merge import MergeSpec
from workers.specs.own_method import OwnMethodSpec, file_source

SOURCE = file_source("ab" * 32)


@dataclass(frozen=True, kw_only=True)
class EveryKind(MethodParams):
    """One parameter of every kind."""

    scaling: float = field(default=1.0, metadata=allow(Number(above=0, at_most=2)))
    weights: tuple[float, ...] = field(default=(), metadata=allow(Numbers(at_most=9)))
    steps: int = field(default=3, metadata=allow(Count(at_most=5)))
    rescale: bool = field(default=True, metadata=allow(Flag()))
    how: str = field(default="sum", metadata=allow(Choice(("sum", "mean"))))


CARD = MethodCard(title="Every Kind", paper="none", params=EveryKind, is_random=True)
SPEC = OwnMethodSpec.of(CARD, name="Mine", source=SOURCE)


def merge(**changes: Any) -> MergeSpec:  # noqa: ANN401 any field
    """Returns a merge without experts."""
    fields: dict[str, Any] = {
        "method": "Mine",
        "params": {"scaling": 0.5},
        "batch_norm": "average",
        "recalibration_images": 0,
        "seed": 0,
        "base_id": "0" * 16,
        "experts": (),
        "held_out": (),
        "own_method": SPEC,
    }
    return MergeSpec(**{**fields, **changes})


def test_description_survives_json_and_other_processes() -> None:
    """Ranges and defaults of every kind are kept."""
    assert OwnMethodSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC
    assert SPEC.card.is_random
    assert pickle.loads(pickle.dumps(SPEC)) == SPEC


def test_values_are_checked_as_by_the_class_of_the_user() -> None:
    """Defaults, types and faults are the same."""
    values = {"scaling": 2, "weights": [1, 2], "how": "mean"}
    params = parse_params("Mine", values, card=SPEC.card)
    assert vars(params) == vars(EveryKind(scaling=2, weights=(1, 2), how="mean"))
    assert method_of(params) == "Mine"
    with pytest.raises(ParameterErrors, match="steps=6 is not allowed"):
        parse_params("Mine", {"steps": 6}, card=SPEC.card)


def test_id_has_the_digest_of_the_file() -> None:
    """An edited file is another merge; its title and paper do not count."""
    edited = replace(SPEC, source=file_source("cd" * 32))
    assert merge().id != merge(own_method=edited).id
    assert merge().id == merge(own_method=replace(SPEC, title="Other")).id


def test_manifest_has_the_whole_method() -> None:
    """It is read back; merges by built-in methods have no such field."""
    fields = json.loads(json.dumps(merge().to_json()))
    assert MergeSpec.from_json(fields, experts=(), held_out=()) == merge()
    builtin = merge(method="average", params={}, own_method=None)
    assert "own_method" not in builtin.to_json()
    assert builtin.card is CARDS["average"]
