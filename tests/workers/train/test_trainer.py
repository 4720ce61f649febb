import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eval.images.split import Split
from eval.model_inputs import Normalization
from workers.models.backbones import Backbone
from workers.models.tangent import Tangent
from workers.specs.expert import ExpertSpec
from workers.train.schedules import learning_rate
from workers.train.trainer import (
    CURVE_POINTS,
    DivergedError,
    Trainer,
    create_head,
    loss_curve,
    recent_loss,
)
from workers.train.trainer_state import StateMismatchError

CPU = torch.device("cpu")
TRAIN = Split(
    images=np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8),
    labels=np.arange(12) % 3,
)


def start(spec: ExpertSpec, *, module: nn.Module | None = None) -> Trainer:
    """Creates a trainer of a network with one convolution, BatchNorm and dropout."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.2)]
    plain = Normalization(mean=(0.5,) * 3, std=(0.5,) * 3)
    module = module or nn.Sequential(*layers)
    expansion = (
        Tangent(module, base=module.state_dict()) if spec.hyperparameters.linearised else None
    )
    backbone = Backbone(module=module, num_features=16, normalization=plain, expansion=expansion)
    head = create_head(16, num_classes=3, seed=spec.hyperparameters.seed, task=spec.task)
    return Trainer(spec=spec, backbone=backbone, head=head, train=TRAIN, device=CPU)


@pytest.mark.parametrize(
    ("name", "kind", "constants"),
    [
        ("sgd", torch.optim.SGD, {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.01}),
        ("adam", torch.optim.Adam, {"lr": 0.02, "betas": (0.8, 0.999), "weight_decay": 0.01}),
        ("adamw", torch.optim.AdamW, {"lr": 0.02, "betas": (0.8, 0.999), "weight_decay": 0.01}),
    ],
)
def test_constants_reach_the_optimizer(
    make_expert: Callable[..., ExpertSpec],
    name: Any,  # noqa: ANN401 one of the literals
    kind: type,
    constants: dict[str, object],
) -> None:
    """The momentum is Adam's first decay rate; only AdamW decouples the weight decay."""
    optimizer = {"optimizer": name, "momentum": 0.8, "weight_decay": 0.01}
    trainer = start(make_expert(**optimizer, lr=0.02))
    assert type(trainer._optimizer) is kind
    (group,) = trainer._optimizer.param_groups
    assert {key: group[key] for key in constants} == constants
    assert len(group["params"]) == 6  # convolution, norm and head, each with a bias


def test_scheduled_rate_is_the_one_of_the_step(make_expert: Callable[..., ExpertSpec]) -> None:
    """The optimizer's rate after a step is the schedule's rate for that step, not for the next."""
    spec = make_expert(schedule="cosine", lr=0.1, steps=3)
    trainer = start(spec)
    for step in range(3):
        trainer.advance()
        assert trainer._optimizer.param_groups[0]["lr"] == learning_rate(
            spec.hyperparameters, step=step
        )


