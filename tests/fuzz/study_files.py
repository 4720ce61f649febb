"""Study files with random mutations, for `mergesweep plan`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import yaml
from case import NASTY_TEXTS, Case, nasty_value

if TYPE_CHECKING:
    import random
    from pathlib import Path

STUDIES: tuple[dict[str, Any], ...] = (
    {
        "name": "fuzz",
        "seed": 0,
        "backbone": {"model": "test_resnet", "weights": "none", "image_size": 32},
        "tasks": ["mnist_5k", "font_letters", "emoji_objects"],
        "finetune": {
            "optimizer": {"name": "adam", "momentum": 0.9},
            "schedule": "constant",
            "defaults": {"steps": 4, "batch_size": 8, "lr": 0.01, "data_ratio": 1.0, "seed": 0},
            "axes": {"lr": [0.01, 0.02], "steps": [2, 4]},
        },
        "groups": {"count": 3, "size": 2},
        "merge": [
            {"method": "average"},
            {"method": "ties", "density": 0.2, "scaling": 0.6},
            {"method": "dare", "density": 0.5, "batch_norm": "base", "label": "dare with base"},
        ],
        "store": "./store",
        "resources": {"trial": {"cpu": 1}},
        "budget": {"cpu_hours": 4},
        "retries": 1,
        "checkpoint_every_s": 30,
    },
    {
        "name": "fuzz-bases",
        "backbone": {
            "model": "test_resnet",
            "weights": "none",
            "image_size": 32,
            "pretrain": {"tasks": "embedded8", "steps": 4, "batch_size": 8, "lr": 0.001},
            "axes": {"pretrain_steps": [0, 2, 4]},
        },
        "tasks": {
            "suite": "embedded8",
            "names": ["mnist_5k", "mnist_m"],
            "max_train": 100,
            "max_test": 20,
            "evaluate_on": "validation",
        },
        "finetune": {
            "head": {"mode": "probe_first", "l2": 1.0},
            "average_weights": {"mode": "ema", "ema_decay": 0.9},
            "augment": "flip",
            "defaults": {"steps": 4, "lr": 0.01},
            "axes": {"seed": [0, 1]},
            "design": "grid",
        },
        "groups": {"count": 1, "sizes": [2]},
        "merge": [{"method": "emr", "surgery": {"rank": 4, "steps": 2}}],
        "evaluation": {"held_out": True},
        "store": "./store",
    },
)
"""Two valid studies that use most of the fields."""
EXTRA_KEYS = ("axes", "steps", "method", "own", "pretrain", "unknown", "zero_shot", "label", "tune")


def make(rng: random.Random, folder: Path) -> Case:
    """Writes a study file with up to three mutations of its values, its text or its bytes."""
    fields = copy.deepcopy(rng.choice(STUDIES))
    about = [_mutate_value(fields, rng) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=rng.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.35:
        content, how = _mutate_bytes(content, rng)
        about.append(how)
    (folder / "study.yaml").write_bytes(content)
    options = rng.choice([(), (), ("--json",), ("--slots", "3")])
    return Case(commands=[("plan", "study.yaml", *options)], about=about)


def _mutate_value(fields: dict[str, Any], rng: random.Random) -> str:
    """Changes one entry at a random depth; returns the change in words."""
    holder: Any = fields
    path: list[str] = []
    while True:
        if isinstance(holder, dict) and holder:
            key: Any = rng.choice(list(holder))
        elif isinstance(holder, list) and holder:
            key = rng.randrange(len(holder))
        else:
            return "nothing"
        path.append(str(key))
        below = holder[key]
        if isinstance(below, dict | list) and below and rng.random() < 0.75:
            holder = below
            continue
        break
    where = ".".join(path)
    kind = rng.choice(["replace", "replace", "delete", "add", "text", "repeat"])
    if kind == "replace":
        holder[key] = nasty_value(rng)
        return f"{where} = {holder[key]!r}"
    if kind == "delete":
        del holder[key]
        return f"{where} deleted"
    if kind == "add" and isinstance(holder, dict):
        name = rng.choice([*EXTRA_KEYS, *NASTY_TEXTS])
        holder[name] = nasty_value(rng)
        return f"{name!r} = {holder[name]!r} beside {where}"
    if kind == "text":
        holder[key] = str(holder[key])
        return f"{where} as text"
    holder[key] = [holder[key], holder[key]]
    return f"{where} twice"


def _mutate_bytes(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    place = rng.randrange(len(content) + 1)
    lines = content.split(b"\n")
    line = rng.randrange(len(lines))
    inserted = rng.choice(
        [
            b"\t",
            b"\x00",
            b"\xff\xfe",
            b"{",
            b"]",
            b": ",
            b"&a ",
            b"*a",
            b"!!python/object:os.system ",
            b"---\n",
            b"\xed\xa0\x80",
            b"'",
            b"|",
            b"- - ",
        ]
    )
    return rng.choice(
        [
            (content[:place], f"cut at byte {place}"),
            (content[:place] + inserted + content[place:], f"{inserted!r} at byte {place}"),
            (b"\xef\xbb\xbf" + content, "byte order mark"),
            (content.replace(b"\n", b"\r\n"), "carriage returns"),
            (content.decode("utf-8", "replace").encode("utf-16"), "UTF-16"),
            (
                b"\n".join([*lines[:line], *lines[line : line + 1] * 2, *lines[line + 1 :]]),
                f"line {line} twice",
            ),
            (b"", "empty"),
            (bytes(rng.randrange(256) for _ in range(200)), "random bytes"),
            (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n" + content, "aliases"),
            (b"[" * 5000, "deep nesting"),
        ]
    )
