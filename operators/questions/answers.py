"""Compares answers by program where the result is certain. The judge compares the rest.

Two answers are always compared by program if one of them is only a number, a time or a duration, or if they are places
in the picture or on-screen texts. The judge compares free text only.

Case, spaces, punctuation and filler words are ignored. A number may be written in digits or in words, and a unit may be
missing from one of two numbers. Times and durations agree within `TOLERANCE_SECONDS`, the precision with which they are
measured.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher

from operators.questions.timeline import text_key
from schemas.tables import QuestionKind

TOLERANCE_SECONDS = 2.0
"""Frames are searched for on-screen text once per second, and people name times in whole seconds."""

_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBERS = {"zero": 0, "once": 1, "twice": 2, "thrice": 3}
_NUMBERS |= {word: number for number, word in enumerate([*_ONES, *_TEENS], start=1)}
_NUMBERS |= {word: 10 * number for number, word in enumerate(_TENS, start=2)}
_COMPOUND = re.compile(rf"\b({'|'.join(_TENS)})[ -]({'|'.join(_ONES)})\b")
_ARTICLE = re.compile(r"\b(a|an|the) (?!and\b|then\b)(?=[^\W\d_]{2})")
"""An article before a word. A single letter `A` may be a name and is kept."""
_FILLERS = frozenset(["then", "and", "about", "around", "approximately", "roughly", "nearly", "at", "it", "is"])
_SECONDS = {"s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1}
_SECONDS |= {"min": 60, "mins": 60, "minute": 60, "minutes": 60, "hour": 3600, "hours": 3600}
_CLOCK = re.compile(r"(?<![\d:.])(?:(\d{1,2}):)?(\d{1,3}):([0-5]\d)(?:\.\d+)?(?![\d:])", re.ASCII)
_TOKEN = re.compile(r"[0-9]+(?:\.[0-9]+)?|[^\W\d_]+|\d+")

_ROWS = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
_COLUMNS = {"left": "left", "right": "right"}
_MIDDLE = frozenset(["centre", "center", "central", "middle", "mid"])
_AROUND_PLACES = frozenset(["in", "on", "to", "of", "the", "text", "stands", "hand", "corner", "edge", "side", "part"])
_AROUND_PLACES |= {"third", "picture", "screen", "frame", "image", "video"}

_ALIKE = 0.9
"""Similarity from which a text counts as another reading of the right one.

`derive` uses no text that is this similar to another one of the same video.
"""
_QUOTED = re.compile(r'"([^"]+)"')
_CURLY_QUOTED = re.compile("[“”„«»]([^“”„«»]+)[“”„«»]")
_FRAME = re.compile(r"^\s*(?:it (?:is|says|reads) )?(?:(?:the )?(?:on-?screen )?text (?:is |says |reads )?)?:?", re.I)
_BREAK = re.compile(r"[,;\n→]|->|\bthen\b|\band\b", re.I)
_ITEM = re.compile(r"^\s*\d+[.)]\s")
"""The number at the start of a list item."""


@dataclass(frozen=True)
class _Reading:
    """A parsed answer: its words in order, and its quantity if it names exactly one."""

    words: tuple[str, ...]
    number: float | None
    """The quantity, in seconds for a time or a duration; None when there is no single one."""
    is_time: bool
    bare: bool
    """True when the answer consists of the quantity, its unit of time and filler words only."""


def same_answer(answer: str, other: str, kind: QuestionKind) -> bool:
    """Whether two answers certainly agree.

    Choices must be the same option. Open answers are compared by `compare_open`.
    """
    if kind is QuestionKind.CHOICE:
        return folded(answer) == folded(other)
    return compare_open(answer, other) is True


def compare_open(answer: str, other: str) -> bool | None:
    """Whether two open answers agree, or None when their words differ and a judge must compare them.

    The result is never None when one of the answers is only a number, a time or a duration.
    """
    one, two = _read(answer), _read(other)
    if not one.words or not two.words:
        return folded(answer) == folded(other)
    if one.bare or two.bare:
        return _same_quantity(one, two)
    if "".join(one.words) == "".join(two.words) or _letters(answer) == _letters(other):
        return True
    return None


def same_count(answer: str, right: str) -> bool:
    """Whether an answer names the number `right` and is not a time."""
    return not _read(answer).is_time and compare_open(answer, right) is True


def same_place(answer: str, right: str) -> bool:
    """Whether an answer names the place `right` in the picture, one of `REGIONS`, and no other place."""
    place = _place(answer)
    return place is not None and place == _place(right)


def same_texts(answer: str, right: str) -> bool:
    """Whether an answer gives the on-screen text `right`, or all texts quoted in `right` in the same order.

    A few wrong letters are accepted, but digits must agree, and an answer with additional texts is wrong.
    """
    texts = _QUOTED.findall(right) or [right]
    named = _QUOTED.findall(answer) or _CURLY_QUOTED.findall(answer)
    if len(texts) == 1:
        wholes = (answer, _FRAME.sub("", answer), *(named if len(named) == 1 else ()))
        return any(_alike(each, texts[0]) for each in wholes)
    if not named:
        named = [_ITEM.sub("", each) for each in _BREAK.split(answer) if text_key(each)]
    if len(named) == len(texts):
        return all(map(_alike, named, texts))
    return text_key(_BREAK.sub("", answer)) == text_key(_BREAK.sub("", right))


def folded(text: str) -> str:
    """The text case-folded and with single spaces. Punctuation is kept: options may differ in it ("3.5" and "35")."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _letters(text: str) -> str:
    """The text without spaces and punctuation, except between digits. OCR errs most often in spaces."""
    return re.sub(r"(?<!\d)[\W_]|[\W_](?!\d)", "", folded(text))