def test_sgd_step_is_the_one_worked_out_by_hand(make_expert: Callable[..., ExpertSpec]) -> None:
    """On features of zero, the head's bias moves by lr times the mean of (one-hot - 1/3)."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    trainer = start(make_expert(lr=0.5, batch_size=12), module=module)
    with torch.no_grad():
        for parameter in [*module.parameters(), *trainer.head.parameters()]:
            parameter.zero_()
    labels = np.zeros(12, dtype=np.int64)
    trainer.train = Split(images=TRAIN.images, labels=labels)
    trainer.advance()
    expected = torch.tensor([0.5 * 2 / 3, -0.5 / 3, -0.5 / 3])
    torch.testing.assert_close(trainer.head.bias.detach(), expected)
    assert trainer.losses == pytest.approx([math.log(3)])
    assert trainer.step == 1


def test_dropout_depends_on_seed_and_step_alone(make_expert: Callable[..., ExpertSpec]) -> None:
    """Random numbers that other code draws between the steps change nothing."""
    quiet, noisy = start(make_expert()), start(make_expert())
    for _ in range(3):
        quiet.advance()
        torch.rand(5)
    torch.manual_seed(1234)
    for _ in range(3):
        noisy.advance()
    assert noisy.losses == quiet.losses


def test_sharpened_step_is_the_one_worked_out_by_hand(
    make_expert: Callable[..., ExpertSpec],
) -> None:
    """The gradient is taken at distance rho along the first gradient; the loss is the first one."""
    sharp = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "sam_rho": 0.5}
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    trainer = start(make_expert(**sharp, lr=0.1), module=module)
    inputs, labels = trainer._batch()
    weights = [*module.parameters(), *trainer.head.parameters()]
    before = [weight.detach().clone() for weight in weights]

    def gradients() -> tuple[torch.Tensor, ...]:
        loss = nn.functional.cross_entropy(trainer.head(module(inputs)), labels)
        return torch.autograd.grad(loss, weights)

    here = gradients()
    norm = torch.cat([gradient.flatten() for gradient in here]).norm()
    with torch.no_grad():
        for weight, gradient in zip(weights, here, strict=True):
            weight.add_(gradient, alpha=float(0.5 / norm))
    there = gradients()
    with torch.no_grad():
        for weight, kept in zip(weights, before, strict=True):
            weight.copy_(kept)
    trainer.advance()
    for weight, kept, gradient in zip(weights, before, there, strict=True):
        torch.testing.assert_close(weight.detach(), kept - 0.1 * gradient)
    loss = nn.functional.cross_entropy(trainer.head(module(inputs)), labels).detach()
    assert len(trainer.losses) == 1
    assert trainer.losses[0] > float(loss)


def test_sharpened_step_shows_its_images_to_batch_norm_once(
    make_expert: Callable[..., ExpertSpec],
) -> None:
    """BatchNorm's statistics equal those of a step without SAM."""
    sharp = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "sam_rho": 0.5}
    trainers = [start(make_expert()), start(make_expert(**sharp))]
    plain, sharpened = (trainer.backbone.module[1] for trainer in trainers)  # type: ignore[index]
    for trainer in trainers:
        trainer.advance()
    assert torch.equal(plain.running_mean, sharpened.running_mean)
    assert int(sharpened.num_batches_tracked) == 1
    assert sharpened.track_running_stats
    assert trainers[0].losses == trainers[1].losses
    assert not torch.equal(trainers[0].head.weight, trainers[1].head.weight)


def test_divergence_of_the_sharpened_loss_keeps_the_weights_before_the_step(
    make_expert: Callable[..., ExpertSpec],
) -> None:
    """Only the second loss is not finite; neither the step nor the loss is counted."""
    sharp = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "sam_rho": 1e38}
    trainer = start(make_expert(**sharp))
    before = trainer.head.weight.detach().clone()
    with pytest.raises(DivergedError, match="at step 0"):
        trainer.advance()
    assert torch.equal(trainer.head.weight, before)
    assert (trainer.step, trainer.losses) == (0, [])


def test_frozen_head_does_not_change(make_expert: Callable[..., ExpertSpec]) -> None:
    """Neither weight decay nor momentum changes the head; the backbone is trained."""
    adam = {"optimizer": "adamw", "momentum": 0.9, "weight_decay": 0.1}
    spec = make_expert(**adam, head="frozen", probe_l2=1.0)
    trainer = start(spec)
    before = stored(trainer)
    for _ in range(3):
        trainer.advance()
    after = stored(trainer)
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert {name for name in moved if name.startswith("head.")} == set()
    assert {"backbone.0.weight", "backbone.1.weight"} <= moved
    assert {name for name in after if name.startswith("optimizer.4.")} == set()


