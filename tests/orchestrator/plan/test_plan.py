"""Tests of the plan. The golden file makes a changed id a diff that someone reviews."""

import itertools
import json
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from eval.suites import find_task
from orchestrator.plan.groups import Group
from orchestrator.plan.plan import Plan, build_plan, group_sampling, plan_digest
from orchestrator.study.schema import Study

GOLDEN = Path(__file__).parents[2] / "golden" / "plan_ids.json"
DEFAULTS = {"steps": 10, "lr": 0.01, "batch_size": 8}
STEPS = {"defaults": DEFAULTS, "axes": {"steps": [10, 20, 40]}}
TWO_AXES = {"defaults": DEFAULTS, "axes": {"lr": [0.01, 0.1], "steps": [10, 20]}}


def ids(plan: Plan) -> dict[str, Any]:
    return {
        "base": plan.bases.jobs[0].spec.id,
        "data": {data.task: data.id for data in plan.datasets},
        "trials": [[trial.id, list(trial.snapshots)] for trial in plan.trials],
        "merges": [
            [cell.setting.name, cell.label, cell.group.name, cell.merge.id] for cell in plan.cells
        ],
    }


def test_ids_of_a_small_study_are_those_of_the_golden_file(
    make_plan: Callable[..., Plan],
) -> None:
    """A changed id would train and merge again what stores already have."""
    plan = make_plan(
        finetune=TWO_AXES,
        merge=[{"method": "average"}, {"method": "dare", "scaling": 1}],
        tasks={"names": ["mnist_5k", "font_letters"], "max_test": 50},
    )
    assert ids(plan) == json.loads(GOLDEN.read_text())


def test_step_counts_share_one_trial_under_a_constant_schedule(
    make_plan: Callable[..., Plan],
) -> None:
    """Three step counts of three tasks take three trials of 40 steps instead of nine trials."""
    plan = make_plan(finetune=STEPS)
    assert [trial.snapshots for trial in plan.trials] == [(10, 20, 40)] * 3
    assert (len(plan.experts), plan.num_steps, plan.num_steps_unshared) == (9, 120, 210)


def test_step_counts_share_nothing_under_a_cosine(make_plan: Callable[..., Plan]) -> None:
    """Under a cosine every learning rate depends on the total, so each count has its own trial."""
    plan = make_plan(finetune={**STEPS, "schedule": "cosine"})
    assert [trial.snapshots for trial in plan.trials] == [(10,)] * 3 + [(20,)] * 3 + [(40,)] * 3
    assert plan.num_steps == plan.num_steps_unshared == 210


@pytest.mark.parametrize(
    ("changes", "num_trials"),
    [
        ({"schedule": "linear"}, 9),
        ({"average_weights": "swa"}, 9),
        ({"average_weights": "ema"}, 3),
        ({"warmup_steps": 100, "head": "frozen", "augment": "flip"}, 3),
    ],
    ids=str,
)
def test_step_counts_share_a_run_unless_its_steps_depend_on_them(
    make_plan: Callable[..., Plan], changes: dict[str, Any], num_trials: int
) -> None:
    """EMA and warmup allow shared prefixes; the start of SWA depends on the total."""
    assert len(make_plan(finetune={**STEPS, **changes}).trials) == num_trials


def test_only_step_counts_are_joined(make_plan: Callable[..., Plan]) -> None:
    """Two learning rates are two trials; the default's has the snapshots of the steps axis."""
    plan = make_plan(finetune=TWO_AXES)
    by_lr = {(trial.longest.hyperparameters.lr, trial.snapshots) for trial in plan.trials}
    assert len(plan.trials) == 6
    assert by_lr == {(0.01, (10, 20)), (0.1, (10,))}


def test_point_that_axes_share_is_made_once(make_plan: Callable[..., Plan]) -> None:
    """The default is on both axes, so four settings need three experts per task."""
    plan = make_plan(finetune=TWO_AXES)
    assert [setting.name for setting in plan.settings] == [
        "lr=0.01",
        "lr=0.1",
        "steps=10",
        "steps=20",
    ]
    assert (len(plan.cells), len(plan.merges), len(plan.experts)) == (12, 9, 9)
    shared = [cell for cell in plan.cells if cell.setting.name in ("lr=0.01", "steps=10")]
    assert [cell.merge.id for cell in shared[:3]] == [cell.merge.id for cell in shared[3:]]
    first = plan.first_cells[shared[3].merge.id]
    assert first is shared[0]
    assert [s.name for s in plan.settings_of[shared[0].merge.experts[0].id]] == [
        "lr=0.01",
        "steps=10",
    ]


