"""Shortcuts: how many choice questions are answered without the video, by simple rules and by a classifier of words.

Each rule is fitted to other videos only: the videos are divided into folds, and the questions of a fold are answered by
what was found in the others. So a pattern that holds within one video is not counted, and one of the whole data set is.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from random import Random

from schemas.answer_format import LETTERS
from schemas.sample import Sample
from schemas.statistics import wilson_interval
from schemas.tables import QuestionKind

FOLDS = 5
"""Number of parts that the videos are divided into."""
OVERALL = "overall"

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ChoiceQuestion:
    """A choice question as the rules see it."""

    video_id: str
    group: str
    """Group that it is counted in, such as its category."""
    question: str
    options: tuple[str, ...]
    right: int
    """Index of the right option."""

    @classmethod
    def of(cls, sample: Sample) -> ChoiceQuestion:
        """The question of a sample with options, grouped by its category."""
        right = sample.options.index(sample.answer_text)
        return cls(sample.video_id, sample.problem_type.value, sample.question, sample.options, right)


@dataclass(frozen=True)
class Shortcut:
    """The accuracy of a rule among the questions of one group, or of all."""

    name: str
    group: str
    right: float
    """Number of right answers. Where a rule has several answers, each counts in equal parts."""
    questions: int
    guessing: float
    """Accuracy of guessing: the mean of 1 / number of options."""

    @property
    def accuracy(self) -> float:
        """Share of right answers, from 0 to 1."""
        return self.right / self.questions

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of 95 %. It takes the questions as independent, those of one video too."""
        return wilson_interval(self.right, self.questions)


Answer = Callable[[ChoiceQuestion], Sequence[int]]
"""The indices of the options that a rule finds equally good; not empty."""


def choice_questions(samples: Iterable[Sample]) -> list[ChoiceQuestion]:
    """The choice questions among samples, in their order."""
    return [ChoiceQuestion.of(sample) for sample in samples if sample.kind is QuestionKind.CHOICE]


def has_classifier() -> bool:
    """Whether scikit-learn is installed, which the classifier of words needs."""
    return find_spec("sklearn") is not None


def measure_shortcuts(questions: Sequence[ChoiceQuestion]) -> list[Shortcut]:
    """The accuracies of all rules, by group and over all questions. The classifier is omitted without scikit-learn.

    Raises:
        ValueError: the questions are about fewer than two videos, so that no rule can be fitted to other videos.
    """
    folds = _folds(questions)
    rules = {
        "always one letter": _most_frequent_letter,
        "longest option": _longest_option,
        "most frequent answer": _most_frequent_answer,
    }
    if has_classifier():
        rules["classifier of words"] = _classify_words
    return [shortcut for name, fit in rules.items() for shortcut in _score(name, fit, folds)]


def _folds(questions: Sequence[ChoiceQuestion]) -> list[tuple[list[ChoiceQuestion], list[ChoiceQuestion]]]:
    """For each fold, the questions of the other videos and its own."""
    videos = sorted({each.video_id for each in questions})
    if len(videos) < 2:
        raise ValueError(f"choice questions of {len(videos)} videos; a rule is fitted to other videos, so give two")
    Random(0).shuffle(videos)
    fold_of = {video: index % FOLDS for index, video in enumerate(videos)}
    return [
        (
            [each for each in questions if fold_of[each.video_id] != fold],
            [each for each in questions if fold_of[each.video_id] == fold],
        )
        for fold in sorted(set(fold_of.values()))
    ]


def _score(
    name: str,
    fit: Callable[[Sequence[ChoiceQuestion]], Answer],
    folds: Sequence[tuple[Sequence[ChoiceQuestion], Sequence[ChoiceQuestion]]],
) -> Iterator[Shortcut]:
    right: defaultdict[str, float] = defaultdict(float)
    guessing: defaultdict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    for others, own in folds:
        answer = fit(others)
        for question in own:
            chosen = answer(question)
            for group in (question.group, OVERALL):
                right[group] += (question.right in chosen) / len(chosen)
                guessing[group] += 1 / len(question.options)
                count[group] += 1
    for group in (*sorted(count.keys() - {OVERALL}), OVERALL):
        yield Shortcut(name, group, right[group], count[group], guessing[group] / count[group])


def _most_frequent_letter(others: Sequence[ChoiceQuestion]) -> Answer:
    letters = Counter(each.right for each in others)
    letter = min(range(len(LETTERS)), key=lambda index: (-letters[index], index))
    return lambda question: [letter] if letter < len(question.options) else range(len(question.options))


def _longest_option(others: Sequence[ChoiceQuestion]) -> Answer:
    return lambda question: _best([len(option) for option in question.options])


def _most_frequent_answer(others: Sequence[ChoiceQuestion]) -> Answer:
    """The option that was right most often in other videos, as a share of how often it was an option."""
    offered = Counter(option.casefold() for each in others for option in each.options)
    found = Counter(each.options[each.right].casefold() for each in others)
    usual = sum(found.values()) / max(1, sum(offered.values()))
    # Four imaginary questions with each option keep one that was offered once from winning.
    return lambda question: _best(
        [(found[option] + 4 * usual) / (offered[option] + 4) for option in map(str.casefold, question.options)]
    )


def _classify_words(others: Sequence[ChoiceQuestion]) -> Answer:
    """Logistic regression on the words of an option, alone and paired with each word of the question."""
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import SGDClassifier

    hasher = FeatureHasher(n_features=2**18, input_type="string")
    model = SGDClassifier(loss="log_loss", alpha=1e-5, random_state=0)
    rows = [_words(each, index) for each in others for index in range(len(each.options))]
    labels = [index == each.right for each in others for index in range(len(each.options))]
    model.fit(hasher.transform(rows), labels)

    def answer(question: ChoiceQuestion) -> Sequence[int]:
        scores = model.decision_function(
            hasher.transform([_words(question, index) for index in range(len(question.options))])
        )
        return _best([float(score) for score in scores])

    return answer


def _words(question: ChoiceQuestion, index: int) -> list[str]:
    """What the classifier knows of an option: its words, pairs with the question's words, and its length."""
    option = question.options[index]
    own, words = set(_WORD.findall(option.lower())), set(_WORD.findall(question.question.lower()))
    lengths = sorted(map(len, question.options))
    return [
        *own,
        *(f"{word}?{other}" for word, other in product(words, own)),
        f"shared {len(own & words)}",
        f"length rank {lengths.index(len(option))}",
        f"words {len(option.split())}",
    ]


def _best(scores: Sequence[float]) -> list[int]:
    return [index for index, score in enumerate(scores) if score == max(scores)]
