"""Finds the timm models whose names are similar to an unknown name."""

import difflib
import re
from collections.abc import Iterable, Sequence

import timm

from workers.check.report import Fault

NUM_SHOWN = 5
"""Similar names in a message."""
_LONG_FORMS = {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge"}
"""timm's words for the sizes that other libraries abbreviate, as in `vit_b_16`."""

_ALL_NAMES = "`timm.list_models(include_tags=True)`"
_HUB_PREFIX = re.compile(r"^(hf[-_]hub:)?timm/")


def name_fault(model: str) -> Fault | None:
    """Returns the fault of a name that timm does not know; None for a model of timm."""
    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        return Fault(
            kind="name",
            fault=f"timm {timm.__version__} has no model {model!r}",
            remedy=did_you_mean(
                similar_names(model, known=timm.list_models()), otherwise=_ALL_NAMES
            ),
        )
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags and model not in timm.list_models(f"{name}.*", include_tags=True):
        return Fault(
            kind="name",
            fault=f"timm {timm.__version__} has no weights {tag!r} of the model {name!r}",
            remedy=did_you_mean(
                (f"{name}.{each}" for each in similar_names(tag, known=tags) or tags[:NUM_SHOWN]),
                otherwise=_ALL_NAMES,
            ),
        )
    return None


def similar_names(wrong: str, *, known: Sequence[str]) -> list[str]:
    """Returns the known names that are most similar to a wrong one, the best first.

    In this order: the same letters and digits (`resnet_18`), all words of the wrong name in their
    order (`mobilenet_v2`), and similar spellings (`eficientnet_b0`).
    """
    words = re.findall(r"[a-z0-9]+", _HUB_PREFIX.sub("", wrong.lower()))
    spelt_out = [_LONG_FORMS.get(word, word) for word in words]
    in_order = re.compile(".*".join(spelt_out))
    with_all_words = [name for name in known if words and in_order.search(name.lower())]
    beginnings = ("_".join(spelt_out), *spelt_out[:1])
    found = [
        *(name for name in known if _letters(name) in {"".join(words), "".join(spelt_out)}),
        *sorted(
            with_all_words,
            key=lambda name: (*(not name.startswith(each) for each in beginnings), len(name)),
        )[:NUM_SHOWN],
        *difflib.get_close_matches("_".join(words), known, n=NUM_SHOWN),
    ]
    return list(dict.fromkeys(found))[:NUM_SHOWN]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def did_you_mean(names: Iterable[str], *, otherwise: str) -> str:
    """Returns the remedy for an unknown name.

    Args:
        names: Similar names, the best first.
        otherwise: The code that returns all names, for a name that is like no other.
    """
    first, *others = [repr(name) for name in names] or [""]
    if not first:
        return f"{otherwise} returns all names"
    return f"did you mean {first}{', or ' * bool(others)}{', '.join(others)}?"
