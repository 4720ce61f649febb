"""Numbers of the theory that cannot be printed without the word that says what they are worth."""

import math
from dataclasses import dataclass
from enum import StrEnum

REACH_LIMIT = 1 / 2
"""The largest `L_p H`, and for plain SGD the largest `lr L A`, inside the proofs' range."""
GENERAL_REACH_LIMIT = 1 / (2 * math.sqrt(2))
"""The largest `lr L A` inside the range for optimizers other than plain SGD."""
USABLE_PATH_REACH = 1.0
"""Up to this magnitude a second-order expansion along the path is a usable estimate."""
LARGEST_PATH_REACH = 3.0
"""Up to this magnitude it has the right order; beyond, no local theory describes the path."""


class Form(StrEnum):
    """The two forms of each statement, which are never mixed."""

    STATED = "stated"
    """As the seed paper states it, by our reading. Counterexamples exist: never a bound."""
    PROVED = "proved"
    """As it is proved here, inside the range of its proof."""


class Word(StrEnum):
    """The word that a number of the theory carries."""

    BOUND = "bound"
    SCORE = "score, not a bound"
    OUTSIDE = "outside any local theory"


class Reason(StrEnum):
    """Why a number is weaker than its word says; each is a sentence to print."""

    KINKS = "The loss has kinks (ReLU, max-pooling): the curvature is a local one."
    BATCH_COUPLED = (
        "BatchNorm was in training mode: the loss of one example is undefined (batch-coupled)."
    )
    HEAD_MOVES = "The head was trained with the expert: constants are those under one fixed head."
    PRECONDITIONED = "Adam rescales each weight: its preconditioner counts as frozen."
    DIVERGED = "At least one expert diverged."
    SCALED = "The coefficients do not sum to 1: the form derived here for any sum is used."
    CURVATURE_NOT_MEASURED = "The curvature was not measured: the reach is unknown."


REASONS_AGAINST_A_BOUND = frozenset(Reason) - {Reason.SCALED}
"""Reasons under which a proof does not apply, wherever its range ends.

Kinks are among them: the curvature of `|x|` is 0 almost everywhere, and its reach therefore 0, but
a step across the kink ends above the proved form. So is a head that moves: the proofs follow one
function, and its training changes the function."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The distance that training went, in units of the loss's curvature; free of units.

    A curvature known as a bracket should enter with its upper end, so that a number is called a
    bound only if it is one for every value of the bracket.
    """

    merge: float | None
    """`L_p H`: the smoothness of the mixture times the effective length; None if not measured."""
    experts: tuple[float, ...] = ()
    """`lr_i L_i A_i`, one for each task; empty if not measured."""
    is_plain_sgd: bool = True
    """Whether all steps of all experts weigh the same (`Accumulation.is_plain`)."""
    path: float | None = None
    """The `t'H t / |g't|` farthest from 0 of all paths (`curvature.path_reach`); None if not
    measured."""

    @property
    def worst(self) -> float | None:
        """The larger one of the merge's and the experts' reaches; None if one is missing."""
        if self.merge is None or not self.experts:
            return None
        values = (self.merge, *self.experts)
        return math.nan if any(math.isnan(each) for each in values) else max(values)

    @property
    def is_inside(self) -> bool:
        """Whether the proofs' range holds; False if it is not known."""
        if self.merge is None or not self.experts:
            return False
        limit = REACH_LIMIT if self.is_plain_sgd else GENERAL_REACH_LIMIT
        return self.merge <= REACH_LIMIT and all(each <= limit for each in self.experts)

    @property
    def word(self) -> Word:
        """The word for a number of the proved form."""
        if self.path is not None and not abs(self.path) <= LARGEST_PATH_REACH:
            return Word.OUTSIDE
        return Word.BOUND if self.is_inside else Word.SCORE

    @property
    def path_words(self) -> str:
        """The reliability of a second-order expansion along the path, in words."""
        if self.path is None:
            return "path not measured"
        if abs(self.path) <= USABLE_PATH_REACH:
            return "second order is a usable estimate"
        if abs(self.path) <= LARGEST_PATH_REACH:
            return "order of magnitude"
        return Word.OUTSIDE.value

    def __str__(self) -> str:
        worst = "not measured" if self.worst is None else f"{self.worst:.3g}"
        path = "" if self.path is None else f", path reach {self.path:.3g}"
        return f"reach {worst}{path}"


@dataclass(frozen=True, kw_only=True, repr=False)
class Labelled:
    """A number of the theory. `str`, `repr` and `format` all print its label.

    `format(number, ".3g")` formats the value and appends the label. Code that calculates takes
    `value`; whoever writes `value` anywhere writes `label` beside it.
    """

    value: float
    form: Form
    reach: Reach
    reasons: tuple[Reason, ...] = ()

    @property
    def word(self) -> Word:
        """`bound` only for the proved form, inside its range, with nothing that speaks against."""
        word = self.reach.word
        is_weak = self.form is Form.STATED or not REASONS_AGAINST_A_BOUND.isdisjoint(self.reasons)
        return Word.SCORE if word is Word.BOUND and is_weak else word

    @property
    def label(self) -> str:
        """The form, the word, the reach and the reasons, for tables and captions."""
        sentences = "".join(f" {reason}" for reason in self.reasons)
        return f"{self.form}: {self.word} ({self.reach}){'.' if sentences else ''}{sentences}"

    def __format__(self, spec: str) -> str:
        return f"{format(self.value, spec)} [{self.label}]"

    def __str__(self) -> str:
        return format(self, ".4g")

    __repr__ = __str__


def reasons_of(
    *,
    has_kinks: bool = False,
    is_batch_coupled: bool = False,
    head_moves: bool = False,
    uses_adam: bool = False,
    has_diverged: bool = False,
    coefficient_sum: float = 1.0,
    has_curvature: bool = True,
) -> tuple[Reason, ...]:
    """Returns the reasons that apply to a setting, in a fixed order."""
    applies = (
        (has_kinks, Reason.KINKS),
        (is_batch_coupled, Reason.BATCH_COUPLED),
        (head_moves, Reason.HEAD_MOVES),
        (uses_adam, Reason.PRECONDITIONED),
        (has_diverged, Reason.DIVERGED),
        (not math.isclose(coefficient_sum, 1.0, rel_tol=1e-6), Reason.SCALED),
        (not has_curvature, Reason.CURVATURE_NOT_MEASURED),
    )
    return tuple(reason for is_so, reason in applies if is_so)
