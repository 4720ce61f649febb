from __future__ import annotations

import re

from merge.catalogue import CARDS, PARAMS
from merge.table import METHODS


def test_the_table_and_the_catalogue_have_the_same_names_in_the_same_order() -> None:
    """Every method has functions, parameters and a card."""
    assert list(METHODS) == list(PARAMS) == list(CARDS)


def test_parameter_classes_are_distinct() -> None:
    """The class of the parameters identifies the method, so no two methods may share one."""
    assert len(set(PARAMS.values())) == len(PARAMS)


def test_every_card_cites_a_paper() -> None:
    """Every card has an arXiv number."""
    for name, card in CARDS.items():
        assert re.search(r"arXiv:\d{4}\.\d{5}", card.paper), name


def test_cards_mark_the_methods_that_keep_modules_of_each_task() -> None:
    """Scores of such methods are not comparable with scores of one model."""
    for name, method in METHODS.items():
        assert CARDS[name].is_per_task == (method.combine_for_task is not None), name
