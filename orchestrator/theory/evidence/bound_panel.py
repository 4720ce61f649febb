"""Arranges the theory's statements about merges as the panel arranges their measured losses."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.theory.labels import Form, Labelled, Word
from orchestrator.bounds.merge_bounds import MergeBounds
from orchestrator.bounds.statements import STRENGTH
from orchestrator.theory.features import SCORE, Predictor
from orchestrator.theory.panel import Array, Mask, Panel

BoundsByCell = Mapping[tuple[str, str, str], MergeBounds]
"""The statements about merges, by the names of setting, method and group."""

DESCENT, INTERFERENCE, NOISE, GENERALISATION = (
    "descent",
    "interference",
    "noise",
    "generalisation",
)
TERMS = (DESCENT, INTERFERENCE, NOISE, GENERALISATION)
"""The four parts of the proved form of the test loss that move along an axis."""
Cells = Sequence[Sequence[MergeBounds | None]]
BASE_LOSS, TRAINING_LOSS, TEST_LOSS = "loss at the base", "training loss", "test loss"
STABILITY, SQUARED_GRADIENT, EXCESS_RISK = "stability", "squared gradient", "excess risk"
COMPARED = (TRAINING_LOSS, TEST_LOSS, STABILITY, SQUARED_GRADIENT, EXCESS_RISK)
"""The quantities whose order is compared with that of the measured losses."""
SHORT_WORDS = {Word.BOUND: "bound", Word.SCORE: SCORE, Word.OUTSIDE: Word.OUTSIDE.value}


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One quantity of one form for the merges of a panel."""

    quantity: str
    form: Form
    words: tuple[Word, ...]
    """(S,): the weakest word of the merges at each setting."""
    values: Array
    """(S, G): NaN for merges without the statement."""

    @property
    def label(self) -> str:
        """The form with the weakest word of all: as a whole, the numbers are worth no more."""
        return label_of(self.form, min(self.words, key=STRENGTH.index))

    def label_at(self, setting: int) -> str:
        """Returns the label of the numbers of one setting."""
        return label_of(self.form, self.words[setting])

    @property
    def name(self) -> str:
        """The quantity with its form."""
        return f"{self.quantity} {self.form}"


@dataclass(frozen=True, kw_only=True)
class BoundPanel:
    """The statements about the merges of a panel.

    Shapes: S settings, G groups of the panel.
    """

    known: Mask
    """(S, G): whether there are statements about the merge."""
    statements: tuple[Statement, ...]
    """The statements that are finite for some merge."""
    reach: Array
    """(S,): the largest reach at each setting, in training lengths times curvature; NaN if the
    curvature was not measured."""
    path_reach: Array
    """(S,): the path reach of the experts that is farthest from 0; NaN if none was measured."""


def label_of(form: Form, word: Word) -> str:
    """Returns the label of a formula's number: its word and its form."""
    return f"{SHORT_WORDS[word]}: {form} form"


def bound_panel(panel: Panel, bounds: BoundsByCell) -> BoundPanel:
    """Returns the statements about a panel's merges."""
    cells = [
        [bounds.get((setting, panel.method, group)) for group in panel.groups]
        for setting in panel.settings
    ]
    found = [[each for each in row if each is not None] for row in cells]
    shape = (len(panel.settings), len(panel.groups))
    return BoundPanel(
        known=np.array([[each is not None for each in row] for row in cells]).reshape(shape),
        statements=tuple(_statements(cells)),
        reach=np.array([_farthest(each.reach.worst for each in row) for row in found]),
        path_reach=np.array([_farthest(each.reach.path for each in row) for row in found]),
    )


def bound_predictors(panel: Panel, bounds: BoundsByCell) -> Iterator[Predictor]:
    """Yields the statements as predictors, ln of each; those that are above 0 for all merges."""
    for each in bound_panel(panel, bounds).statements if bounds else ():
        if each.quantity in COMPARED and (each.values > 0).all():
            yield Predictor(
                name=f"{each.name}, measured constants",
                label=each.label,
                needs="the base's gradients"
                + ("" if each.quantity == STABILITY else " and curvature"),
                features=np.log(each.values)[:, :, None],
            )


def _statements(cells: Cells) -> Iterator[Statement]:
    for quantity, form, read in _READERS:
        rows = [[None if each is None else read(each) for each in row] for row in cells]
        values = np.array(
            [[math.nan if each is None else each.value for each in row] for row in rows]
        )
        if np.isfinite(values).any():
            yield Statement(
                quantity=quantity,
                form=form,
                words=tuple(_weakest(each for each in row if each is not None) for row in rows),
                values=np.where(np.isfinite(values), values, np.nan),
            )


def _weakest(numbers: Iterator[Labelled]) -> Word:
    """Returns the weakest word; that of nothing at all is worth least."""
    return min((each.word for each in numbers), key=STRENGTH.index, default=Word.OUTSIDE)


def _farthest(values: Iterator[float | None]) -> float:
    return max((each for each in values if each is not None), key=abs, default=math.nan)


def _term(name: str) -> Callable[[MergeBounds], Labelled]:
    return lambda bounds: bounds.proved(bounds.risk.terms[name])


_READERS: tuple[tuple[str, Form, Callable[[MergeBounds], Labelled]], ...] = (
    (BASE_LOSS, Form.PROVED, lambda bounds: bounds.proved(bounds.risk.training.base_loss)),
    *((name, Form.PROVED, _term(name)) for name in TERMS),
    (TRAINING_LOSS, Form.PROVED, lambda bounds: bounds.training_loss),
    (TEST_LOSS, Form.PROVED, lambda bounds: bounds.proved(bounds.risk.test_loss)),
    (STABILITY, Form.PROVED, lambda bounds: bounds.stability),
    (STABILITY, Form.STATED, lambda bounds: bounds.stated_stability),
    (SQUARED_GRADIENT, Form.STATED, lambda bounds: bounds.stated_gradient),
    (EXCESS_RISK, Form.STATED, lambda bounds: bounds.stated_excess),
)
"""Each quantity with its form; the two forms are never mixed."""
