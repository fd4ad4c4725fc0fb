"""Words that are like a typed one are those of a slow twin, and so are the words that begin with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.sparse.spelling import LEAST_SIMILARITY, Spelling, similarities

WORD = st.text("abcé1日", min_size=1, max_size=8)


def spelling_of(words: Sequence[str]) -> Spelling:
    """The later a word, the more items have it."""
    own = sorted(set(words))
    return Spelling.of(own, np.arange(1, len(own) + 1))


def slow_list(word: str) -> list[bytes]:
    marked = f"#{word}#".encode()
    return [marked[place : place + 3] for place in range(len(marked) - 2)]


def slow_trigrams(word: str) -> set[bytes]:
    return set(slow_list(word))


def slow_similarity(one: str, other: str) -> float:
    own, others = slow_trigrams(one), slow_trigrams(other)
    return 2 * len(own & others) / (len(own) + len(others))


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


def test_the_similarity_of_two_words_is_twice_their_common_trigrams_by_all() -> None:
    # #co cof ofe fee ee# and #co cof off ffe fee ee#: four are common, of five and six.
    assert spelling_of(["coffee", "tea"]).alike("cofee", most=3) == {"coffee": pytest.approx(8 / 11)}


@given(st.lists(WORD, min_size=1, max_size=4), st.lists(WORD, max_size=12))
def test_similarities_of_texts_are_those_of_a_slow_twin(texts: list[str], others: list[str]) -> None:
    found = similarities(texts, pa.array(others, pa.string()))
    for text, row in zip(texts, found, strict=True):
        for other, similarity in zip(others, row, strict=True):
            own, more = slow_list(text), slow_list(other)
            shared = min(sum(trigram in own for trigram in more), len(own))
            assert similarity == pytest.approx(2 * shared / (len(own) + len(more)))
