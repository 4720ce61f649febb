from collections.abc import Callable

from orchestrator.plan.plan import Plan
from orchestrator.run.memory_shares import MemoryShares, steps_of
from workers.train.memory_share import MemoryShare

MakePlan = Callable[..., Plan]
FINETUNE = {
    "defaults": {"steps": 10, "lr": 0.01, "batch_size": 8},
    "axes": {"batch_size": [8, 16], "lr": [0.01, 0.02]},
}
QUARTER = {"trial": {"gpu": 0.25}}


def of_batch(plan: Plan, batch_size: int) -> list[str]:
    return [each.id for each in plan.trials if each.recipe.hyperparameters.batch_size == batch_size]


def test_shares_double_up_to_a_gpu_before_batches_are_halved() -> None:
    """Every step counts the failed tries before it."""
    found = [(each.gpu, each.micro_batch) for each in steps_of(0.3, batch_size=5)]
    assert found == [(0.3, None), (0.6, None), (1.0, None), (1.0, 2), (1.0, 1)]
    assert [each.num_refused for each in steps_of(0.3, batch_size=5)] == [0, 1, 2, 3, 4]


def test_thirds_of_a_gpu_stay_parts_that_ray_can_place() -> None:
    """Two thirds and one third are one GPU at most."""
    second = steps_of(0.3333, batch_size=1)[1]
    assert second.gpu == 0.6666


def test_without_a_part_of_a_gpu_only_batches_get_smaller() -> None:
    """A whole GPU, and a trial on the CPU, have nothing larger."""
    for gpu in (0, 1, 2):
        found = [(each.gpu, each.micro_batch) for each in steps_of(gpu, batch_size=4)]
        assert found == [(gpu, None), (gpu, 2), (gpu, 1)]


def test_trials_of_the_same_kind_of_step_learn_from_one(make_plan: MakePlan) -> None:
    """Trials of another batch size keep their share; learning rates make no difference."""
    plan = make_plan(finetune=FINETUNE, resources=QUARTER)
    shares = MemoryShares(plan)
    first, *others = of_batch(plan, 16)
    assert shares.of(first) == MemoryShare(gpu=0.25)
    assert shares.raised(first) == MemoryShare(gpu=0.5, num_refused=1)
    assert {shares.of(each).gpu for each in (first, *others)} == {0.5}
    small = of_batch(plan, 8)
    assert len(small) == 6
    assert {shares.of(each).gpu for each in small} == {0.25}


def test_trials_that_failed_together_raise_the_share_once(make_plan: MakePlan) -> None:
    """A trial that began before the share was raised teaches nothing new."""
    plan = make_plan(finetune=FINETUNE, resources=QUARTER)
    shares = MemoryShares(plan)
    trials = of_batch(plan, 16)
    for each in trials:
        shares.of(each)
    assert {shares.raised(each) for each in trials} == {MemoryShare(gpu=0.5, num_refused=1)}


def test_last_step_is_the_end(make_plan: MakePlan) -> None:
    """A trial that does not fit with one image at a time has failed."""
    plan = make_plan(finetune=FINETUNE, resources=QUARTER)
    shares, (trial, *_) = MemoryShares(plan), of_batch(plan, 8)
    given = []
    while (memory := shares.raised(trial)) is not None:
        given.append((memory.gpu, memory.micro_batch))
        assert shares.of(trial) == memory
    assert given == [(0.5, None), (1.0, None), (1.0, 4), (1.0, 2), (1.0, 1)]
    assert shares.of(trial).micro_batch == 1
