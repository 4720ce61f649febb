"""Chooses the words of the review words task."""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LEXICON = "vaderSentiment/vader_lexicon.txt"
_STUDY = "additional_resources/hutto_ICWSM_2014.tar.gz"
_SENTENCES = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_LENGTHS = (4, 5)  # letters: legible at 64 pixels
_MIN_VALENCE = 1.5  # of 4: the mean of ten people's ratings
_STEM = 4  # letters: `love`, `loved` and `lovely` have one stem
_SIGNS = {"negative": -1, "positive": 1}


def choose_words(folder: Path, *, num_words: int) -> dict[str, list[str]]:
    """Returns the most frequent strong words of movie reviews, from the unpacked VADER sdist.

    Words of equal frequency are in alphabetical order. Of words with one stem, the most frequent is
    taken.
    """
    with tarfile.open(folder / _STUDY) as archive:
        member = archive.extractfile(_SENTENCES)
        assert member is not None, f"{_SENTENCES} is a folder"
        lines = io.TextIOWrapper(member, encoding="latin-1").read().splitlines()
    frequency = Counter(
        re.findall(r"[a-z]+", " ".join(line.split("\t")[2] for line in lines).lower())
    )
    lexicon = (folder / _LEXICON).read_text(encoding="utf-8").splitlines()
    valence = {line.split("\t")[0]: float(line.split("\t")[1]) for line in lexicon}
    ranked = sorted(frequency, key=lambda word: (-frequency[word], word))
    return {
        name: _first_of_stems(
            [word for word in ranked if sign * valence.get(word, 0) >= _MIN_VALENCE],
            num_words=num_words,
        )
        for name, sign in _SIGNS.items()
    }


def _first_of_stems(words: list[str], *, num_words: int) -> list[str]:
    chosen: dict[str, str] = {}
    for word in words:
        if _LENGTHS[0] <= len(word) <= _LENGTHS[1]:
            chosen.setdefault(word[:_STEM], word)
    return list(chosen.values())[:num_words]
