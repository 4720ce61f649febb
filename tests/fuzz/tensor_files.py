"""Safetensors files with random faults, and random options, for `mergesweep merge`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from case import NASTY_NUMBERS, NASTY_TEXTS, Case
from damage import damage
from safetensors.torch import save_file
from torch import Tensor

from merge.catalogue import CARDS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

States = dict[str, dict[str, Tensor]]
"""The tensors of each file, by the file's name without its suffix."""
DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.uint16,
    torch.uint32,
)
PER_TASK = ("emr", "tall_mask", "twin")
"""Methods that make a model for each task."""
VALUES = (0.0, float("nan"), float("inf"), -float("inf"), 1e38, 1e-38, -1.0)
PARAMETERS = ("scaling", "density", "lambda", "weights", "seed", "SCALING", "")
PLAIN_VALUES = (0.3, 0.5, 1, 2, 0.01, "[0.5, 0.5]", "sum", "model", "tensor", 1e-6, 0.99)


def make(rng: random.Random, folder: Path) -> Case:
    """Writes a base and experts, damages some of them, and merges them."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    base = _model(generator)
    states = {"base": base}
    for number in range(rng.choice([1, 2, 2, 2, 3])):
        states[f"expert{number}"] = {
            name: _moved(tensor, generator) for name, tensor in base.items()
        }
    num_mutations = rng.choice([0, 0, 0, 1, 1, 2])
    about = [_mutate_states(states, rng) for _ in range(num_mutations)]
    for name, state in states.items():
        save_file(
            {key: value.contiguous() for key, value in state.items()},
            folder / f"{name}.safetensors",
            metadata=rng.choice([None, {"format": "pt"}, {"a": "b", "c": "[x]"}]),
        )
    files = [f"{name}.safetensors" for name in states if name != "base"]
    if rng.random() < 0.25:
        about.append(damage(folder / rng.choice(["base.safetensors", *files]), rng))
    return Case(commands=[_command(files, rng)], about=about)


def _command(files: list[str], rng: random.Random) -> tuple[str, ...]:
    method = (
        rng.choice(sorted(CARDS))
        if rng.random() < 0.93
        else rng.choice(["TIES", "tie", "", "none", *NASTY_TEXTS])
    )
    output = (
        "out.safetensors"
        if rng.random() < 0.85
        else rng.choice(
            [
                "out.pth",
                "no/such/out.safetensors",
                ".",
                "base.safetensors",
                f"{'n' * 260}.safetensors",
                "run[final].safetensors",
                ":smile:.safetensors",
                "/dev/full",
                "/proc/out.safetensors",
                "a\nb.safetensors",
                "out",
            ]
        )
    )
    command = ["merge", *files, "--method", method, "--base", "base.safetensors", "-o", output]
    own = [field.name for field in fields(CARDS[method].params)] if method in CARDS else []
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        value: Any = rng.choice([*PLAIN_VALUES, *PLAIN_VALUES, *NASTY_NUMBERS, *NASTY_TEXTS])
        name = rng.choice(own) if own and rng.random() < 0.9 else rng.choice(PARAMETERS)
        command += ["--set", f"{name}={value}"]
    if rng.random() < 0.7:
        return tuple(command) + (("--task", "1") if method in PER_TASK else ())
    extras = [
        ("--align",),
        ("--task", "1"),
        ("--task", "9"),
        ("--prefix", "backbone."),
        ("--batch-norm", "pooled"),
        ("--batch-norm", "base"),
        ("--threads", "3"),
        ("--seed", "-1"),
        ("--seed", str(2**70)),
        ("--overwrite",),
    ]
    for extra in rng.sample(extras, rng.choice([0, 0, 1, 2])):
        command += extra
    return tuple(command)


def _model(generator: torch.Generator) -> dict[str, Tensor]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / 10

    return {
        "conv.weight": draw(8, 3, 3, 3),
        "bn1.weight": draw(8) + 1,
        "bn1.bias": draw(8),
        "bn1.running_mean": draw(8),
        "bn1.running_var": draw(8).abs() + 0.5,
        "bn1.num_batches_tracked": torch.tensor(7),
        "fc.weight": draw(16, 8),
        "fc.bias": draw(16),
    }


def _moved(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor + 1e-2 * torch.randn(tensor.shape, generator=generator).abs()


def _mutate_states(states: States, rng: random.Random) -> str:
    """Applies a random mutation to one tensor, one file or all files."""
    of = rng.choice(list(states))
    if not states[of]:
        return "nothing"
    name = rng.choice(list(states[of]))
    mutation = rng.choice(MUTATIONS)
    mutation(states, of, name, rng)
    return f"{of}, {name}: {mutation.__name__.strip('_').replace('_', ' ')}"


def _tensor_missing(states: States, of: str, name: str, rng: random.Random) -> None:
    del rng, states[of][name]


def _tensor_more(states: States, of: str, name: str, rng: random.Random) -> None:
    more = rng.choice(["extra", f"{name}_scale", "w" * 300, "[bold]w[/]", "a b"])
    states[of][more] = torch.ones(3)


def _tensor_renamed(states: States, of: str, name: str, rng: random.Random) -> None:
    states[of][rng.choice(["module.", "backbone.", "_orig_mod."]) + name] = states[of].pop(name)


def _another_shape(states: States, of: str, name: str, rng: random.Random) -> None:
    flat = states[of][name].reshape(-1)
    states[of][name] = rng.choice([flat, flat.reshape(1, -1), torch.cat([flat, flat])])


def _another_type(states: States, of: str, name: str, rng: random.Random) -> None:
    states[of][name] = states[of][name].to(rng.choice(DTYPES))


def _another_type_everywhere(states: States, of: str, name: str, rng: random.Random) -> None:
    del of, name
    dtype = rng.choice(DTYPES)
    for state in states.values():
        floats = {key: each for key, each in state.items() if each.is_floating_point()}
        state.update({key: each.to(dtype) for key, each in floats.items()})


def _one_value(states: States, of: str, name: str, rng: random.Random) -> None:
    if states[of][name].is_floating_point():
        states[of][name] = torch.full_like(states[of][name], rng.choice(VALUES))


def _far_off(states: States, of: str, name: str, rng: random.Random) -> None:
    if states[of][name].is_floating_point():
        states[of][name] = states[of][name] * rng.choice([1e4, 1e6, -1e20])


def _scalar_and_empty_tensors(states: States, of: str, name: str, rng: random.Random) -> None:
    del of, name, rng
    for state in states.values():
        state.update({"logit_scale": torch.tensor(4.6), "empty": torch.zeros(0, 4)})


def _codes(states: States, of: str, name: str, rng: random.Random) -> None:
    del of, name
    dtype = rng.choice([torch.int8, torch.uint8, torch.int32])
    for state in states.values():
        state["fc.weight"] = torch.arange(128).reshape(16, 8).to(dtype)
        if rng.random() < 0.8:
            state["fc.weight_scale"] = torch.ones(16)


def _lone_variance(states: States, of: str, name: str, rng: random.Random) -> None:
    del of, name, rng
    for state in states.values():
        state.pop("bn1.running_mean", None)


def _no_tensors(states: States, of: str, name: str, rng: random.Random) -> None:
    del name, rng
    states[of].clear()


def _prefix(states: States, of: str, name: str, rng: random.Random) -> None:
    del name, rng
    states[of] = {f"backbone.{key}": each for key, each in states[of].items()}


MUTATIONS: tuple[Callable[[States, str, str, random.Random], None], ...] = (
    _tensor_missing,
    _tensor_more,
    _tensor_renamed,
    _another_shape,
    _another_type,
    _another_type_everywhere,
    _one_value,
    _far_off,
    _scalar_and_empty_tensors,
    _codes,
    _lone_variance,
    _no_tensors,
    _prefix,
)
