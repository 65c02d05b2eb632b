"""MinHash signatures estimate the Jaccard similarity of texts, and are the same everywhere."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.curation.minhash import ARTICLES, combine, shingle_sets, split_words

TEXTS = st.text("abcde .?é中", max_size=30)


def test_words_are_folded_and_characters_without_spaces_are_words():
    assert split_words("The GATE’s “first” bell, 12:05!") == ["the", "gate", "s", "first", "bell", "12", "05"]
    assert split_words("他在厨房 cooking") == ["他", "在", "厨", "房", "cooking"]


@given(st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=2, max_size=6))
def test_similarity_is_that_of_the_sets_of_words_and_pairs(texts):
    def shingles(parts):
        found = [[word for word in split_words(part) if word not in ARTICLES] for part in parts]
        pairs = {pair for part in found for pair in pairwise(part)}
        return {(word,) for part in found for word in part or [""]} | pairs

    found = shingle_sets(texts)
    for index, text in enumerate(texts):
        one, other = shingles(text), shingles(texts[0])
        assert found.similarity(index, 0) == pytest.approx(len(one & other) / len(one | other))


def test_equal_minima_estimate_the_similarity():
    words = [f"word{number}" for number in range(60)]
    texts = [[" ".join(words[:40])], [" ".join(words[10:50])], [" ".join(words[45:])]]
    found = shingle_sets(texts)
    minima = found.minima(4096, "test")
    for one, other in ((0, 1), (0, 2), (1, 2)):
        exact = found.similarity(one, other)
        error = (exact * (1 - exact) / 4096) ** 0.5
        assert abs((minima[one] == minima[other]).mean() - exact) <= 5 * error


def test_hashes_are_the_same_in_every_process():
    """They decide which candidates are compared, so a change of them is a change of rows."""
    found = shingle_sets([["What does she do at the end?"], [""]])
    minima = found.minima(2, "question")
    assert [f"{value:08x}" for value in minima.ravel()] == ["0361fc73", "16d642ac", "af2e7ab8", "5bffb99d"]
    assert int(combine([np.array([1], np.uint64), np.array([2], np.uint64)])[0]) == 0x9C388ADBB85671F6
