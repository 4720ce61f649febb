"""The kinds of further experts that a pool adds to those of a group."""

from collections.abc import Mapping
from typing import Literal

PoolKind = Literal["irrelevant", "relevant"]
Extra = Literal["irrelevant", "relevant", "both"]

IRRELEVANT: PoolKind = "irrelevant"
RELEVANT: PoolKind = "relevant"
POOL_AXES: Mapping[PoolKind, str] = {
    IRRELEVANT: "pool_irrelevant",
    RELEVANT: "pool_relevant",
}
"""The axis of each kind: the number of experts that are merged."""
