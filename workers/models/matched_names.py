"""Compares the names and shapes of a file's tensors with a timm model's, without any values."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor

from workers.models.backbones import create_backbone
from workers.models.tied_weights import own_state, tied_names

BATCH_COUNT = ".num_batches_tracked"
"""End of the names of BatchNorm's batch counters."""
HEADS = frozenset(
    {"head", "heads", "head_dist", "fc", "classifier", "linear", "last_linear"}
    | {"AuxLogits", "aux1", "aux2"}
)
"""First parts of the names that timm, torchvision and others give to classifiers."""
IMAGE_TOWER = "visual."
"""Prefix of the image tower in checkpoints of open_clip. All other tensors belong to the text."""


@dataclass(frozen=True, kw_only=True)
class ExpectedTensors:
    """The tensors of a timm model, on torch's meta device."""

    model: str
    backbone: Mapping[str, Tensor]
    """The tensors of the backbone, each once."""
    tied: Mapping[str, str]
    """Further names of tensors of the backbone, each with the tensor's name in `backbone`."""
    heads: frozenset[str]
    """First parts of the names of classifiers."""


def expected_tensors(model: str, *, image_size: int | None = None) -> ExpectedTensors:
    """Returns the names, shapes and dtypes of a timm model's tensors.

    Args:
        model: A timm model name.
        image_size: See `create_backbone`.

    Raises:
        WeightsError: timm has no such model.
    """
    with torch.device("meta"):
        module = create_backbone(
            model, seed=0, device=torch.device("meta"), image_size=image_size
        ).module
    defaults: Any = module.default_cfg
    named = defaults.get("classifier") or ()
    own_heads = [named] if isinstance(named, str) else named
    return ExpectedTensors(
        model=model,
        backbone=own_state(module),
        tied=tied_names(module),
        heads=HEADS.union(_first_part(name) for name in own_heads),
    )


def whole_names(model: str) -> list[str]:
    """Returns the names of a timm model with its classifier, in the model's order."""
    with torch.device("meta"):
        return list(timm.create_model(model, pretrained=False).state_dict())


@dataclass(frozen=True, kw_only=True)
class MatchedNames:
    """The tensors of a file by the model's names, and everything that does not match."""

    prefix: str
    """The prefix of the backbone's names in the file, such as `module.`; often empty."""
    names: Mapping[str, str]
    """The file's name of each tensor of the backbone that the file has."""
    tied: Mapping[str, str]
    """The file's other names of tied tensors, each with the file's name in `names`."""
    heads: tuple[str, ...]
    """The file's names of classifiers."""
    text_tower: tuple[str, ...]
    """The file's names outside the image tower of a CLIP model."""
    unexpected: tuple[str, ...]
    """The file's names of all other tensors."""
    missing: tuple[str, ...]
    """The model's names that the file lacks, without batch counters, which may be missing."""
    wrong_shapes: tuple[str, ...]
    """The model's names of tensors whose shapes differ."""

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the model and of the file has its place."""
        return not (self.unexpected or self.missing or self.wrong_shapes)


def match_names(found: Mapping[str, Tensor], *, expected: ExpectedTensors) -> MatchedNames:
    """Finds a model's tensors in a file by their names, below one prefix."""
    prefix = _prefix(found, expected=expected)
    every = {*expected.backbone, *expected.tied}
    present = {name: prefix + name for name in every if prefix + name in found}
    names = {name: place for name, place in present.items() if name in expected.backbone}
    tied = {}
    for name, first in expected.tied.items():
        if name in present:
            in_file = names.setdefault(first, present[name])
            if in_file != present[name]:
                tied[present[name]] = in_file
    used = set(present.values())
    rest = [name for name in found if name not in used]
    heads = [name for name in rest if _is_head(name, prefix=prefix, heads=expected.heads)]
    is_tower = IMAGE_TOWER in prefix
    text = [name for name in rest if is_tower and IMAGE_TOWER not in name and name not in heads]
    return MatchedNames(
        prefix=prefix,
        names={name: names[name] for name in expected.backbone if name in names},
        tied=tied,
        heads=tuple(heads),
        text_tower=tuple(text),
        unexpected=tuple(name for name in rest if name not in {*heads, *text}),
        missing=tuple(
            name
            for name in expected.backbone
            if name not in names and not name.endswith(BATCH_COUNT)
        ),
        wrong_shapes=tuple(
            name
            for name, like in expected.backbone.items()
            if name in names and found[names[name]].shape != like.shape
        ),
    )


def _prefix(found: Mapping[str, Tensor], *, expected: ExpectedTensors) -> str:
    """Returns the prefix below which the file has most of the model's names."""
    counts = Counter({"": 0})
    for name in found:
        for start in _starts(name):
            if name[start:] in expected.backbone:
                counts[name[:start]] += 1
    return min(counts, key=lambda prefix: (-counts[prefix], len(prefix)))


def _starts(name: str) -> Iterator[int]:
    """Yields the positions at which the parts of a name begin."""
    yield 0
    yield from (index + 1 for index, letter in enumerate(name) if letter == ".")


def _is_head(name: str, *, prefix: str, heads: frozenset[str]) -> bool:
    """Returns whether a tensor is a classifier's: beside the backbone, or beside its wrappers."""
    places = [prefix[:start] for start in _starts(prefix)]
    return any(
        name.startswith(place) and _first_part(name[len(place) :]) in heads for place in places
    )


def _first_part(name: str) -> str:
    return name.partition(".")[0]
