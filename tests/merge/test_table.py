from __future__ import annotations

import re

from merge.catalogue import CARDS, PARAMS
from merge.table import METHODS


def test_methods_parameters_and_cards_have_the_same_names_in_the_same_order() -> None:
    """A method that is in one table is in all three."""
    assert list(METHODS) == list(PARAMS) == list(CARDS)


def test_every_method_takes_the_parameters_of_its_name() -> None:
    """The two tables agree on the class, not only on the name."""
    assert {name: method.params for name, method in METHODS.items()} == PARAMS


def test_parameter_classes_are_distinct() -> None:
    """A method is found by the class of its parameters, so that no two may share one."""
    assert len(set(PARAMS.values())) == len(PARAMS)


def test_every_card_cites_a_paper() -> None:
    """A reader can find every method's source."""
    for name, card in CARDS.items():
        assert re.search(r"arXiv:\d{4}\.\d{5}", card.paper), name


def test_cards_mark_the_methods_that_keep_modules_of_each_task() -> None:
    """What such a method scores has to be told from what one model scores."""
    for name, method in METHODS.items():
        assert CARDS[name].is_per_task == (method.combine_for_task is not None), name
