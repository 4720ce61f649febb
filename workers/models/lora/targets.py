"""Chooses the layers of a backbone that get a LoRA adapter."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from eval.counts import first_names
from workers.models.pretrained_weights import WeightsError
from workers.models.tied_weights import tied_names

AUTO, ALL = "auto", "all"
NUM_NAMES_SHOWN = 8
"""Names in a message; a large model has hundreds of layers."""
_ATTENTION = ("qkv", "proj", "q_proj", "k_proj", "v_proj", "out_proj", "q", "k", "v", "kv")
_SUFFIX_OF_BLOCK = "attn"


class TargetsError(WeightsError):
    """`lora_targets` selects no layer of a model, or a name in it selects none."""


def target_layers(module: nn.Module, *, targets: str) -> tuple[str, ...]:
    """Returns the names of the layers that get an adapter, in the module's order.

    `auto` selects the matrices of attention (`attn.qkv`, `attn.proj` and the like) of a model that
    has any. In other models it selects every matrix, that is linear layers and convolutions with a
    kernel of 1 x 1, if these hold at least half of the weights that `all` would select, and
    otherwise what `all` selects.

    `all` selects every layer that can have an adapter. Anything else is a list of names, separated
    by commas. A name selects the layers that have it, or that end with it after a dot; `*` stands
    for any characters: `qkv`, `blocks.0.*`, `conv_pw`.

    Raises:
        TargetsError: No layer is selected, or a name selects none.
    """
    able = adaptable_layers(module)
    if targets == ALL:
        chosen = tuple(able)
    elif targets == AUTO:
        chosen = tuple(name for name in able if _is_attention(name)) or _matrices(able)
    else:
        chosen = _named(able, targets=targets)
    if not chosen:
        raise TargetsError(f"no layer of the model can have an adapter under {targets!r}")
    return chosen


def adaptable_layers(module: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Returns the layers that can have an adapter whose product is a change of their weights.

    These are plain linear layers, and plain convolutions without groups and dilation. Other
    classes may compute with other weights than they store, for example standardised ones. peft
    would give grouped convolutions an adapter for each group, and dilated ones an adapter that is
    not dilated. Layers that share their weights with others are left out too.
    """
    tied = tied_names(module)
    shared = {name.rpartition(".")[0] for pair in tied.items() for name in pair}
    return {
        name: layer
        for name, layer in module.named_modules()
        if name not in shared
        and (
            (type(layer) is nn.Linear)
            or (type(layer) in (nn.Conv2d, Conv2dSame) and _is_plain(layer))
        )
    }


def _matrices(able: Mapping[str, nn.Linear | nn.Conv2d]) -> tuple[str, ...]:
    """Returns the layers that are matrices, or all if the matrices hold few of the weights."""
    matrices = {name: layer for name, layer in able.items() if _is_matrix(layer)}
    counts = [sum(layer.weight.numel() for layer in each.values()) for each in (matrices, able)]
    return tuple(matrices if 2 * counts[0] >= counts[1] else able)


def _is_plain(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and max(layer.dilation) == 1
        and layer.padding_mode == "zeros"
    )


def _is_matrix(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1)


def _is_attention(name: str) -> bool:
    block, _, layer = name.rpartition(".")
    return layer in _ATTENTION and block.endswith(_SUFFIX_OF_BLOCK)


def _named(able: Mapping[str, nn.Module], *, targets: str) -> tuple[str, ...]:
    patterns = [each.strip() for each in targets.split(",")]
    chosen = {pattern: [name for name in able if _selects(pattern, name)] for pattern in patterns}
    idle = [pattern for pattern, names in chosen.items() if not names]
    if idle:
        raise TargetsError(
            f"{', '.join(map(repr, idle))} selects no layer that can have an adapter; "
            f"these ends of names would: {first_names(_ends(able), most=NUM_NAMES_SHOWN)}"
        )
    selected = {name for names in chosen.values() for name in names}
    return tuple(name for name in able if name in selected)


def _selects(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _ends(names: Iterable[str]) -> list[str]:
    """Returns the last parts of names, and the last two where the last one is a number."""
    ends: dict[str, None] = {}
    for name in names:
        block, _, last = name.rpartition(".")
        ends[f"{block.rpartition('.')[2]}.{last}" if last.isdigit() else last] = None
    return list(ends)
