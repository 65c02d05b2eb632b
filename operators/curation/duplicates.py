"""Finds questions about different videos with the same meaning and the same answer.

Inside a video this is a gate's work (`operators.questions.gates.duplicates`). Over a dataset a judge cannot compare all
pairs, so the words decide: a question is a duplicate of an earlier one if their answers agree, their numbers and
quotations are the same, and the shingles of question and options are alike. Where the videos are near-duplicates of
each other, fewer common words suffice. A frequent question with another answer is no duplicate.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from operators.curation.minhash import BANDS, ROWS, ShingleSets, combine, hash_text, shingle_sets
from operators.questions.answers import folded, key_words
from operators.questions.gates.duplicates import word_overlap
from operators.questions.gates.wording import QUOTED
from schemas.tables import Question

MAX_COMPARED = 16
"""Kept questions of one bucket that a question is compared with. It bounds the time for questions of one pattern."""

SAME_CONTENT_WORDS = 0.6
"""Share of common words, without stop words, from which questions about near-duplicates of a video are the same. The
gate has a judge compare from 0.5 on, which two objects in the same place also reach."""
_ANSWER_ROWS = 2
"""Minima of the answer that are a part of each band."""


@dataclass(frozen=True)
class Duplicate:
    """The kept question that another one repeats."""

    kept: Question
    similarity: float
    """Jaccard similarity of their shingles."""

    def __str__(self) -> str:
        return (
            f"it has the answer of question {self.kept.question_id} of video {self.kept.video_id}, and words like it "
            f"(similarity {self.similarity:.2f})"
        )


def find_duplicates(
    questions: Sequence[Question], group_of: Mapping[str, int], similarity: float
) -> dict[str, Duplicate]:
    """Find the questions that repeat one about another video. The first of them, in the order given, is kept.

    Args:
        questions: questions of all videos. Those of one video are not compared.
        group_of: number of the group of near-duplicates that a video belongs to, by video id.
        similarity: Jaccard similarity of the shingles from which texts are alike, at least 0.7.

    Returns:
        The kept question by the id of each one that repeats it.
    """
    answer_words = [key_words(folded(question.answer)) for question in questions]
    texts = shingle_sets([[question.question, *sorted(question.options)] for question in questions])
    answers = shingle_sets(
        [[_compared_answer(own) or question.answer] for question, own in zip(questions, answer_words, strict=True)]
    )
    fixed = [_fixed_parts(question, own) for question, own in zip(questions, answer_words, strict=True)]
    groups = [group_of[question.video_id] for question in questions]
    buckets = _shared_buckets(texts, answers, fixed, groups)

    def is_same(index: int, other: int) -> bool:
        one, two = questions[index], questions[other]
        if one.video_id == two.video_id or fixed[index] != fixed[other]:
            return False
        if answers.similarity(index, other) < similarity:
            return False
        return texts.similarity(index, other) >= similarity or (
            groups[index] == groups[other] and word_overlap(one.question, two.question) >= SAME_CONTENT_WORDS
        )

    kept_in: dict[int, list[int]] = defaultdict(list)
    duplicates: dict[str, Duplicate] = {}
    for index, question in enumerate(questions):
        earlier = sorted({each for bucket in buckets[index] for each in kept_in[bucket]})
        kept = next((each for each in earlier if is_same(index, each)), None)
        if kept is not None:
            duplicates[question.question_id] = Duplicate(questions[kept], texts.similarity(index, kept))
            continue
        for bucket in buckets[index]:
            if len(kept_in[bucket]) < MAX_COMPARED:
                kept_in[bucket].append(index)
    return duplicates


def _compared_answer(answer_words: Sequence[str]) -> str:
    """The words of an answer that are compared. Of a number with its noun ("3 boats") it is the number alone."""
    number = [word for word in answer_words if word.isdecimal()]
    return " ".join(number if number and len(answer_words) <= 2 else answer_words)


def _fixed_parts(question: Question, answer_words: Sequence[str]) -> tuple[object, ...]:
    """What must be equal in duplicates: kind, numbers and quotations. They distinguish questions of one pattern."""
    text = folded(question.question)
    numbers = [sorted(re.findall(r"\d+", text)), sorted(word for word in answer_words if word.isdecimal())]
    return question.kind.value, *numbers, sorted(QUOTED.findall(text))


def _shared_buckets(
    texts: ShingleSets, answers: ShingleSets, fixed: Sequence[object], groups: Sequence[int]
) -> list[list[int]]:
    """Numbers of the buckets that each question shares with others.

    The key of a bucket holds minima of the text and of the answer, so that questions of one pattern with different
    answers are in different buckets. One more bucket is that of equal answers in near-duplicates of a video.
    """
    of_text = texts.minima(BANDS * ROWS, "text").reshape(-1, BANDS, ROWS)
    of_answer = answers.minima(BANDS * _ANSWER_ROWS, "answer").reshape(-1, BANDS, _ANSWER_ROWS)
    fixed_hashes = np.array([hash_text(repr(each)) for each in fixed], np.uint64)
    columns = [combine([fixed_hashes, *of_text[:, band].T, *of_answer[:, band].T]) for band in range(BANDS)]
    columns.append(combine([fixed_hashes, np.array(groups, np.uint64), of_answer[:, 0, 0]]))
    shared: list[list[int]] = [[] for _ in fixed]
    first = 0
    for keys in columns:
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        for index in np.flatnonzero(counts[inverse] > 1):
            shared[index].append(first + int(inverse[index]))
        first += len(counts)
    return shared
