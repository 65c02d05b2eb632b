"""MinHash signatures and locality-sensitive hashing of short texts, on NumPy arrays.

A text is a set of shingles: its words and its pairs of neighbouring words, without articles. Two texts share a bucket
of a band with the probability s^ROWS, where s is their Jaccard similarity, and at least one of the bands with
1 - (1 - s^ROWS)^BANDS (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4): 0.39 for s = 0.5,
0.98 for s = 0.7, 0.9999 for s = 0.8.

The library datasketch does the same and depends on SciPy. Hashing whole arrays takes a tenth of its time
(`benchmarks/LOG.md`, 2026-12-01).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from operators.questions.answers import folded

BANDS = 32
ROWS = 6
"""Minima that make one band."""

ARTICLES = frozenset({"a", "an", "the"})

Hashes = NDArray[np.uint64]

_CHUNK = 8_192
"""Texts that are hashed at a time, which bounds the memory of intermediate arrays."""
_WITHOUT_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Characters of scripts that are written without spaces. Each is taken for a word."""
_WORD = re.compile(rf"[{_WITHOUT_SPACES}]|[^\W{_WITHOUT_SPACES}]+")


def split_words(text: str) -> list[str]:
    """The words of a text in order, case-folded, without punctuation."""
    return _WORD.findall(folded(text))


@dataclass(frozen=True)
class ShingleSets:
    """The shingles of several texts: text `i` has the sorted hashes `values[starts[i]:starts[i + 1]]`."""

    values: Hashes
    starts: NDArray[np.int64]

    def similarity(self, one: int, other: int) -> float:
        """Jaccard similarity of two texts: common shingles divided by all shingles of both."""
        both = np.concatenate([self.values[self.starts[each] : self.starts[each + 1]] for each in (one, other)])
        both.sort()
        common = int(np.count_nonzero(both[1:] == both[:-1]))
        return common / (len(both) - common)

    def minima(self, count: int, salt: str) -> Hashes:
        """MinHash signatures, shape (texts, count): the least value of each of `count` hash functions over a text."""
        factors, addends = _hash_functions(count, salt)
        texts = len(self.starts) - 1
        signatures = np.empty((texts, count), np.uint64)
        for first in range(0, texts, _CHUNK):
            last = min(first + _CHUNK, texts)
            values = self.values[self.starts[first] : self.starts[last]]
            offsets = self.starts[first:last] - self.starts[first]
            for number in range(count):
                hashed = (values * factors[number] + addends[number]) >> np.uint64(32)
                signatures[first:last, number] = np.minimum.reduceat(hashed, offsets)
        return signatures


def shingle_sets(texts: Sequence[Sequence[str]]) -> ShingleSets:
    """The shingles of texts, each given as one or more parts. No pair of words crosses the border of two parts."""
    chunks = [_shingles(texts[first : first + _CHUNK]) for first in range(0, len(texts), _CHUNK)]
    values = np.concatenate([np.zeros(0, np.uint64), *(found for found, _ in chunks)])
    sizes = np.concatenate([np.zeros(1, np.int64), *(own for _, own in chunks)])
    return ShingleSets(values, np.cumsum(sizes))


def _shingles(texts: Sequence[Sequence[str]]) -> tuple[Hashes, NDArray[np.int64]]:
    """The sorted shingles of each text, one text after another, and their numbers. A part without words has one."""
    hashes: list[int] = []
    part_of: list[int] = []
    text_of: list[int] = []
    for number, part in ((number, part) for number, parts in enumerate(texts) for part in parts):
        words = [word for word in split_words(part) if word not in ARTICLES] or [""]
        part_of += [part_of[-1] + 1 if part_of else 0] * len(words)
        text_of += [number] * len(words)
        hashes += map(_word_hash, words)
    words_, parts_, owners = np.array(hashes, np.uint64), np.array(part_of), np.array(text_of)
    is_pair = parts_[1:] == parts_[:-1]
    values = np.concatenate([words_, combine([words_[:-1], words_[1:]])[is_pair]])
    owners = np.concatenate([owners, owners[1:][is_pair]])
    order = np.lexsort((values, owners))
    values, owners = values[order], owners[order]
    is_new = np.ones(len(values), bool)
    is_new[1:] = (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])
    return values[is_new], np.bincount(owners[is_new], minlength=len(texts))


def combine(columns: Iterable[Hashes]) -> Hashes:
    """One hash for each row of several columns of hashes."""
    factor = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: Knuth's multiplicative hashing
    first, *others = columns
    combined = _mix(first * factor)
    for column in others:
        combined = _mix((combined ^ column) * factor)
    return combined


def _mix(values: Hashes) -> Hashes:
    """Let the upper bits decide about the lower ones, too."""
    mixed: Hashes = values ^ (values >> np.uint64(29))
    return mixed


def hash_text(text: str) -> int:
    """A 64-bit hash that is the same in every process and on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@lru_cache(maxsize=1 << 20)
def _word_hash(word: str) -> int:
    return hash_text(word)


@lru_cache
def _hash_functions(count: int, salt: str) -> tuple[Hashes, Hashes]:
    """Factors (odd) and addends of functions x -> (a x + b) mod 2^64, of which the upper 32 bits are used.

    This is the multiply-add-shift scheme of Dietzfelbinger (STACS 1996).
    """
    factors = [hash_text(f"{salt} factor {number}") | 1 for number in range(count)]
    addends = [hash_text(f"{salt} addend {number}") for number in range(count)]
    return np.array(factors, np.uint64), np.array(addends, np.uint64)