@pytest.mark.parametrize(
    "kind",
    [{"average_weights": "ema", "ema_decay": 0.5}, {"average_weights": "swa", "swa_start": 0.25}],
    ids=["ema", "swa"],
)
def test_expert_has_the_mean_and_the_training_keeps_its_own_weights(
    make_expert: Callable[..., ExpertSpec], kind: dict[str, Any]
) -> None:
    """Both include running statistics; training continues as if there were no mean."""
    trainer, plain = start(make_expert(**kind, steps=4)), start(make_expert(steps=4))
    weights = []
    for _ in range(4):
        trainer.advance()
        plain.advance()
        weights.append(stored(plain))
        with trainer.expert_weights() as tensors:
            expert = {name: tensor.clone() for name, tensor in tensors.items()}
        for name, tensor in weights[-1].items():
            assert torch.equal(trainer.state()[name], tensor)
    shares = [1, 2, 4, 8] if kind["average_weights"] == "ema" else [0, 1, 1, 1]
    for name in ("backbone.0.weight", "backbone.1.running_mean", "head.bias"):
        parts = [share * each[name] for share, each in zip(shares, weights, strict=True)]
        torch.testing.assert_close(expert[name], sum(parts) / sum(shares))
    assert int(expert["backbone.1.num_batches_tracked"]) == 4


def test_expert_without_a_mean_has_the_last_weights(
    make_expert: Callable[..., ExpertSpec],
) -> None:
    """This includes a training that diverges before its mean begins."""
    late = {"average_weights": "swa", "swa_start": 0.75}
    for trainer in (start(make_expert()), start(make_expert(**late, steps=8))):
        trainer.advance()
        with trainer.expert_weights() as tensors:
            assert all(torch.equal(each, trainer.state()[name]) for name, each in tensors.items())


def test_augmented_images_reach_the_model(make_expert: Callable[..., ExpertSpec]) -> None:
    """Augmentation changes the first loss."""
    trainers = [start(make_expert(augment=each)) for each in ("none", "flip")]
    for trainer in trainers:
        trainer.advance()
    assert trainers[0].losses != trainers[1].losses


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_statistics_do_not_move(
    make_expert: Callable[..., ExpertSpec], *, freeze: bool
) -> None:
    """BatchNorm's weights are trained in both cases, its statistics in one."""
    trainer = start(make_expert(freeze_batch_norm=freeze))
    norm = trainer.backbone.module[1]  # type: ignore[index]
    trainer.backbone.module.eval()
    trainer.set_training_mode()
    trainer.advance()
    assert trainer.backbone.module.training
    assert bool((norm.running_mean == 0).all()) is freeze
    assert bool((norm.weight != 1).any())


def test_loss_that_is_not_finite_takes_no_step(
    make_expert: Callable[..., ExpertSpec],
) -> None:
    """The weights are unchanged, and neither the step nor the loss is counted."""
    trainer = start(make_expert())
    with torch.no_grad():
        trainer.head.bias[0] = math.nan
    before = trainer.head.weight.detach().clone()
    with pytest.raises(DivergedError, match="nan at step 0"):
        trainer.advance()
    assert torch.equal(trainer.head.weight, before)
    assert (trainer.step, trainer.losses) == (0, [])


def channels_last_layers() -> nn.Sequential:
    """Returns a network with a channels-last weight."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Dropout(0.2)
    )
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def stored(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Returns a copy of the state as contiguous tensors, as a file has it."""
    return {name: tensor.detach().contiguous().clone() for name, tensor in trainer.state().items()}


OPTIMIZERS = [
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
    {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0},
    {"optimizer": "adam", "momentum": 0.9, "weight_decay": 0.01},
    {"optimizer": "adamw", "momentum": 0.8, "weight_decay": 0.01},
]


VARIANTS: dict[str, dict[str, Any]] = {
    "sam": {"optimizer": "adam", "momentum": 0.9, "weight_decay": 0.01, "sam_rho": 0.1},
    "nesterov": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "nesterov": True},
    "ema": {"average_weights": "ema", "ema_decay": 0.9},
    "swa": {"average_weights": "swa", "swa_start": 0.3},
    "frozen": {"head": "frozen", "probe_l2": 1.0},
    "linear": {"schedule": "linear", "warmup_steps": 3},
    "crop": {"augment": "crop_flip"},
    "linearised": {"linearised": True, "freeze_batch_norm": True},
    "together": {
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 0.01,
        "sam_rho": 0.1,
        "average_weights": "ema",
        "ema_decay": 0.9,
        "head": "frozen",
        "probe_l2": 1.0,
        "augment": "flip",
        "linearised": True,
        "freeze_batch_norm": True,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [1, 4])
