import json
from collections.abc import Callable
from typing import Any

import pytest

from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec, num_merges_tried
from workers.specs.tuning import TuningSpec, point_text

GRID = TuningSpec(values={"density": (0.1, 0.2), "scaling": (0.3, 0.6, 1.0)})


@pytest.fixture
def tuned(make_expert: Callable[..., ExpertSpec]) -> Callable[..., MergeSpec]:
    """Makes a merge by TIES with both numbers tuned."""
    experts = (make_expert("mnist_5k"), make_expert("mnist_m"))

    def make(**changes: Any) -> MergeSpec:  # noqa: ANN401 any field
        params = {"density": None, "scaling": None, "consensus": "sum", "scope": "model"}
        fields = {
            "method": "ties",
            "params": params,
            "batch_norm": "average",
            "recalibration_images": 0,
            "seed": 0,
            "base_id": experts[0].base_id,
            "experts": experts,
            "held_out": (),
            "tuning": GRID,
        }
        return MergeSpec(**{**fields, **changes})

    return make


def test_points_are_all_combinations_in_the_order_of_the_values() -> None:
    """The last parameter varies fastest."""
    points = [tuple(point.values()) for point in GRID.points()]
    assert points == [(0.1, 0.3), (0.1, 0.6), (0.1, 1.0), (0.2, 0.3), (0.2, 0.6), (0.2, 1.0)]


def test_values_and_objective_change_the_id(tuned: Callable[..., MergeSpec]) -> None:
    """The same merge with another list, another objective or fixed values is another artifact."""
    one_value = TuningSpec(values={"density": (0.1,), "scaling": (0.3,)})
    by_accuracy = TuningSpec(values=GRID.values, by="accuracy")
    specs = [
        tuned(),
        tuned(tuning=by_accuracy),
        tuned(tuning=one_value),
        tuned(tuning=one_value).first_tried,
    ]
    assert len({spec.id for spec in specs}) == len(specs)


def test_json_gives_the_merge_back(tuned: Callable[..., MergeSpec]) -> None:
    """A plan's or manifest's text gives a merge with the same id."""
    spec = tuned()
    values = json.loads(json.dumps(spec.to_json()))
    read = MergeSpec.from_json(values, experts=spec.experts, held_out=())
    assert read == spec
    assert read.id == spec.id


def test_merges_without_tuning_have_no_field_for_it(tuned: Callable[..., MergeSpec]) -> None:
    """Manifests and ids of other merges are those of earlier releases."""
    assert "tuning" not in tuned().first_tried.to_json()


def test_all_scalings_share_one_merge(tuned: Callable[..., MergeSpec]) -> None:
    """Tuning merges once per density, and once per value of a method without such a scaling."""
    assert num_merges_tried(tuned()) == 2
    per_task = TuningSpec(values={"scaling": (0.1, 0.2, 0.3)})
    assert num_merges_tried(tuned(method="twin", params={"scaling": None}, tuning=per_task)) == 3
    assert num_merges_tried(tuned().first_tried) == 0


def test_a_point_reads_as_the_study_writes_it() -> None:
    """Names and values stand in the order of the parameters."""
    assert point_text({"density": 0.2, "scaling": 1.0}) == "density=0.2, scaling=1.0"
