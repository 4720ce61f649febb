"""Advice on the steps of each task, from tables with chosen steps and from plans without."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pytest
import yaml

from orchestrator.advice.next_study import steps_study_text
from orchestrator.advice.task_steps import (
    NO_PLAIN,
    NO_SNAPSHOTS,
    NO_VALIDATION,
    GainOnTest,
    advise_steps,
)
from orchestrator.advice.words import gain_text, steps_sentences
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.results.schema import MACRO, RESULTS_SCHEMA, TUNING
from orchestrator.study.reader import parse_study
from orchestrator.theory.intervals import Interval

COUNTS = (10, 20, 40)
CHOSEN = {"font_letters": 10, "mnist_5k": 40}
TEST_LOSS = {"chosen": 1.0, "common": 1.3}
AXES = {"steps": list(COUNTS)}


def make_tasks(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 fields of a study
    return {"names": ["font_letters", "mnist_5k"], "max_validation": 20, **changes}


@pytest.fixture
def make_chosen(make_plan: Callable[..., Plan]) -> Callable[..., Plan]:
    """Makes the plan of a study with snapshots; its last entry chooses steps."""

    def make(*methods: Mapping[str, Any], **changes: Any) -> Plan:  # noqa: ANN401
        fields = {
            "tasks": make_tasks(),
            "finetune": {"axes": AXES},
            "groups": {"count": 1, "size": 2},
            **changes,
        }
        return make_plan(merge=list(methods), **fields)

    return make


def tried() -> str:
    """Returns the curve: 20 steps are the best common number, 10 and 40 better still."""
    equal = [
        {"values": {f"steps.{task}": count for task in CHOSEN}, "loss": loss, "accuracy": 0.5}
        for count, loss in zip(COUNTS, (1.6, 1.2, 1.4), strict=True)
    ]
    values = {f"steps.{task}": count for task, count in CHOSEN.items()}
    return json.dumps([*equal, {"values": values, "loss": 0.8, "accuracy": 0.6}])


def table_of(plan: Plan) -> pa.Table:
    """Returns a table in which 20 common steps lose 0.3 and 0.1 nats to the chosen ones."""
    rows = []
    for cell in plan.cells:
        merge = cell.merge
        shared: dict[str, Any] = {
            "study": "s",
            "axis": cell.setting.axis,
            "value": cell.setting.value,
            "setting": cell.setting.name,
            "method": cell.label,
            "group": cell.group.name,
            "num_tasks": 2,
            "held_out": False,
            "num_examples": 100,
            "accuracy": 0.5,
            "expert_loss": 0.5,
            "base_loss": 3.0,
            "merge_id": merge.id,
        }
        of_choice = {}
        if merge.snapshots is not None:
            chosen = ", ".join(f"steps.{task}={count}" for task, count in CHOSEN.items())
            of_choice = {"chosen": chosen, "validation_loss": 0.8}
        for task in CHOSEN:
            is_twenty = merge.experts[0].hyperparameters.steps == 20
            loss = 1.0 if of_choice else 2.0
            if is_twenty and not of_choice:
                loss = 1.3 if task == "mnist_5k" else 1.1
            rows.append({**shared, **of_choice, "task": task, "loss": loss})
        curve = {"tried": tried()} if of_choice else {}
        rows.append({**shared, **of_choice, **curve, "task": MACRO, "loss": 1.0})
    schema = pa.schema([*RESULTS_SCHEMA, *TUNING])
    return pa.Table.from_pylist(rows, schema=schema)


def test_the_gain_counts_on_test_images(make_chosen: Callable[..., Plan]) -> None:
    """Against the best common number: 0.4 less on validation images, 0.2 on test images."""
    plan = make_chosen({"method": "average"}, {"method": "average", "steps": "chosen"})
    (found,) = advise_steps(table_of(plan), plan=plan).chosen
    assert {each.task: each.middle for each in found.tasks} == CHOSEN
    assert found.common.middle == 20
    assert found.validation_gain == pytest.approx(0.4)
    assert found.test_gain is not None
    assert found.test_gain.mean == pytest.approx(0.2)
    # two tasks, 0.3 and 0.1: standard error 0.1, Student's factor 12.706
    assert found.test_gain.over_tasks.high == pytest.approx(0.2 + 1.2706, abs=1e-3)
    text = " ".join(steps_sentences(advise_steps(table_of(plan), plan=plan)))
    assert "average (steps chosen)" in text
    assert "font_letters 10, mnist_5k 40" in text
    assert gain_text(found.test_gain) == "+0.200 [-1.071, +1.471]"
    assert "No gain on test images is told apart from 0" in text


def test_a_gain_beyond_its_interval_is_marked() -> None:
    """The interval excludes 0."""
    interval = Interval(low=0.1, high=0.3, over="tasks")
    gain = GainOnTest(mean=0.2, interval=interval, over_tasks=interval)
    assert gain_text(gain) == "+0.200 [+0.100, +0.300] *"


def test_parameters_chosen_beside_the_steps_are_no_steps(make_chosen: Callable[..., Plan]) -> None:
    """They take part in finding the merge with common steps, and are no number of steps."""
    plan = make_chosen(
        {"method": "task_arithmetic", "scaling": 0.4},
        {"method": "task_arithmetic", "scaling": {"tune": [0.2, 0.4]}, "steps": "chosen"},
    )
    rows = table_of(plan).to_pylist()
    for row in rows:
        if row["chosen"] is not None:
            row["chosen"] = f"scaling=0.4, {row['chosen']}"
        if row["tried"] is not None:
            points = json.loads(row["tried"])
            both = [each | {"values": {"scaling": 0.4, **each["values"]}} for each in points]
            row["tried"] = json.dumps(both)
    table = pa.Table.from_pylist(rows, schema=table_of(plan).schema)
    (found,) = advise_steps(table, plan=plan).chosen
    assert {each.task: each.middle for each in found.tasks} == CHOSEN
    assert found.common.middle == 20
    assert found.test_gain is not None
    assert found.test_gain.mean == pytest.approx(0.2)


def test_tuned_merges_with_common_steps_are_compared_with(
    make_chosen: Callable[..., Plan],
) -> None:
    """The tuned merge with the best common steps stands for it if it took the same value."""
    tuned = {"method": "task_arithmetic", "scaling": {"tune": [0.2, 0.4]}}
    plan = make_chosen(tuned, {**tuned, "steps": "chosen"})

    def gain_at(value: float) -> float | None:
        rows = table_of(plan).to_pylist()
        for row in rows:
            is_tuned_alone = row["chosen"] is None
            row["chosen"] = ", ".join(
                ["scaling=0.4", row["chosen"]] if row["chosen"] else [f"scaling={value}"]
            )
            if row["tried"] is not None:
                points = json.loads(row["tried"])
                both = [each | {"values": {"scaling": 0.4, **each["values"]}} for each in points]
                row["tried"] = json.dumps(both)
            elif is_tuned_alone and row["task"] == MACRO:
                point = {"values": {"scaling": value}, "loss": 1.2, "accuracy": 0.5}
                row["tried"] = json.dumps([point])
        table = pa.Table.from_pylist(rows, schema=table_of(plan).schema)
        (found,) = advise_steps(table, plan=plan).chosen
        return None if found.test_gain is None else found.test_gain.mean

    assert gain_at(0.4) == pytest.approx(0.2)
    assert gain_at(0.2) is None


def test_common_steps_that_are_best_gain_nothing(make_chosen: Callable[..., Plan]) -> None:
    """The choice then is the common number, and both gains are 0."""
    plan = make_chosen({"method": "average"}, {"method": "average", "steps": "chosen"})
    common = "steps.font_letters=20, steps.mnist_5k=20"
    rows = [
        row | ({} if row["chosen"] is None else {"chosen": common})
        for row in table_of(plan).to_pylist()
    ]
    table = pa.Table.from_pylist(rows, schema=table_of(plan).schema)
    (found,) = advise_steps(table, plan=plan).chosen
    assert {each.task: each.middle for each in found.tasks} == dict.fromkeys(CHOSEN, 20)
    assert found.validation_gain == 0


def test_without_the_plain_merges_no_gain_on_test_images(
    make_chosen: Callable[..., Plan],
) -> None:
    """A study whose only entry chooses steps has nothing to compare on test images."""
    plan = make_chosen({"method": "average", "steps": "chosen"})
    advice = advise_steps(table_of(plan), plan=plan)
    assert advice.chosen[0].test_gain is None
    assert gain_text(advice.chosen[0].test_gain) == "-"
    text = " ".join(steps_sentences(advice))
    assert "no gain on test images" in text
    assert "told apart" not in text  # nothing is known that could be


def test_the_offered_method_is_best_in_the_groups_that_all_methods_have(
    make_chosen: Callable[..., Plan],
) -> None:
    """Task arithmetic loses more in every group, but has no merge of the hardest one."""
    plan = make_chosen(
        {"method": "average"},
        {"method": "task_arithmetic", "scaling": 0.5},
        tasks=make_tasks(names=["emoji_objects", "font_letters", "mnist_5k"]),
        groups={"size": 2},
    )
    losses = {"2x00": 9.0, "2x01": 1.0, "2x02": 1.0}
    rows = [
        row | {"loss": losses[row["group"]] + ("task" in row["method"])}
        for row in table_of(plan).to_pylist()
        if (row["method"], row["group"]) != ("task_arithmetic", "2x00")
    ]
    assert {row["method"] for row in rows} == {"average", "task_arithmetic"}
    table = pa.Table.from_pylist(rows, schema=table_of(plan).schema)
    assert advise_steps(table, plan=plan).entry == 0


def test_the_method_with_the_least_loss_is_offered(make_chosen: Callable[..., Plan]) -> None:
    """Its steps are chosen in a next study, which trains nothing and shares its merges."""
    plan = make_chosen({"method": "average"}, {"method": "task_arithmetic", "scaling": 0.5})
    rows = table_of(plan).to_pylist()
    better = [row | {"loss": row["loss"] / (2 if "task" in row["method"] else 1)} for row in rows]
    table = pa.Table.from_pylist(better, schema=table_of(plan).schema)
    advice = advise_steps(table, plan=plan)
    assert advice.entry == 1
    text = steps_study_text(
        yaml.safe_dump(plan.study.model_dump(exclude_unset=True)),
        study=plan.study,
        name="small-next",
        entry=1,
        comments=["first"],
    )
    following = build_plan(parse_study(text, source="next.yaml"))
    assert following.experts.keys() <= plan.experts.keys()
    new = [following.merges[each] for each in following.merges.keys() - plan.merges.keys()]
    assert [each.snapshots is not None for each in new] == [True]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"finetune": {"axes": {"lr": [0.1, 0.01]}}}, NO_SNAPSHOTS),
        ({"tasks": make_tasks(max_validation=None)}, NO_VALIDATION),
    ],
)
def test_reasons_why_no_steps_can_be_chosen(
    make_chosen: Callable[..., Plan], changes: dict[str, Any], reason: str
) -> None:
    """Snapshots and images that no expert was trained on are both needed."""
    plan = make_chosen({"method": "average"}, **changes)
    advice = advise_steps(table_of(plan), plan=plan)
    assert (advice.missing, advice.entry) == (reason, None)
    assert advice.is_blind == (reason == NO_VALIDATION)
    assert reason in " ".join(steps_sentences(advice))


def test_tuned_entries_are_not_offered(make_chosen: Callable[..., Plan]) -> None:
    """An entry chooses either steps or parameters."""
    plan = make_chosen({"method": "task_arithmetic", "scaling": {"tune": [0.2, 0.4]}})
    assert advise_steps(table_of(plan), plan=plan).missing == NO_PLAIN