def test_restored_training_of_any_kind_takes_the_same_steps(
    make_expert: Callable[..., ExpertSpec], variant: str, step: int
) -> None:
    """Steps and the mean of the weights are equal, before and after the mean begins."""
    spec = make_expert(**{"lr": 0.01, "steps": 8, **VARIANTS[variant]})
    trainer = start(spec, module=channels_last_layers())
    while trainer.step < step:
        trainer.advance()
    state = stored(trainer)
    other = start(spec, module=channels_last_layers())
    other.restore(state, step=step)
    while trainer.step < 8:
        trainer.advance()
        other.advance()
    assert other.losses == trainer.losses
    expected = trainer.state()
    assert expected.keys() == other.state().keys()
    assert all(torch.equal(each, expected[name]) for name, each in other.state().items())
    with trainer.expert_weights() as mine, other.expert_weights() as theirs:
        assert all(torch.equal(each, mine[name]) for name, each in theirs.items())


@pytest.mark.parametrize("mode", ["none", "ema"])
def test_missing_or_unexpected_mean_is_refused(
    make_expert: Callable[..., ExpertSpec], mode: str
) -> None:
    """A checkpoint of a training with another averaging mode does not fit."""
    ema = {"average_weights": "ema", "ema_decay": 0.9}
    kinds = {"none": {}, "ema": ema}
    trainer = start(make_expert(**kinds.pop(mode)))
    (other_kind,) = kinds.values()
    other = start(make_expert(**other_kind))
    trainer.advance()
    with pytest.raises(StateMismatchError, match=r"average\.backbone"):
        other.restore(stored(trainer), step=1)
    assert other.step == 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "plain", "adam", "adamw"])
@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "moving"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("step", [0, 1, 4])
def test_restored_training_takes_the_same_steps(
    make_expert: Callable[..., ExpertSpec],
    optimizer: dict[str, Any],
    schedule: str,
    *,
    freeze: bool,
    step: int,
) -> None:
    """Weights, statistics, momenta and losses are equal bit for bit, for every optimizer."""
    spec = make_expert(**optimizer, freeze_batch_norm=freeze, schedule=schedule, lr=0.01, steps=8)
    trainer = start(spec, module=channels_last_layers())
    while trainer.step < step:
        trainer.advance()
    state = stored(trainer)
    other = start(spec, module=channels_last_layers())
    other.restore(state, step=step)
    while trainer.step < 8:
        trainer.advance()
        other.advance()
    assert other.losses == trainer.losses
    expected = trainer.state()
    assert all(torch.equal(each, expected[name]) for name, each in other.state().items())


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "plain", "adam", "adamw"])
def test_restored_momenta_have_the_memory_layout_of_their_weights(
    make_expert: Callable[..., ExpertSpec], optimizer: dict[str, Any]
) -> None:
    """A fused optimizer reads both in memory order."""
    spec = make_expert(**optimizer)
    trainer = start(spec, module=channels_last_layers())
    trainer.advance()
    other = start(spec, module=channels_last_layers())
    other.restore(stored(trainer), step=1)
    names = {name for name in trainer.state() if name.startswith("optimizer.")}
    assert bool(names) is (optimizer["momentum"] > 0)
    assert names == {name for name in other.state() if name.startswith("optimizer.")}
    layouts = {name: tensor.stride() for name, tensor in trainer.state().items()}
    assert {name: tensor.stride() for name, tensor in other.state().items()} == layouts
    weights = trainer.backbone.module[0].weight  # type: ignore[index, union-attr]
    assert not weights.is_contiguous()


