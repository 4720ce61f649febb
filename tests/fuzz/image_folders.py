"""Own tasks in class folders with random faults, for `plan` and `prepare`."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from case import NASTY_TEXTS, Case, Command
from PIL import Image

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

SIZE = 8
PREPARED_FRACTION = 1 / 40


def make(rng: random.Random, folder: Path) -> Case:
    """Writes a study of two folders of images, one or both with faults, and prepares it."""
    about = []
    commands, tasks = commands_and_tasks(rng)
    for task in tasks:
        write_task(folder / task, rng)
        for _ in range(rng.choice([0, 1, 1, 2] if len(tasks) == 2 else [0, 0, 0, 1])):
            mutation = rng.choice(MUTATIONS)
            mutation(folder / task, rng)
            about.append(f"{task}: {mutation.__name__.strip('_').replace('_', ' ')}")
    write_study(folder, own={task: {"folder": f"./{task}"} for task in tasks}, rng=rng)
    return Case(commands=commands, about=about)


def commands_and_tasks(rng: random.Random) -> tuple[list[Command], list[str]]:
    """Returns `plan` and two tasks; or, as Ray takes its time, rarely `prepare` and ten tasks."""
    if rng.random() > PREPARED_FRACTION:
        return [("plan", "study.yaml")], ["first", "second"]
    commands = [("plan", "study.yaml"), ("prepare", "study.yaml")]
    return commands, [f"task{number}" for number in range(10)]


def write_study(folder: Path, *, own: dict[str, dict[str, object]], rng: random.Random) -> None:
    """Writes the smallest study of own tasks."""
    tasks: dict[str, object] = {"own": own}
    if rng.random() < 0.3:
        tasks["evaluate_on"] = "validation"
    if rng.random() < 0.3:
        tasks["max_train"] = rng.choice([1, 2, 5])
    fields = {
        "name": "fuzz-own",
        "backbone": {"model": "test_resnet", "weights": "none", "image_size": 32},
        "tasks": tasks,
        "finetune": {"defaults": {"steps": 1, "batch_size": 2, "lr": 0.01}},
        "groups": {"count": 1, "size": 2},
        "merge": [{"method": "average"}],
        "store": "./store",
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(fields, sort_keys=False), "utf-8")


def write_task(folder: Path, rng: random.Random) -> None:
    """Writes two or three classes with a few images in both splits."""
    classes = rng.sample(["cat", "dog", "owl", "Ünï", "a b", "[red]", "0", "1"], rng.choice([2, 3]))
    for split, count in (("train", 4), ("test", 2)):
        for each in classes:
            (folder / split / each).mkdir(parents=True)
            for number in range(count):
                (folder / split / each / f"{number}.png").write_bytes(encoded(rng))


def encoded(
    rng: random.Random,
    *,
    kind: str = "PNG",
    mode: str = "RGB",
    size: tuple[int, int] = (SIZE, SIZE),
) -> bytes:
    """Returns an encoded image of random pixels."""
    pixels = np.frombuffer(rng.randbytes(size[0] * size[1] * 3), dtype=np.uint8)
    picture = Image.fromarray(pixels.reshape(size[1], size[0], 3)).convert(mode)
    held = io.BytesIO()
    picture.save(held, kind)
    return held.getvalue()


def _some_file(task: Path, rng: random.Random) -> Path:
    files = sorted(path for path in task.rglob("*") if path.is_file() and not path.is_symlink())
    return rng.choice(files) if files else task / "train" / "lost.png"


def _some_class(task: Path, rng: random.Random) -> Path:
    folders = sorted(path for path in task.glob("*/*") if path.is_dir() and not path.is_symlink())
    return rng.choice(folders) if folders else task


def _file_of_no_bytes(task: Path, rng: random.Random) -> None:
    _some_file(task, rng).write_bytes(b"")


def _file_cut_off(task: Path, rng: random.Random) -> None:
    path = _some_file(task, rng)
    content = path.read_bytes() if path.exists() else b""
    path.write_bytes(content[: rng.randrange(len(content) + 1)])


def _file_with_a_flipped_byte(task: Path, rng: random.Random) -> None:
    path = _some_file(task, rng)
    content = bytearray(path.read_bytes() if path.exists() else b"")
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _file_that_is_a_page(task: Path, rng: random.Random) -> None:
    _some_file(task, rng).write_text("<html><body>404 not found</body></html>")


def _file_of_another_kind(task: Path, rng: random.Random) -> None:
    kind, mode = rng.choice(
        [
            ("GIF", "P"),
            ("TIFF", "I;16"),
            ("TIFF", "CMYK"),
            ("PNG", "1"),
            ("PNG", "LA"),
            ("WEBP", "RGB"),
            ("BMP", "RGB"),
            ("JPEG", "L"),
            ("TIFF", "F"),
        ]
    )
    try:
        content = encoded(rng, kind=kind, mode=mode)
    except (OSError, ValueError):
        content = encoded(rng)
    _some_file(task, rng).write_bytes(content)


def _file_of_an_odd_shape(task: Path, rng: random.Random) -> None:
    size = rng.choice([(1, 1), (1, 500), (3000, 2), (2, 3000), (33, 31)])
    _some_file(task, rng).write_bytes(encoded(rng, size=size))


def _odd_name(task: Path, rng: random.Random) -> None:
    name = rng.choice([text for text in NASTY_TEXTS if "/" not in text and 0 < len(text) < 200])
    suffix = rng.choice([".png", ".PNG", ".jfif", ".avif", "", ".txt", ".png.tmp"])
    (_some_class(task, rng) / f"{name}{suffix}").write_bytes(encoded(rng))


def _name_that_is_not_text(task: Path, rng: random.Random) -> None:
    folder = os.fsencode(_some_class(task, rng))
    Path(os.fsdecode(folder + b"/\xff\xfe")).mkdir(exist_ok=True)
    Path(os.fsdecode(folder + b"/\xfa.png")).write_bytes(encoded(rng))


def _stray_file(task: Path, rng: random.Random) -> None:
    name = rng.choice(
        ["notes.txt", ".DS_Store", "Thumbs.db", "README", "labels.csv", "x.png", "a.zip"]
    )
    rng.choice([task, task / "train", task / "test", _some_class(task, rng)]).joinpath(
        name
    ).write_bytes(b"x")


def _side_folder(task: Path, rng: random.Random) -> None:
    name = rng.choice([".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git", "part2", "train"])
    folder = rng.choice([task, task / "train", _some_class(task, rng)]) / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "copy.png").write_bytes(encoded(rng))


def _linked_folder(task: Path, rng: random.Random) -> None:
    target = rng.choice([_some_class(task, rng), task, Path("/nonexistent"), task / "train"])
    link = _some_class(task, rng) / rng.choice(["part2", "loop", "linked.png"])
    if not link.exists() and not link.is_symlink():
        link.symlink_to(target.resolve() if target.exists() else target)


def _special_file(task: Path, rng: random.Random) -> None:
    path = _some_class(task, rng) / "pipe.png"
    if not path.exists():
        os.mkfifo(path)


def _class_without_images(task: Path, rng: random.Random) -> None:
    for path in _some_class(task, rng).glob("*"):
        if not path.is_dir():
            path.unlink()


def _class_in_one_split(task: Path, rng: random.Random) -> None:
    folder = rng.choice([task / "train", task / "test"]) / rng.choice(["zebra", "CAT", "dog "])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0.png").write_bytes(encoded(rng))


def _split_of_another_name(task: Path, rng: random.Random) -> None:
    target = task / rng.choice(["val", "validation", "eval", "Test", "dev"])
    if (task / "test").is_dir() and not target.exists():
        (task / "test").rename(target)


def _second_test_split(task: Path, rng: random.Random) -> None:
    (task / rng.choice(["val", "validation"])).mkdir(exist_ok=True)
    write_stray = task / "val" / "unlabelled.png"
    if write_stray.parent.is_dir() and rng.random() < 0.5:
        write_stray.write_bytes(encoded(rng))


def _same_image_in_both_splits(task: Path, rng: random.Random) -> None:
    content = encoded(rng)
    for split in ("train", "test"):
        for folder in sorted((task / split).glob("*"))[:1]:
            if folder.is_dir():
                (folder / "same.png").write_bytes(content)


MUTATIONS: tuple[Callable[[Path, random.Random], None], ...] = (
    _file_of_no_bytes,
    _file_cut_off,
    _file_with_a_flipped_byte,
    _file_that_is_a_page,
    _file_of_another_kind,
    _file_of_an_odd_shape,
    _odd_name,
    _name_that_is_not_text,
    _stray_file,
    _side_folder,
    _linked_folder,
    _special_file,
    _class_without_images,
    _class_in_one_split,
    _split_of_another_name,
    _second_test_split,
    _same_image_in_both_splits,
)
