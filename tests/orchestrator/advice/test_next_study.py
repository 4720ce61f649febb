from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from orchestrator.advice.next_study import next_name, next_study_text
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.study.reader import parse_study


def test_the_next_study_shares_groups_experts_and_merges(
    make_varied: Callable[..., Plan],
) -> None:
    """Points that were tried have the same ids; new ones are the only new trainings."""
    sizes = {"count": 4, "size": 3, "sizes": [2, 3]}
    plan = make_varied({"lr": [0.001, 0.01], "steps": [20, 40]}, groups=sizes)
    point = plan.settings[0].shared_point
    assert point is not None
    new = replace(point, steps=80, augment="flip")
    text = next_study_text(
        yaml.safe_dump(plan.study.model_dump(exclude_unset=True)),
        study=plan.study,
        name="small-next",
        points=[point, new],
        comments=["first", "second"],
    )
    assert text.startswith("# first\n# second\n")
    study = parse_study(text, source="next.yaml")
    following = build_plan(study)
    assert (study.name, study.store) == ("small-next", plan.study.store)
    assert following.groups == plan.groups
    assert [setting.shared_point for setting in following.settings[:2]] == [point, new]
    added = following.experts.keys() - plan.experts.keys()
    assert len(added) == len(plan.study.task_names)
    assert len(following.merges.keys() - plan.merges.keys()) == 4


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("demo", [], "demo-next"),
        ("demo", ["demo-next"], "demo-next-2"),
        ("demo-next", [], "demo-next-2"),
        ("demo-next-2", ["demo-next-3"], "demo-next-4"),
        ("x" * 63, [], "x" * 58 + "-next"),
    ],
)
def test_names_are_free_and_short_enough(name: str, taken: list[str], expected: str) -> None:
    """A study of the same name would be continued with other settings."""
    assert next_name(name, taken=taken) == expected
