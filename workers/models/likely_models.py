"""Finds the timm model that a file of weights belongs to, for the message that refuses the file."""

import difflib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import timm
from torch import Tensor

from workers.models.matched_names import expected_tensors, match_names

SEARCH_S = 10.0
"""Longest search. Building a model without memory takes 0.1 s; timm has 1,400 models."""
NUM_SIMILAR = 50
"""Models with similar names that are compared."""
MIN_AGREEMENT = 0.6
"""Least agreement of a model with the file that makes it worth naming."""


@dataclass(frozen=True, kw_only=True)
class LikelyModel:
    """A model that the file may belong to."""

    model: str
    agreement: float
    """Mean of two shares of the tensors of the file and the model together: the share that agrees
    in name, and the share that agrees in name and shape. 1 if the file fits the model."""

    def __str__(self) -> str:
        """Returns a clause for a message."""
        if self.agreement == 1:
            return f"it looks like {self.model}"
        return f"the nearest of timm's models is {self.model}, but it does not fit either"


def likely_model(
    found: Mapping[str, Tensor],
    *,
    model: str,
    file_name: str,
    clock: Callable[[], float] = time.monotonic,
) -> LikelyModel | None:
    """Returns the model whose names and shapes agree best with a file's; None if none does.

    The search ends at the first model that fits. It begins with the models in the file's name and
    the models with names like the model's. If none is near, it looks for the nearest family.

    Args:
        found: The file's tensors by name.
        model: The model that the file does not fit.
        file_name: The file's name, which often contains the model's.
        clock: Returns seconds from an arbitrary origin.
    """
    search = _Search(found=found, clock=clock, end_s=clock() + SEARCH_S)
    for candidates in (_named(file_name), _similar(timm.list_models(), to=model), _families()):
        if search.best.agreement < MIN_AGREEMENT:
            search.compare(candidates)
    nearest = search.best.model
    search.compare(_similar(timm.list_models(module=_family(nearest)), to=nearest))
    is_another = search.best.model != model and search.best.agreement >= MIN_AGREEMENT
    return search.best if is_another else None


@dataclass(kw_only=True)
class _Search:
    """The models compared so far."""

    found: Mapping[str, Tensor]
    clock: Callable[[], float]
    end_s: float
    best: LikelyModel = LikelyModel(model="", agreement=-1.0)
    compared: set[str] = field(default_factory=set)

    def compare(self, candidates: Iterable[str]) -> None:
        """Compares models with the file until one fits or the time is over."""
        for model in candidates:
            if self.best.agreement == 1 or (self.compared and self.clock() > self.end_s):
                return
            if model in self.compared:
                continue
            self.compared.add(model)
            agreement = _agreement(self.found, model=model)
            if agreement > self.best.agreement:
                self.best = LikelyModel(model=model, agreement=agreement)


def _agreement(found: Mapping[str, Tensor], *, model: str) -> float:
    matched = match_names(found, expected=expected_tensors(model))
    num_all = len(matched.names) + len(matched.missing) + len(matched.unexpected)
    num_equal = len(matched.names) - len(matched.wrong_shapes)
    return (len(matched.names) + num_equal) / (2 * num_all)


def _named(file_name: str) -> list[str]:
    """Returns the models whose names are in the file's name, the longest first."""
    plain = file_name.lower().replace("-", "_")
    return sorted((each for each in timm.list_models() if each in plain), key=len, reverse=True)


def _similar(models: Iterable[str], *, to: str) -> list[str]:
    """Returns the models whose names are the most similar to a name, the most similar first."""
    ratio = {each: difflib.SequenceMatcher(None, each, to).ratio() for each in models}
    return sorted(ratio, key=lambda each: (-ratio[each], len(each), each))[:NUM_SIMILAR]


def _families() -> Iterator[str]:
    """Yields the model with the shortest name of each family."""
    for family in timm.list_modules():
        if models := timm.list_models(module=family):
            yield min(models, key=len)


def _family(model: str) -> str:
    return str(timm.model_entrypoint(model).__module__.rpartition(".")[2])
