"""Arranges the result table by setting, group and task, for one method at a time.

A group has the same tasks at every setting and for every method, so that all comparisons here are
made within groups. A point that several axes share is one setting here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.results.means import Row, ordered_values
from orchestrator.results.schema import MACRO, MEANS

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

COLUMNS = ("loss", "accuracy", "expert_loss", "base_loss", "validation_loss")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The merges of one method.

    Shapes: S settings, G groups, T tasks.
    """

    method: str
    settings: tuple[str, ...]
    """Names of the distinct settings, in the order of the table."""
    groups: tuple[str, ...]
    tasks: tuple[str, ...]
    members: Mask
    """(G, T): whether the group has the task."""
    num_examples: Array
    """(T,): test images of each task."""
    values: Mapping[str, Array]
    """For each of `COLUMNS`, (S, G, T): NaN where there is no merge or no such member."""
    axes: Mapping[str, Mapping[str, int]]
    """For each axis, the index of the setting at each of its values, in the order of the values."""

    def weights(self, mean: str) -> Array:
        """Returns the weight of each task in each group under `macro` or `union`, as (G, T)."""
        raw = self.members * (np.ones(len(self.tasks)) if mean == MACRO else self.num_examples)
        weights: Array = raw / raw.sum(axis=1, keepdims=True)
        return weights

    def group_means(self, column: str, *, mean: str = MACRO) -> Array:
        """Returns the mean over the tasks of each group, as (S, G); NaN for an incomplete merge."""
        weights = self.weights(mean)
        filled = np.where(self.members, self.values[column], 0.0)
        means: Array = (filled * weights).sum(axis=2)
        return np.where(np.isfinite(means), means, np.nan)

    def at(self, settings: Sequence[int]) -> "Panel":
        """Returns the panel of some settings; axes keep the values that are left."""
        new = {old: index for index, old in enumerate(settings)}
        axes = {
            axis: {value: new[index] for value, index in values.items() if index in new}
            for axis, values in self.axes.items()
        }
        return replace(
            self,
            settings=tuple(self.settings[index] for index in settings),
            values={name: array[list(settings)] for name, array in self.values.items()},
            axes={axis: values for axis, values in axes.items() if values},
        )

    def of_groups(self, kept: Mask) -> "Panel":
        """Returns the panel of some groups, as (G,)."""
        return replace(
            self,
            groups=tuple(np.array(self.groups, dtype=object)[kept]),
            members=self.members[kept],
            values={name: array[:, kept] for name, array in self.values.items()},
        )

    def balanced(self) -> "Panel":
        """Returns the largest part in which every group has a finite loss at every setting.

        Groups at fewer than two settings are left out first, as nothing about them can be compared
        across settings; so are settings that lack half of the other groups. Then every group that
        lacks one of the settings is left out.
        """
        known = np.isfinite(self.group_means("loss"))
        repeated = known.sum(axis=0) > 1
        if not repeated.any():
            return self.at(()).of_groups(repeated)
        often = known[:, repeated].mean(axis=1) > 0.5  # noqa: PLR2004 half of the groups
        settings = [int(index) for index in np.flatnonzero(often)]
        whole = repeated & known[settings].all(axis=0)
        return self.at(settings).of_groups(whole)


def panels(
    results: pa.Table, *, with_held_out: bool = False, with_pools: bool = True
) -> tuple[Panel, ...]:
    """Returns the panel of every method of a result table, in the order of the table.

    All panels have the same settings, groups and tasks.

    Args:
        results: The result table.
        with_held_out: Counts held-out tasks as members of the group; otherwise they are left out.
        with_pools: Keeps the settings on the axes of pools, whose merges have experts that neither
            the hyperparameters nor the group tell.
    """
    rows = [
        row
        for row in results.to_pylist()
        if row["task"] not in MEANS
        and (with_held_out or not row["held_out"])
        and (with_pools or row.get("extra") is None)
    ]
    if not rows:
        return ()
    names = _settings(rows)
    frame = _Frame(
        names=names,
        settings=tuple(dict.fromkeys(names.values())),
        groups=tuple(dict.fromkeys(row["group"] for row in rows)),
        tasks=tuple(sorted({row["task"] for row in rows})),
    )
    return tuple(
        frame.panel(method, rows) for method in dict.fromkeys(row["method"] for row in rows)
    )


def _settings(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Returns the name of the distinct setting at each axis and value.

    Settings that share a merge are one point, which keeps its first name.
    """
    owners: dict[str, str] = {}
    names: dict[tuple[str, str], str] = {}
    for row in rows:
        place = (row["axis"], row["value"])
        name = names.setdefault(place, owners.get(row["merge_id"]) or row["setting"])
        owners.setdefault(row["merge_id"], name)
    return names


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The settings, groups and tasks of a result table, which all panels have in common."""

    names: Mapping[tuple[str, str], str]
    settings: tuple[str, ...]
    groups: tuple[str, ...]
    tasks: tuple[str, ...]

    def panel(self, method: str, rows: Sequence[Row]) -> Panel:
        """Returns the panel of a method."""
        setting_at, group_at, task_at = map(_places, (self.settings, self.groups, self.tasks))
        shape = (len(self.settings), len(self.groups), len(self.tasks))
        values = {name: np.full(shape, np.nan) for name in COLUMNS}
        members, num_examples = np.zeros(shape[1:], dtype=bool), np.ones(shape[2])
        for row in rows:
            cell = group_at[row["group"]], task_at[row["task"]]
            members[cell] = True
            num_examples[cell[1]] = row["num_examples"]
            if row["method"] == method:
                at = (setting_at[self.names[row["axis"], row["value"]]], *cell)
                for name in COLUMNS:
                    value = row.get(name)  # tables without tuned merges have no validation loss
                    values[name][at] = np.nan if value is None else value
        return Panel(
            method=method,
            settings=self.settings,
            groups=self.groups,
            tasks=self.tasks,
            members=members,
            num_examples=num_examples,
            values=values,
            axes={axis: self._values(axis, setting_at) for axis, _ in self.names},
        )

    def _values(self, axis: str, setting_at: Mapping[str, int]) -> dict[str, int]:
        values = ordered_values(value for each, value in self.names if each == axis)
        return {value: setting_at[self.names[axis, value]] for value in values}


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}
