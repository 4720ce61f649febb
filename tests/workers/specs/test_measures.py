from dataclasses import replace

import pytest

from workers.specs.measures import (
    EARLIER_CURVATURE,
    ConstantsSpec,
    CurvatureSpec,
    ReachSpec,
    TaskSample,
)

SAMPLE = TaskSample(task="mnist_5k", base_id="0" * 16, data_id="1" * 16)


def test_measurements_are_read_as_they_were_written() -> None:
    """Through the JSON that manifests store."""
    for curvature in (None, CurvatureSpec(num_pairs=2), EARLIER_CURVATURE):
        spec = ConstantsSpec(sample=SAMPLE, curvature=curvature)
        assert ConstantsSpec.from_json(spec.to_json()) == spec
    reach = ReachSpec(sample=SAMPLE, experts=("2" * 16,), coefficients=(1.0,))
    assert ReachSpec.from_json(reach.to_json()) == reach


def test_ids_depend_on_every_field_and_stay() -> None:
    """A changed id is a reviewed difference."""
    spec = ConstantsSpec(sample=SAMPLE)
    changed = [
        replace(spec, curvature=CurvatureSpec()),
        *(
            replace(spec, sample=replace(SAMPLE, **{name: value}))
            for name, value in {
                "task": "emoji",
                "base_id": "3" * 16,
                "data_id": "3" * 16,
                "head_id": "3" * 16,
                "expert_id": "4" * 16,
                "head_expert_id": "4" * 16,
                "probe_l2": 2.0,
                "augment": "flip",
                "num_batches": 4,
                "batch_size": 16,
                "seed": 1,
            }.items()
        ),
    ]
    assert len({spec.id, *(each.id for each in changed)}) == 1 + len(changed)
    earlier = replace(spec, curvature=EARLIER_CURVATURE)
    assert earlier.id == "b3faeb29e7c6ead5"
    assert earlier.id != replace(spec, curvature=CurvatureSpec()).id
    values = earlier.to_json()
    del values["curvature"]["tolerance"]  # as earlier releases wrote it
    assert ConstantsSpec.from_json(values) == earlier
    reach = ReachSpec(sample=SAMPLE, experts=("2" * 16,), coefficients=(1.0,))
    assert (spec.id, reach.id) == ("b130946ef05e60ad", "482fceb22f788cb8")
    assert replace(reach, coefficients=(0.5,)).id != reach.id


def test_path_begins_at_the_base_and_has_a_coefficient_for_each_expert() -> None:
    """Anything else is no path."""
    with pytest.raises(ValueError, match="one head"):
        replace(SAMPLE, head_id="2" * 16, head_expert_id="3" * 16)
    with pytest.raises(ValueError, match="begins at the base"):
        ReachSpec(sample=replace(SAMPLE, expert_id="2" * 16), experts=(), coefficients=())
    with pytest.raises(ValueError, match="1 experts, 0 coefficients"):
        ReachSpec(sample=SAMPLE, experts=("2" * 16,), coefficients=())
