import math

import pytest

from eval.theory.labels import Form, Labelled, Reach, Reason, Word, reasons_of

INSIDE = Reach(merge=0.3, experts=(0.4, 0.5))


def number(form: Form = Form.PROVED, reach: Reach = INSIDE, **kwargs: object) -> Labelled:
    return Labelled(value=1.25, form=form, reach=reach, **kwargs)


def test_number_is_never_printed_without_its_label() -> None:
    """str, repr and every format carry the word and the reach."""
    expected = "1.25 [proved: bound (reach 0.5)]"
    assert str(number()) == repr(number()) == f"{number()}" == f"{number()!r}" == expected
    assert f"{number():.1e}" == "1.2e+00 [proved: bound (reach 0.5)]"
    assert str([number()]) == f"[{expected}]"
    with pytest.raises(TypeError):
        float(number())


def test_stated_form_is_never_called_a_bound() -> None:
    """Not even inside the range."""
    assert str(number(Form.STATED)) == "1.25 [stated: score, not a bound (reach 0.5)]"


@pytest.mark.parametrize(
    ("reach", "word"),
    [
        (INSIDE, Word.BOUND),
        (Reach(merge=0.51, experts=(0.1,)), Word.SCORE),
        (Reach(merge=0.1, experts=(0.51,)), Word.SCORE),
        (Reach(merge=0.1, experts=(0.36,), is_plain_sgd=False), Word.SCORE),
        (Reach(merge=0.5, experts=(0.35,), is_plain_sgd=False), Word.BOUND),
        (Reach(merge=None), Word.SCORE),
        (Reach(merge=0.1), Word.SCORE),
        (Reach(merge=math.nan, experts=(0.1,)), Word.SCORE),
        (Reach(merge=0.1, experts=(math.nan,)), Word.SCORE),
        (Reach(merge=0.1, experts=(0.1,), path=3.0), Word.BOUND),
        (Reach(merge=0.1, experts=(0.1,), path=3.1), Word.OUTSIDE),
        (Reach(merge=0.1, experts=(0.1,), path=-3.1), Word.OUTSIDE),
        (Reach(merge=None, path=math.nan), Word.OUTSIDE),
        (Reach(merge=None, path=math.inf), Word.OUTSIDE),
    ],
)
def test_reach_decides_the_word(reach: Reach, word: Word) -> None:
    """A reach that is not known, or not a number, is never inside."""
    assert reach.word is word
    assert word.value in str(number(reach=reach))


def test_reasons_are_sentences_and_some_take_the_word_away() -> None:
    """Proofs hold for one smooth function, SGD and finite weights; for coefficients of any sum."""
    for name in ("has_kinks", "is_batch_coupled", "head_moves", "uses_adam", "has_diverged"):
        reasons = reasons_of(**{name: True})
        labelled = number(reasons=reasons)
        assert labelled.word is Word.SCORE
        assert str(reasons[0]) in str(labelled)
    scaled = number(reasons=reasons_of(coefficient_sum=1.5))
    assert scaled.word is Word.BOUND
    assert "do not sum to 1" in str(scaled)
    both = reasons_of(coefficient_sum=1.5, has_curvature=False)
    assert both == (Reason.SCALED, Reason.CURVATURE_NOT_MEASURED)
    assert number(reasons=both).word is Word.SCORE
    assert "batch-coupled" in str(number(reasons=reasons_of(is_batch_coupled=True)))
    assert reasons_of() == ()


def test_path_reach_is_put_in_words() -> None:
    """Up to 1, up to 3, beyond."""
    words = [Reach(merge=None, path=each).path_words for each in (None, 1.0, 3.0, 3.5)]
    assert words == [
        "path not measured",
        "second order is a usable estimate",
        "order of magnitude",
        "outside any local theory",
    ]
    assert Reach(merge=None, path=-3.5).path_words == "outside any local theory"
    assert Reach(merge=None, path=-0.5).path_words == "second order is a usable estimate"
    assert str(Reach(merge=None, path=2.0)) == "reach not measured, path reach 2"
    assert math.isnan(Reach(merge=math.nan, experts=(1.0,)).worst)
