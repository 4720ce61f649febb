"""The cells of a study's result table, and the choices of parameters that they share."""

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace

from eval.digests import sha256_of_bytes
from orchestrator.plan.groups import Group
from orchestrator.plan.settings import Setting
from orchestrator.study.schema import Merge
from workers.specs.merge import MergeSpec

_DIGEST_LENGTH = 16


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of the result table: one method on one group at one setting."""

    setting: Setting
    label: str
    """The method's name in the study's tables."""
    group: Group
    merge: MergeSpec


def share_choices(
    methods: Iterable[tuple[str, Merge]], cells: Iterable[Cell]
) -> tuple[tuple[Cell, ...], dict[str, tuple[str, ...]]]:
    """Returns the cells with shared choices, and the ids of the merges that choose, by digest.

    Args:
        methods: The methods of the study's tables with their labels.
        cells: All its cells, as if each merge chose on its own group.
    """
    cells = tuple(cells)
    scopes = {label: each.tuned_over for label, each in methods if each.tuned_over != "group"}
    ids: dict[Hashable, dict[str, None]] = {}
    for cell in cells:
        if cell.label in scopes:
            ids.setdefault(_scope(cell, scopes), {})[cell.merge.id] = None
    digests = {scope: _digest(each) for scope, each in ids.items()}
    shared = tuple(
        replace(cell, merge=_shared(cell, over=digests[_scope(cell, scopes)]))
        if cell.label in scopes
        else cell
        for cell in cells
    )
    return shared, {digests[scope]: tuple(sorted(each)) for scope, each in ids.items()}


def _scope(cell: Cell, scopes: Mapping[str, str]) -> Hashable:
    """Returns the key that the merges of one choice share."""
    return (cell.label, cell.setting.name if scopes[cell.label] == "setting" else None)


def _digest(ids: Collection[str]) -> str:
    return sha256_of_bytes("\n".join(sorted(ids)).encode())[:_DIGEST_LENGTH]


def _shared(cell: Cell, *, over: str) -> MergeSpec:
    assert cell.merge.tuning is not None
    return replace(cell.merge, tuning=replace(cell.merge.tuning, over=over))
