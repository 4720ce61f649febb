from collections.abc import Callable

import pytest

from orchestrator.plan.settings import Setting, plan_settings
from orchestrator.study.backbone import BackboneSection
from orchestrator.study.finetune import Finetune
from orchestrator.study.schema import Study
from workers.specs.hyperparameters import Hyperparameters

DEFAULTS = {"steps": 10, "batch_size": 8, "lr": 0.01, "data_ratio": 1.0, "seed": 0}
CHOICES = {
    "optimizer": "sgd",
    "weight_decay": 0.0,
    "sam_rho": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "head": "trained",
    "average_weights": "none",
    "ema_decay": 0.999,
    "swa_start": 0.75,
    "augment": "none",
    "linearised": False,
}
AXES = {"lr": [0.1, 0.01], "steps": [10, 20]}
WIDE = {"lr": [10.0**-power for power in range(9)], "steps": list(range(1, 30))}


def lay_out(
    *,
    axes: dict[str, object] | None = None,
    sizes: tuple[int, ...] = (),
    seed: int = 0,
    tasks: tuple[str, ...] = ("a", "b", "c"),
    **fields: object,
) -> tuple[Setting, ...]:
    finetune = Finetune.model_validate({"defaults": DEFAULTS, "axes": axes or {}, **fields})
    return plan_settings(finetune, backbone=BackboneSection(), tasks=tasks, sizes=sizes, seed=seed)


def point(**changes: object) -> Hyperparameters:
    return Hyperparameters(**{**DEFAULTS, **CHOICES, **changes})  # type: ignore[arg-type]


def names(settings: tuple[Setting, ...]) -> list[str]:
    return [setting.name for setting in settings]


def test_one_factor_varies_one_axis_around_the_defaults() -> None:
    """Each value of each axis is a setting, with all other hyperparameters at the defaults."""
    settings = lay_out(axes=AXES)
    assert names(settings) == ["lr=0.1", "lr=0.01", "steps=10", "steps=20"]
    assert [setting.axis for setting in settings] == ["lr", "lr", "steps", "steps"]
    assert [setting.shared_point for setting in settings] == [
        point(lr=0.1),
        point(),
        point(),
        point(steps=20),
    ]


def test_every_task_is_at_the_same_point_outside_the_random_design() -> None:
    """All tasks of a setting have equal hyperparameters."""
    (setting,) = lay_out(axes={"lr": [0.5]})
    assert setting.points == dict.fromkeys(("a", "b", "c"), point(lr=0.5))


def test_no_axis_gives_the_one_default_setting() -> None:
    """A study without axes has one setting."""
    (setting,) = lay_out()
    assert (setting.axis, setting.name, setting.shared_point) == ("default", "default", point())


def test_listed_design_has_the_listed_points_by_name() -> None:
    """Each point has its values in place of the defaults, and is a setting like a grid's."""
    settings = lay_out(design="listed", points=[{"lr": 0.1, "steps": 5}, {"steps": 20}], sizes=(2,))
    assert names(settings) == ["lr=0.1, steps=5", "steps=20", "num_tasks=2"]
    assert {setting.axis for setting in settings[:2]} == {"grid"}
    expected = [point(lr=0.1, steps=5), point(steps=20), point()]
    assert [setting.shared_point for setting in settings] == expected


def test_grid_has_every_combination_by_name() -> None:
    """Two learning rates and two step counts are four settings."""
    settings = lay_out(axes=AXES, design="grid")
    assert names(settings) == [
        "lr=0.1, steps=10",
        "lr=0.1, steps=20",
        "lr=0.01, steps=10",
        "lr=0.01, steps=20",
    ]
    assert {setting.axis for setting in settings} == {"grid"}
    assert settings[1].shared_point == point(lr=0.1, steps=20)


def test_whole_number_on_a_float_axis_is_a_float() -> None:
    """An id is a hash of text, in which 1 and 1.0 differ."""
    (setting,) = lay_out(axes={"lr": [1]})
    shared = setting.shared_point
    assert shared is not None
    assert type(shared.lr) is float
    assert setting.name == "lr=1.0"


def test_named_choices_are_axes_under_their_names() -> None:
    """True is written as `true`, as in the study file."""
    settings = lay_out(axes={"linearised": [True, False], "head": ["frozen"]}, design="grid")
    assert names(settings) == ["head=frozen, linearised=true", "head=frozen, linearised=false"]
    assert settings[0].shared_point == point(head="frozen", linearised=True)