def test_restoring_removes_later_momenta(make_expert: Callable[..., ExpertSpec]) -> None:
    """A trainer that has taken more steps returns to a state without momenta."""
    fresh, used = start(make_expert()), start(make_expert())
    state = stored(fresh)
    for _ in range(3):
        used.advance()
    used.restore(state, step=0)
    fresh.advance()
    used.advance()
    assert used.losses == fresh.losses
    assert all(torch.equal(each, fresh.state()[name]) for name, each in used.state().items())


def test_restored_training_shares_no_memory_with_the_state(
    make_expert: Callable[..., ExpertSpec],
) -> None:
    """The state may be a memory-mapped file that is deleted."""
    spec = make_expert(**OPTIMIZERS[2])
    trainer, other = start(spec), start(spec)
    trainer.advance()
    state = stored(trainer)
    other.restore(state, step=1)
    trainer.advance()
    for tensor in state.values():
        tensor.zero_()
    other.advance()
    assert all(torch.equal(each, trainer.state()[name]) for name, each in other.state().items())


@pytest.mark.parametrize(
    "change",
    [
        {"head.bias": None},
        {"head.more": torch.zeros(1)},
        {"head.bias": torch.zeros(4)},
        {"head.bias": torch.zeros(3, dtype=torch.float64)},
        {"optimizer.0.exp_avg": None},
        {"optimizer.0.exp_avg": torch.zeros(1)},
        {"optimizer.0.step": torch.zeros(1)},
        {"optimizer.0.momentum_buffer": torch.zeros(4, 3, 3, 3)},
        {"optimizer.6.step": torch.tensor(1.0)},
        {"elsewhere": torch.zeros(1)},
        {"losses": None},
        {"losses": torch.zeros(2, dtype=torch.float64)},
        {"losses": torch.zeros(1, dtype=torch.float32)},
    ],
    ids=str,
)
def test_state_of_another_training_is_refused_and_changes_nothing(
    make_expert: Callable[..., ExpertSpec], change: dict[str, torch.Tensor | None]
) -> None:
    """The message names the tensors that do not fit."""
    spec = make_expert(**OPTIMIZERS[2])
    trainer, other = start(spec), start(spec)
    trainer.advance()
    changed = {**stored(trainer), **change}
    before = stored(other)
    (name,) = change
    with pytest.raises(StateMismatchError, match=name):
        other.restore({key: each for key, each in changed.items() if each is not None}, step=1)
    assert other.step == 0
    assert other.losses == []
    assert all(torch.equal(each, before[name]) for name, each in other.state().items())
    assert other.state().keys() == before.keys()


def test_recent_loss_is_the_mean_of_the_last_tenth() -> None:
    """The mean covers the last three of 30 steps and the last one of fewer than 20 steps.

    There is no mean without steps.
    """
    losses = [float(step) for step in range(30)]
    assert recent_loss(losses) == pytest.approx(28.0)
    assert recent_loss(losses[:15]) == pytest.approx(14.0)
    assert recent_loss([]) is None


@pytest.mark.parametrize("num_steps", [0, 1, 5, 20, 39, 40, 1000])
def test_curve_is_short_and_holds_means(num_steps: int) -> None:
    """If the losses equal their steps, every point is the middle of its interval."""
    curve = loss_curve([float(step) for step in range(num_steps)])
    assert len(curve) <= 2 * CURVE_POINTS
    assert len(curve) >= min(num_steps, CURVE_POINTS)
    begins = [0, *(stop for stop, _ in curve)]
    for begin, (stop, mean) in zip(begins, curve, strict=False):
        assert mean == pytest.approx((begin + stop - 1) / 2)


def test_head_depends_on_seed_and_task() -> None:
    """Creating a head does not change torch's random state."""
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    heads = [
        create_head(4, num_classes=3, seed=seed, task=task).weight
        for seed, task in ((0, "task"), (0, "task"), (1, "task"), (0, "other"))
    ]
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[3])