def test_groups_are_the_same_for_every_setting_and_method(
    make_plan: Callable[..., Plan],
) -> None:
    """Every method at every setting has all groups in the same order, so comparisons are paired."""
    plan = make_plan(finetune=TWO_AXES, merge=[{"method": "average"}, {"method": "ties"}])
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.setting.name, cell.label), []).append(cell.group.name)
    assert len(groups) == 8
    assert set(map(tuple, groups.values())) == {("2x00", "2x01", "2x02")}


def test_merge_has_its_groups_experts_at_its_setting(make_plan: Callable[..., Plan]) -> None:
    """A merge has the experts of its setting, in the order of the group's tasks."""
    plan = make_plan(finetune=TWO_AXES)
    for cell in plan.cells:
        assert tuple(expert.task for expert in cell.merge.experts) == cell.group.tasks
        point = cell.setting.shared_point
        assert point is not None
        assert {
            (each.hyperparameters.lr, each.hyperparameters.steps) for each in cell.merge.experts
        } == {(point.lr, point.steps)}
        assert {expert.base_id for expert in cell.merge.experts} == {plan.bases.jobs[0].spec.id}
        assert cell.merge.held_out == ()


def test_number_of_tasks_has_groups_of_each_size(make_plan: Callable[..., Plan]) -> None:
    """Each size merges its own groups, and the study's own size is merged once."""
    finetune = {"defaults": DEFAULTS, "axes": {"lr": [0.01]}}
    plan = make_plan(finetune=finetune, groups={"size": 2, "sizes": [1, 2, 3]})
    counts = {
        setting.name: sum(cell.setting is setting for cell in plan.cells)
        for setting in plan.settings
    }
    assert counts == {"lr=0.01": 3, "num_tasks=1": 3, "num_tasks=2": 3, "num_tasks=3": 1}
    assert len(plan.merges) == 7
    assert plan.num_steps_unshared == 30


def test_the_one_size_is_not_sampled_where_no_setting_uses_it(
    make_plan: Callable[..., Plan],
) -> None:
    """A study whose only axis is the number of tasks has no groups of `groups.size`."""
    plan = make_plan(groups={"size": 2, "sizes": [1, 3]})
    assert {group.size for group in plan.groups} == {1, 3}
    assert [setting.name for setting in plan.settings] == ["num_tasks=1", "num_tasks=3"]


