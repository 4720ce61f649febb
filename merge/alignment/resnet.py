"""The permutations of timm's ResNets: basic or bottleneck blocks with batch normalization."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from merge.alignment.permutations import Axis, check_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from merge.alignment.permutations import Shapes

TensorAxes = tuple[str, tuple[Axis, ...]]
"""A tensor's name with its axes that move."""
Group = str | None
"""Name of a group; None for channels that keep their order."""

_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
_NORM_VECTORS = ("weight", "bias", "running_mean", "running_var")


def is_resnet(shapes: Shapes) -> bool:
    """Returns whether a state looks like a ResNet; `axes` checks every name."""
    return "conv1.weight" in shapes and "layer1.0.conv1.weight" in shapes


def axes(shapes: Shapes) -> dict[str, tuple[Axis, ...]]:
    """Returns the axes that move, for every tensor.

    The channels between two convolutions of a block are a group. The residual stream from one
    projection shortcut to the next is a group too, since an identity shortcut keeps the order. The
    last stream does not move, because a head outside the state reads it.

    Raises:
        UnalignableError: A tensor is unknown, or a tensor that every ResNet has is missing.
    Source: Ainsworth 2022, where the last stream moves together with the head.
    """
    blocks = _blocks(shapes)
    streams = _streams(blocks, shapes=shapes)
    known = dict(_convolution("conv1", norm="bn1", source=None, target=streams[0]))
    for block, source, target in zip(blocks, streams, streams[1:], strict=False):
        known |= dict(_block(block, source=source, target=target, shapes=shapes))
    # Every known tensor is needed. Group normalization, which mixes channels, differs from batch
    # normalization only in that its running statistics are missing.
    check_names(shapes, known=known, needed=known, architecture="ResNet")
    return known


def _blocks(shapes: Shapes) -> list[str]:
    """Returns the prefixes of all blocks in the order in which the network runs through them."""
    found = {(int(match[1]), int(match[2])) for name in shapes if (match := _BLOCK.match(name))}
    return [f"layer{stage}.{block}" for stage, block in sorted(found)]


def _streams(blocks: list[str], *, shapes: Shapes) -> list[Group]:
    """Returns the groups of the residual stream before the first block and after each block."""
    names = ["stem"]
    for block in blocks:
        names.append(block if f"{block}.downsample.0.weight" in shapes else names[-1])
    return [None if name == names[-1] else name for name in names]


def _block(block: str, *, source: Group, target: Group, shapes: Shapes) -> Iterator[TensorAxes]:
    num_convolutions = 3 if f"{block}.conv3.weight" in shapes else 2
    inner = [f"{block}.conv{number}" for number in range(1, num_convolutions)]
    groups: list[Group] = [source, *inner, target]
    for number in range(1, num_convolutions + 1):
        yield from _convolution(
            f"{block}.conv{number}",
            norm=f"{block}.bn{number}",
            source=groups[number - 1],
            target=groups[number],
        )
    if f"{block}.downsample.0.weight" in shapes:
        yield from _convolution(
            f"{block}.downsample.0",
            norm=f"{block}.downsample.1",
            source=source,
            target=target,
        )


def _convolution(name: str, *, norm: str, source: Group, target: Group) -> Iterator[TensorAxes]:
    """Yields the axes of a convolution (output, then input channels) and of its normalization."""
    yield f"{name}.weight", (*_axis(0, group=target), *_axis(1, group=source))
    yield from ((f"{norm}.{vector}", _axis(0, group=target)) for vector in _NORM_VECTORS)
    yield f"{norm}.num_batches_tracked", ()


def _axis(dim: int, *, group: Group) -> tuple[Axis, ...]:
    return () if group is None else (Axis(dim=dim, group=group),)
