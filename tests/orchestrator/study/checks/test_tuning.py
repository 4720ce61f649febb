from collections.abc import Callable
from typing import Any

import pytest
from study_problems import problems_of

from orchestrator.plan.plan import Plan
from orchestrator.study.method_labels import method_labels
from orchestrator.study.schema import Merge, Study

Fields = Callable[..., dict[str, Any]]
HELD_OUT = {"names": ["font_letters", "mnist_5k", "emoji_objects"], "max_validation": 20}


def of_entry(study_fields: Fields, **entry: object) -> dict[str, str]:
    return problems_of(study_fields(tasks=HELD_OUT, merge=[{"method": "ties", **entry}]))


def test_a_value_out_of_range_is_named_by_its_place(study_fields: Fields) -> None:
    """Every value has the range of its parameter."""
    found = of_entry(study_fields, density={"tune": [0.2, 1.5]}, scaling={"tune": [0.1, "a"]})
    assert found == {
        "merge[0].density.tune[1]": "1.5 is not allowed | expected a number above 0 to 1",
        "merge[0].scaling.tune[1]": "'a' is not allowed | expected a number from -10 to 10",
    }


@pytest.mark.parametrize("values", [[], 0.3, None, {"from": 1}])
def test_tune_takes_a_list_of_values(study_fields: Fields, values: object) -> None:
    """An empty list and anything but a list are refused with an example."""
    found = of_entry(study_fields, scaling={"tune": values})
    assert list(found) == ["merge[0].scaling.tune"]
    assert "expected values, as `{tune: [0.1, 0.2, 0.3]}`" in found["merge[0].scaling.tune"]


def test_a_value_is_listed_once(study_fields: Fields) -> None:
    """1 and 1.0 are the same value."""
    found = of_entry(study_fields, scaling={"tune": [1, 0.5, 1.0]})
    assert found == {"merge[0].scaling.tune[2]": "1.0 is not allowed | list every value once"}


def test_only_numbers_are_tuned(study_fields: Fields) -> None:
    """Names and flags are refused, and so are parameters that the method does not have."""
    found = of_entry(study_fields, scope={"tune": ["model"]}, t={"tune": [0.5]})
    assert "only numbers are tuned; expected one of model, tensor" in found["merge[0].scope"]
    assert "unknown parameter of ties" in found["merge[0].t"]


def test_the_grid_is_bounded(study_fields: Fields) -> None:
    """The error names the sizes, their product and the limit."""
    eleven = [place / 20 for place in range(1, 12)]
    found = of_entry(study_fields, scaling={"tune": eleven}, density={"tune": eleven[:10]})
    assert found == {
        "merge[0]": "10 x 11 values are 110 combinations | a merge tries at most 100; leave some "
        "values out"
    }


def test_tuning_needs_validation_images(study_fields: Fields) -> None:
    """The error says how to hold images out, and that trainings lose them."""
    found = problems_of(study_fields(merge=[{"method": "ties", "scaling": {"tune": [0.3, 1.0]}}]))
    assert list(found) == ["merge[0]"]
    assert found["merge[0]"].startswith("it chooses values on validation images, and the study")
    assert "give tasks.max_validation the number" in found["merge[0]"]


def test_an_objective_needs_something_to_choose(study_fields: Fields) -> None:
    """A field that would do nothing is refused."""
    found = of_entry(study_fields, tuned_by="accuracy")
    assert "no parameter of this entry is tuned" in found["merge[0].tuned_by"]


def test_entries_with_other_values_are_other_merges(study_fields: Fields) -> None:
    """The same list twice is a repeated merge; another list needs only another label."""
    tuned = {"method": "ties", "scaling": {"tune": [0.3, 1.0]}}
    other = {**tuned, "scaling": {"tune": [0.3]}}
    same = problems_of(study_fields(tasks=HELD_OUT, merge=[tuned, tuned]))
    assert same["merge[1]"].startswith("this entry is the same merge as merge[0]")
    labels = problems_of(study_fields(tasks=HELD_OUT, merge=[tuned, other]))
    assert labels["merge[1]"].startswith("the label 'ties (scaling tuned)' is that of merge[0]")


def test_labels_name_what_is_tuned() -> None:
    """A tuned entry never has the label of the plain method."""
    entries = [
        Merge.model_validate(
            {"method": "ties", "scaling": {"tune": [0.3]}, "tuned_by": "accuracy"}
        ),
        Merge.model_validate({"method": "average"}),
    ]
    assert method_labels(entries) == ("ties (scaling tuned by accuracy)", "average")


def test_values_have_the_types_of_their_parameters(make_plan: Callable[..., Plan]) -> None:
    """`1` for a float gives the id of `1.0`, and a count stays whole."""
    entries = [
        {"method": "ties", "scaling": {"tune": [1, 0.5]}},
        {"method": "fisher", "images": {"tune": [8, 16]}},
    ]
    specs = make_plan(tasks=HELD_OUT, merge=entries).merges.values()
    values = {spec.method: repr(spec.tuning.values) for spec in specs if spec.tuning}
    assert values == {"ties": "{'scaling': (1.0, 0.5)}", "fisher": "{'images': (8, 16)}"}
    assert {spec.params.get("scaling", 0) for spec in specs} == {None, 0}


def test_studies_that_hold_nothing_out_have_the_ids_of_before(
    make_plan: Callable[..., Plan], make_study: Callable[..., Study]
) -> None:
    """Holding images out changes the images' ids and so the experts'."""
    before, after = make_plan(), make_plan(tasks=HELD_OUT)
    assert "max_validation" not in before.datasets[0].to_json()
    assert before.experts.keys().isdisjoint(after.experts)
    assert make_study().tasks.max_validation is None