def test_held_out_tasks_are_the_rest_of_the_study(make_plan: Callable[..., Plan]) -> None:
    """A merge of two of three tasks is also evaluated on the third."""
    plan = make_plan(evaluation={"held_out": True})
    for cell in plan.cells:
        (held_out,) = cell.merge.held_out
        assert {held_out.task, *cell.group.tasks} == set(plan.study.task_names)
    assert not set(plan.merges) & set(make_plan().merges)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "renamed"},
        {"tracking": "http://mlflow:5000"},
        {"resources": {"trial": {"cpu": 2, "gpu": 0.5}}},
        {"retries": 9},
        {"seed": 5, "groups": {"seed": 0}},
        {"tasks": ["mnist_5k", "emoji_objects", "font_letters"]},
        {"merge": [{"method": "average", "label": "mean"}]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_does_not_define_a_result_changes_no_id(
    make_plan: Callable[..., Plan], changes: dict[str, Any]
) -> None:
    """Ids depend neither on names, places and resources nor on order and labels."""
    weights = {"backbone": {"model": "tf_efficientnet_lite0"}}
    plan, changed = make_plan(**weights), make_plan(**weights, **changes)
    assert set(changed.experts) == set(plan.experts)
    assert set(changed.merges) == set(plan.merges)


def test_store_is_outside_the_ids(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    """All ids stay the same after a store was moved."""
    assert plan_digest(make_plan(store=str(tmp_path / "b"))) == plan_digest(make_plan())


@pytest.mark.parametrize(
    "changes",
    [
        {"finetune": {"defaults": {**DEFAULTS, "lr": 0.02}}},
        {"finetune": {"defaults": {**DEFAULTS, "steps": 11}}},
        {"finetune": {"defaults": {**DEFAULTS, "batch_size": 9}}},
        {"finetune": {"defaults": {**DEFAULTS, "data_ratio": 0.5}}},
        {"finetune": {"defaults": {**DEFAULTS, "seed": 1}}},
        {"finetune": {"defaults": DEFAULTS, "schedule": "cosine"}},
        {"finetune": {"defaults": DEFAULTS, "freeze_batch_norm": False}},
        {"finetune": {"defaults": DEFAULTS, "optimizer": {"name": "adam"}}},
        {"finetune": {"defaults": DEFAULTS, "optimizer": {"momentum": 0.8}}},
        {"finetune": {"defaults": DEFAULTS, "optimizer": {"weight_decay": 0.1}}},
        {"tasks": {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_train": 9}},
        {"tasks": {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_test": 9}},
        {
            "tasks": {
                "names": ["emoji_objects", "font_letters", "mnist_5k"],
                "evaluate_on": "validation",
            }
        },
        {"backbone": {"model": "test_resnet", "weights": "none", "image_size": 33}},
        {"backbone": {"model": "test_vit", "weights": "none", "image_size": 32}},
        {"backbone": {"model": "test_resnet", "weights": "timm", "image_size": 32}},
        {"seed": 1},
    ],
    ids=str,
)
def test_what_defines_a_result_changes_every_id(
    make_plan: Callable[..., Plan], changes: dict[str, Any]
) -> None:
    """A field that is missing in the ids would make a study use another study's experts."""
    plan, changed = make_plan(), make_plan(**changes)
    assert not set(changed.experts) & set(plan.experts)
    assert not set(changed.merges) & set(plan.merges)


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ({"method": "average"}, {"method": "average", "batch_norm": "base"}),
        ({"method": "ties"}, {"method": "ties", "scaling": 0.4}),
        ({"method": "ties"}, {"method": "ties", "consensus": "mean"}),
        (
            {"method": "average", "batch_norm": "recalibrate"},
            {"method": "average", "batch_norm": "recalibrate", "recalibration_images": 9},
        ),
        ({"method": "average"}, {"method": "average", "surgery": {}}),
        ({"method": "average", "surgery": {}}, {"method": "average", "surgery": {"rank": 8}}),
    ],
)
def test_method_and_policy_change_the_merges_and_no_expert(
    make_plan: Callable[..., Plan], method: dict[str, Any], changed: dict[str, Any]
) -> None:
    """Experts do not depend on the methods that merge them."""
    plan, other = make_plan(merge=[method]), make_plan(merge=[changed])
    assert set(other.experts) == set(plan.experts)
    assert not set(other.merges) & set(plan.merges)


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ({"method": "ties"}, {"method": "ties", "density": 0.2}),
        ({"method": "ties", "scaling": 1}, {"method": "ties", "scaling": 1.0}),
        ({"method": "average"}, {"method": "average", "recalibration_images": 9}),
        ({"method": "average", "surgery": {}}, {"method": "average", "surgery": {"lr": 0.001}}),
        ({"method": "average"}, {"method": "average", "surgery": None}),
    ],
)
def test_another_way_to_write_a_merge_is_the_same_merge(
    make_plan: Callable[..., Plan], method: dict[str, Any], changed: dict[str, Any]
) -> None:
    """A written default, a whole number and an unused setting make no other merge."""
    assert set(make_plan(merge=[method]).merges) == set(make_plan(merge=[changed]).merges)


def test_seed_of_the_study_enters_only_merges_that_draw(make_plan: Callable[..., Plan]) -> None:
    """With a pretrained base and a fixed group seed, the study's seed only affects DARE."""
    fixed = {"backbone": {"model": "tf_efficientnet_lite0"}, "groups": {"seed": 0}}
    methods = [{"method": "dare"}, {"method": "ties"}]
    first, second = (
        {
            label: {cell.merge.id for cell in plan.cells if cell.label == label}
            for label in ("dare", "ties")
        }
        for plan in (make_plan(**fixed, seed=seed, merge=methods) for seed in (0, 1))
    )
    assert first["ties"] == second["ties"]
    assert not first["dare"] & second["dare"]


def test_fewer_groups_than_asked_for_is_a_warning(make_plan: Callable[..., Plan]) -> None:
    """The plan warns that only three pairs exist; a study that asks for three is not warned."""
    (warning,) = make_plan().warnings
    assert "3 tasks have only 3 distinct groups of 2" in warning
    assert make_plan(groups={"count": 3, "size": 2}).warnings == ()


def test_warmup_that_outlasts_a_training_is_a_warning(make_plan: Callable[..., Plan]) -> None:
    """Under a constant schedule it is allowed, as snapshots may be taken during the warmup."""
    finetune = {
        "warmup_steps": 40,
        "defaults": {"steps": 10, "batch_size": 8},
        "axes": {"steps": [10, 40, 80]},
    }
    (warning,) = make_plan(groups={"count": 3, "size": 2}, finetune=finetune).warnings
    assert warning == (
        "finetune.warmup_steps is 40, so that the learning rate of experts with 10 steps ends at "
        "25% of its peak"
    )


def test_groups_that_were_written_down_are_used_as_they_are(
    make_study: Callable[..., Study],
) -> None:
    """A resumed study keeps its groups even if sampling would give others."""
    written = (Group(name="2x00", tasks=("font_letters", "mnist_5k")),)
    plan = build_plan(make_study(), groups=written)
    assert plan.groups == written
    assert [cell.group for cell in plan.cells] == list(written)


def test_digest_changes_with_an_expert_or_a_merge(make_plan: Callable[..., Plan]) -> None:
    """A change to the plan changes the digest, under which the state of MLflow is recorded."""
    studies = [make_plan(), make_plan(merge=[{"method": "ties"}]), make_plan(finetune=TWO_AXES)]
    digests = [plan_digest(plan) for plan in studies]
    assert len(set(digests)) == 3
    assert plan_digest(make_plan()) == digests[0]


def test_zero_shot_heads_are_made_once_a_task(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    """All experts of a task have the same head, whose id is in theirs."""
    clip = {"model": "vit_base_patch32_clip_224.openai", "weights": "none", "image_size": 224}
    axes = {"lr": [0.01, 0.1]}
    trained = make_plan(backbone=clip, finetune={"axes": axes})
    (tmp_path / "clip.pt").write_bytes(b"any")
    templates = {task: [f"{task} {{}}", "{}."] for task in trained.study.task_names}
    zero_shot = {"model": "ViT-B-32", "weights": "openai", "templates": templates}
    plan = make_plan(backbone=clip, finetune={"axes": axes, "zero_shot": zero_shot})
    assert trained.heads == {}
    assert list(plan.heads) == list(plan.study.task_names)
    for expert in plan.experts.values():
        job = plan.heads[expert.task]
        assert expert.head_id == job.spec.id
        assert job.spec.templates == (f"{expert.task} {{}}", "{}.")
        assert job.spec.classes == find_task(expert.task).classes
        assert job.path is None
    assert not set(plan.experts) & set(trained.experts)
    own = {**zero_shot, "weights": str(tmp_path / "clip.pt")}
    (job, *_) = make_plan(backbone=clip, finetune={"zero_shot": own}).heads.values()
    assert job.path == str(tmp_path / "clip.pt")
    assert job.spec.weights == f"sha256:{sha256(b'any').hexdigest()}"


def test_big_study_is_planned_quickly_and_its_cells_are_unique(
    make_study: Callable[..., Study],
) -> None:
    """24 settings x 15 groups x 4 methods on 8 tasks; measured 0.1 s, fails above 2 s."""
    axes = {
        "lr": [0.001 * number for number in range(1, 7)],
        "batch_size": list(range(8, 14)),
        "steps": [10 * number for number in range(1, 7)],
        "data_ratio": [0.1 * number for number in range(1, 7)],
    }
    methods = [{"method": name} for name in ("average", "task_arithmetic", "ties", "dare")]
    study = make_study(
        tasks="embedded8",
        finetune={"defaults": DEFAULTS, "axes": axes},
        groups={"count": 15, "size": 4},
        merge=methods,
    )
    started = time.perf_counter()
    plan = build_plan(study)
    plan_digest(plan)
    assert time.perf_counter() - started < 2
    keys = {(cell.setting.name, cell.label, cell.group.name) for cell in plan.cells}
    assert len(keys) == len(plan.cells) == 24 * 15 * 4
    assert len({trial.id for trial in plan.trials}) == len(plan.trials)
    ordered = [cell.setting.name for cell in plan.cells]
    assert len(list(itertools.groupby(ordered))) == 24


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        ({"merge": [{"method": "ties"}]}, True),
        ({"finetune": {"axes": {"lr": [0.1, 0.2]}}}, True),
        ({"tasks": ["mnist_5k", "font_letters", "emoji_objects"]}, True),
        ({"seed": 3, "groups": {"seed": 0}}, True),
        ({"seed": 3}, False),
        ({"groups": {"seed": 1}}, False),
        ({"groups": {"count": 2}}, False),
        ({"groups": {"size": 3}}, False),
        ({"groups": {"sizes": [2, 3]}}, False),
        ({"tasks": ["mnist_5k", "font_letters"]}, False),
    ],
    ids=str,
)
def test_groups_are_used_again_only_if_sampled_from_the_same_inputs(
    make_study: Callable[..., Study], changes: dict[str, object], *, is_same: bool
) -> None:
    """A new axis or method keeps the groups; other tasks, sizes, counts or seeds do not."""
    sampling = group_sampling(make_study())
    assert (group_sampling(make_study(**changes)) == sampling) is is_same