def _same_quantity(one: _Reading, two: _Reading) -> bool:
    """Whether a bare answer agrees with another answer."""
    if one.number is None or two.number is None:
        return False  # no number that could agree, or several numbers, any of which may be meant
    if not (one.is_time or two.is_time):
        return one.number == two.number  # "3" and "3 boats"
    comparable = one.is_time == two.is_time or (one.bare and two.bare)  # "6" may be seconds, "6 boats" may not
    return comparable and abs(one.number - two.number) <= TOLERANCE_SECONDS


def _place(answer: str) -> tuple[str, str] | None:
    """Row and column of a place in the picture; None when an answer names none, several, or anything else."""
    words = re.findall(r"\w+", folded(answer))
    rows = {_ROWS[word] for word in words if word in _ROWS}
    columns = {_COLUMNS[word] for word in words if word in _COLUMNS}
    known = {*_ROWS, *_COLUMNS, *_MIDDLE, *_AROUND_PLACES, *_FILLERS}
    if not known.issuperset(words) or max(len(rows), len(columns)) > 1:
        return None
    if not rows and not columns and _MIDDLE.isdisjoint(words):
        return None
    return next(iter(rows), "middle"), next(iter(columns), "middle")


def _alike(text: str, right: str) -> bool:
    key, other = text_key(text), text_key(right)
    if re.sub(r"\D", "", key) != re.sub(r"\D", "", other):
        return False
    return key == other or SequenceMatcher(None, key, other, autojunk=False).ratio() >= _ALIKE


def _read(answer: str) -> _Reading:
    text = folded(answer)
    words = key_words(text) or tuple(_TOKEN.findall(text))
    clock = _CLOCK.search(text)
    rest = key_words(text[: clock.start()] + " " + text[clock.end() :]) if clock else ()
    if clock and not any(map(_is_number, rest)):
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return _time(words if rest else (), 3600 * hours + 60 * minutes + seconds)
    places = [index for index, word in enumerate(words) if _is_number(word)]
    if not places:
        return _Reading(words, None, is_time=False, bare=False)
    run = words[places[0] : places[-1] + 2]
    seconds_named = _duration(run)
    if seconds_named is not None:
        return _time(words if run != words else (), seconds_named)
    number = float(words[places[0]]) if len(places) == 1 else None
    return _Reading(words, number, is_time=False, bare=number is not None and len(words) == 1)


def _time(words: tuple[str, ...], seconds: float) -> _Reading:
    """The reading of a time or a duration; it is bare when there are no words."""
    return _Reading(words or (f"{seconds:g}",), seconds, is_time=True, bare=not words)


def _is_number(word: str) -> bool:
    return word[0].isdecimal()


def key_words(text: str) -> tuple[str, ...]:
    """The words of a text in order, without articles and fillers, with numbers in digits."""
    text = _ARTICLE.sub("", text)
    text = _COMPOUND.sub(lambda match: str(_NUMBERS[match[1]] + _NUMBERS[match[2]]), text)
    return tuple(_number(word) for word in _TOKEN.findall(text) if word not in _FILLERS)


def _number(word: str) -> str:
    """A word with numbers in canonical form: number words become digits, and redundant zeros are removed."""
    if not _is_number(word):
        return str(_NUMBERS.get(word, word))
    whole, _, part = word.partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


def _duration(words: tuple[str, ...]) -> float | None:
    """Total seconds of words such as `1 minute 5 seconds`; None unless they are all numbers with units of time."""
    amounts, units = words[::2], words[1::2]
    if len(amounts) != len(units) or not words:
        return None
    if not all(_is_number(amount) and unit in _SECONDS for amount, unit in zip(amounts, units, strict=True)):
        return None
    return sum(float(amount) * _SECONDS[unit] for amount, unit in zip(amounts, units, strict=True))
