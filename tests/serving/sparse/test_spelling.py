"""Words that are like a typed one are those of a slow twin, and so are the words that begin with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.sparse.spelling import LEAST_SIMILARITY, Spelling, is_slip, similarities

LETTERS = "abcé1日"
WORD = st.text(LETTERS, min_size=1, max_size=8)


def spelling_of(words: Sequence[str]) -> Spelling:
    """The later a word, the more items have it."""
    own = sorted(set(words))
    return Spelling.of(own, np.arange(1, len(own) + 1))


def slow_list(word: str) -> list[bytes]:
    marked = f"#{word}#".encode()
    return [marked[place : place + 3] for place in range(len(marked) - 2)]


def slow_trigrams(word: str) -> set[bytes]:
    return set(slow_list(word))


def slow_slips(word: str) -> set[str]:
    """All that one slip makes of a word, of the letters of these tests."""
    cuts = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    more = {begin + letter + end for begin, end in cuts for letter in LETTERS}
    others = {begin + letter + end[1:] for begin, end in cuts if end for letter in LETTERS}
    less = {begin + end[1:] for begin, end in cuts if end}
    swapped = {begin + end[1] + end[0] + end[2:] for begin, end in cuts if len(end) > 1}
    return (more | others | less | swapped) - {word}


def slow_similarity(typed: str, word: str) -> float:
    own, others = slow_trigrams(typed), slow_trigrams(word)
    dice = 2 * len(own & others) / (len(own) + len(others))
    # A word that has no trigram in common is looked up only if it has the same letters.
    is_compared = dice > 0 or sorted(typed) == sorted(word)
    return (1 + dice) / 2 if is_compared and word in slow_slips(typed) else dice


@given(st.lists(WORD, max_size=12), WORD)
def test_similar_words_are_those_of_a_slow_twin(words: list[str], typed: str) -> None:
    own = sorted(set(words))
    similar = {word: slow_similarity(typed, word) for word in own}
    order = sorted(own, key=lambda word: (-similar[word], -own.index(word)))
    expected = [word for word in order if similar[word] >= LEAST_SIMILARITY]
    found = spelling_of(words).alike(typed, most=3)
    assert list(found) == expected[:3]
    assert found == pytest.approx({word: similar[word] for word in expected[:3]})


@given(st.lists(WORD, max_size=12), WORD)
def test_words_that_begin_with_some_letters_are_those_of_a_slow_twin(words: list[str], start: str) -> None:
    expected = [word for word in sorted(set(words), reverse=True) if word.startswith(start)]
    assert spelling_of(words).beginning_with(start, most=3) == expected[:3]


def test_a_word_is_as_similar_as_its_trigrams_and_more_by_one_slip() -> None:
    words = ["coffee", "fruit", "soup", "tea"]
    # #co cof off ffe fey eyy yy# and #co cof off ffe fee ee#: four are common, of seven and six.
    assert spelling_of(words).alike("coffeyy", most=3) == {"coffee": pytest.approx(8 / 13)}
    # #co cof ofe fee ee#: four of five and six, and a letter is missing.
    assert spelling_of(words).alike("cofee", most=3) == {"coffee": pytest.approx((1 + 8 / 11) / 2)}
    # Of fruit, only #fr is left, and nothing of soup.
    assert spelling_of(words).alike("friut", most=3) == {"fruit": pytest.approx((1 + 2 / 10) / 2)}
    assert spelling_of(words).alike("suop", most=3) == {"soup": 0.5}


@given(WORD, WORD)
def test_slips_are_those_of_a_slow_twin(typed: str, word: str) -> None:
    assert is_slip(typed, word) == (word in slow_slips(typed))


@given(st.lists(WORD, min_size=1, max_size=4), st.lists(WORD, max_size=12))
def test_similarities_of_texts_are_those_of_a_slow_twin(texts: list[str], others: list[str]) -> None:
    found = similarities(texts, pa.array(others, pa.string()))
    for text, row in zip(texts, found, strict=True):
        for other, similarity in zip(others, row, strict=True):
            own, more = slow_list(text), slow_list(other)
            shared = min(sum(trigram in own for trigram in more), len(own))
            assert similarity == pytest.approx(2 * shared / (len(own) + len(more)))
