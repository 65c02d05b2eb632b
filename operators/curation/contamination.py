"""Finds questions that are equal or nearly equal to one of an evaluation list, by n-grams of words.

Two questions share the words that are part of an n-gram which both have. The share of these words in the shorter of
the two decides, so that a listed question with its options is found, too. Questions with fewer than `NGRAM_WORDS`
words must be equal.

Others do it like this: datatrove drops a text with one common 12-gram (`pipeline/decont/n_grams.py`), Open-R1 one with
a common 8-gram (`scripts/decontaminate.py`, after s1, arXiv 2501.19393). Tulu 3 (arXiv 2411.15124, section 3.2) counts
the share of tokens in common 8-grams, and takes a question as contaminated above one half. This is Tulu's rule,
because a single 8-gram such as "what is the main purpose of the man" occurs in questions that have nothing in common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from operators.curation.evaluation_lists import ListedItem
from operators.curation.minhash import split_words

NGRAM_WORDS = 8


@dataclass(frozen=True)
class Match:
    """The listed question that is most similar to a question."""

    item: ListedItem
    share: float
    """Words in common n-grams, divided by the words of the shorter question."""

    def __str__(self) -> str:
        return f"{self.share:.0%} of its words are in a question of evaluation list {self.item.place}"


class ListedQuestions:
    """The questions of evaluation lists, indexed by their n-grams."""

    def __init__(self, items: Iterable[ListedItem], overlap: float) -> None:
        """
        Args:
            items: rows of evaluation lists. Of equal questions, the first is used.
            overlap: share of common words above which a question is contaminated.
        """
        self._overlap = overlap
        self._items: list[ListedItem] = []
        self._sizes: list[int] = []
        self._having: dict[str, list[int]] = defaultdict(list)
        known = set()
        for item in items:
            words = tuple(split_words(item.question))
            if words and words not in known:
                known.add(words)
                for ngram in dict(_ngrams(words)):
                    self._having[ngram].append(len(self._items))
                self._items.append(item)
                self._sizes.append(len(words))

    def find(self, question: str) -> Match | None:
        """The listed question that a question is equal or nearly equal to; None if there is none."""
        words = split_words(question)
        common: dict[int, set[int]] = defaultdict(set)
        for ngram, start in _ngrams(words):
            for number in self._having.get(ngram, ()):
                common[number].update(range(start, min(start + NGRAM_WORDS, len(words))))
        shares = {number: len(own) / min(len(words), self._sizes[number]) for number, own in common.items()}
        best = max(shares, key=lambda number: (shares[number], -number), default=None)
        if best is None or shares[best] <= self._overlap:
            return None
        return Match(self._items[best], min(1.0, shares[best]))


def _ngrams(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each n-gram of words with its start; all words if they are fewer."""
    for start in range(max(1, len(words) - NGRAM_WORDS + 1)):
        yield " ".join(words[start : start + NGRAM_WORDS]), start