def test_choices_of_the_study_are_the_default_point() -> None:
    """An axis varies around the values of the section, in the short form and in the long form."""
    (setting,) = lay_out(
        axes={"lr": [0.5]},
        optimizer={"name": "adamw", "weight_decay": 0.1, "sam_rho": 0.05},
        schedule="linear",
        warmup_steps=3,
        head="probe_first",
        average_weights={"mode": "ema", "ema_decay": 0.9},
        augment="flip",
    )
    assert setting.shared_point == point(
        lr=0.5,
        optimizer="adamw",
        weight_decay=0.1,
        sam_rho=0.05,
        schedule="linear",
        warmup_steps=3,
        head="probe_first",
        average_weights="ema",
        ema_decay=0.9,
        augment="flip",
    )


def test_number_of_tasks_stands_at_the_default_point() -> None:
    """Each size is a setting of the number-of-tasks axis; other axes keep `groups.size`."""
    settings = lay_out(axes={"lr": [0.1]}, sizes=(2, 3))
    assert names(settings) == ["lr=0.1", "num_tasks=2", "num_tasks=3"]
    assert [setting.size for setting in settings] == [None, 2, 3]
    assert [setting.shared_point for setting in settings[1:]] == [point(), point()]


def test_sizes_alone_leave_out_the_default_setting() -> None:
    """The number-of-tasks axis already stands at the default point."""
    assert names(lay_out(sizes=(2, 3))) == ["num_tasks=2", "num_tasks=3"]


@pytest.mark.parametrize("design", ["one-factor", "grid"])
def test_seed_of_the_study_moves_no_point_outside_the_random_design(design: str) -> None:
    """Only the random design draws."""
    assert lay_out(axes=AXES, design=design, seed=1) == lay_out(axes=AXES, design=design, seed=2)


def test_each_expert_of_a_random_setting_draws_its_own_point() -> None:
    """Heterogeneous experts differ between tasks and between draws, on every axis."""
    settings = lay_out(axes=WIDE, design="random", draws=4)
    assert names(settings) == ["random=0", "random=1", "random=2", "random=3"]
    points = [drawn for setting in settings for drawn in setting.points.values()]
    assert len(set(points)) == 12
    assert len({drawn.lr for drawn in points}) > 3
    assert len({drawn.steps for drawn in points}) > 3
    assert {drawn.batch_size for drawn in points} == {8}
    assert settings[0].shared_point is None


def test_random_draws_reach_every_value_of_an_axis_and_no_other() -> None:
    """All three values of an axis are drawn, the first and the last included."""
    settings = lay_out(axes={"lr": [0.1, 0.2, 0.3]}, design="random", draws=20)
    drawn = {each.lr for setting in settings for each in setting.points.values()}
    assert drawn == {0.1, 0.2, 0.3}


def test_random_draws_come_back_with_the_seed_and_only_with_it() -> None:
    """The same study draws the same points; another seed draws others."""
    drawn = lay_out(axes=WIDE, design="random", seed=5)
    assert lay_out(axes=WIDE, design="random", seed=5) == drawn
    assert lay_out(axes=WIDE, design="random", seed=6) != drawn


def test_random_draw_of_a_task_does_not_depend_on_the_other_tasks() -> None:
    """Adding a task to a study does not change the experts of the other tasks."""
    few = lay_out(axes=WIDE, design="random", tasks=("a", "b"))
    more = lay_out(axes=WIDE, design="random", tasks=("c", "b", "a"))
    assert {task: more[0].points[task] for task in ("a", "b")} == few[0].points


def test_further_draws_leave_the_first_ones_as_they_were() -> None:
    """Raising `draws` keeps every expert that is in the store."""
    few = lay_out(axes=WIDE, design="random", draws=2)
    assert lay_out(axes=WIDE, design="random", draws=5)[:2] == few


def test_number_of_tasks_stands_at_the_first_draw_of_the_random_design() -> None:
    """The number-of-tasks axis uses the experts of the first draw."""
    settings = lay_out(axes=WIDE, design="random", draws=2, sizes=(2,))
    assert settings[-1].axis == "num_tasks"
    assert settings[-1].points == settings[0].points != settings[1].points


def test_schedule_of_a_study_reaches_its_settings(make_study: Callable[..., Study]) -> None:
    """The settings follow from the study file's section `finetune`."""
    study = make_study(finetune={"defaults": DEFAULTS, "axes": {"data_ratio": [0.5, 1]}})
    settings = plan_settings(
        study.finetune, backbone=study.backbone, tasks=study.task_names, sizes=(), seed=0
    )
    assert [setting.shared_point for setting in settings] == [point(data_ratio=0.5), point()]
