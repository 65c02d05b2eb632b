"""Do two answers say the same? By program as far as that is certain; what is left is for a judge to say.

Answers of which one is a mere number, time or duration, places in the picture and texts on screen are always compared
by program: a judge is for free words only.

Case, spaces, punctuation and filler words do not matter, nor whether a number is written in digits or in words, nor a
unit that only one of two numbers carries. Times and durations agree within `TOLERANCE_SECONDS`, the
precision with which they are measured.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher

from operators.questions.timeline import text_key
from schemas.tables import QuestionKind

TOLERANCE_SECONDS = 2.0
"""On-screen texts are looked for once a second, and a whole second is as exact as people say it."""

_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBERS = {"zero": 0, "once": 1, "twice": 2, "thrice": 3}
_NUMBERS |= {word: number for number, word in enumerate([*_ONES, *_TEENS], start=1)}
_NUMBERS |= {word: 10 * number for number, word in enumerate(_TENS, start=2)}
_COMPOUND = re.compile(rf"\b({'|'.join(_TENS)})[ -]({'|'.join(_ONES)})\b")
_ARTICLE = re.compile(r"\b(a|an|the) (?!and\b|then\b)(?=[^\W\d_]{2})")
"""Before a word; a lone `A` may be a name."""
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
"""Share of agreeing letters above which a text is another reading of the right one: `derive` does not ask about texts
that are this near to another of the same video."""
_QUOTED = re.compile(r'"([^"]+)"')
_CURLY_QUOTED = re.compile("[“”„«»]([^“”„«»]+)[“”„«»]")
_FRAME = re.compile(r"^\s*(?:it (?:is|says|reads) )?(?:(?:the )?(?:on-?screen )?text (?:is |says |reads )?)?:?", re.I)
_BREAK = re.compile(r"[,;\n→]|->|\bthen\b|\band\b", re.I)
_ITEM = re.compile(r"^\s*\d+[.)]\s")
"""The number of a list's item."""


@dataclass(frozen=True)
class _Reading:
    """What an answer says: its words in order, and the one quantity that it names, if it names just one."""

    words: tuple[str, ...]
    number: float | None
    """Seconds for a time or a duration."""
    is_time: bool
    bare: bool
    """Nothing but the quantity, its unit and fillers."""


def same_answer(answer: str, other: str, kind: QuestionKind) -> bool:
    """Do the two agree for certain? For choices: the same option. For open answers see the module."""
    if kind is QuestionKind.CHOICE:
        return folded(answer) == folded(other)
    return compare_open(answer, other) is True


def compare_open(answer: str, other: str) -> bool | None:
    """Do two open answers agree? None: their words differ, and only somebody who reads them can tell.

    Never None when one of them is a mere number, time or duration.
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
    """Does an answer name this number, and not a time?"""
    return not _read(answer).is_time and compare_open(answer, right) is True


def same_place(answer: str, right: str) -> bool:
    """Does an answer name this place in the picture, one of `REGIONS`, and no other?"""
    place = _place(answer)
    return place is not None and place == _place(right)


def same_texts(answer: str, right: str) -> bool:
    """Does an answer give this text from the screen, or these in this order when they are quoted?

    A reading with a few wrong letters will do, but digits must agree, and further texts make it another answer.
    """
    texts = _QUOTED.findall(right) or [right]
    said = _QUOTED.findall(answer) or _CURLY_QUOTED.findall(answer)
    if len(texts) == 1:
        wholes = (answer, _FRAME.sub("", answer), *(said if len(said) == 1 else ()))
        return any(_alike(each, texts[0]) for each in wholes)
    if not said:
        said = [_ITEM.sub("", each) for each in _BREAK.split(answer) if text_key(each)]
    if len(said) == len(texts):
        return all(map(_alike, said, texts))
    return text_key(_BREAK.sub("", answer)) == text_key(_BREAK.sub("", right))


def folded(text: str) -> str:
    """Case folded, single spaces. Punctuation stays, for options may differ in it ("3.5" and "35")."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _letters(text: str) -> str:
    """Without spaces and marks, but those between digits: readers of on-screen text err in spaces most."""
    return re.sub(r"(?<!\d)[\W_]|[\W_](?!\d)", "", folded(text))


def _same_quantity(one: _Reading, two: _Reading) -> bool:
    """Do the two agree, of which at least one is nothing but a quantity?"""
    if one.number is None or two.number is None:
        return False  # nothing that could agree, or several numbers of which any may be meant
    if not (one.is_time or two.is_time):
        return one.number == two.number  # "3" and "3 boats"
    comparable = one.is_time == two.is_time or (one.bare and two.bare)  # "6" may be seconds, "6 boats" may not
    return comparable and abs(one.number - two.number) <= TOLERANCE_SECONDS


def _place(answer: str) -> tuple[str, str] | None:
    """Row and column; None when an answer names no place, several, or something else."""
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
    words = _words(text) or tuple(_TOKEN.findall(text))
    clock = _CLOCK.search(text)
    rest = _words(text[: clock.start()] + " " + text[clock.end() :]) if clock else ()
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
    """Seconds, among words or bare."""
    return _Reading(words or (f"{seconds:g}",), seconds, is_time=True, bare=not words)


def _is_number(word: str) -> bool:
    return word[0].isdecimal()


def _words(text: str) -> tuple[str, ...]:
    """Words without fillers, numbers in digits."""
    text = _ARTICLE.sub("", text)
    text = _COMPOUND.sub(lambda match: str(_NUMBERS[match[1]] + _NUMBERS[match[2]]), text)
    return tuple(_number(word) for word in _TOKEN.findall(text) if word not in _FILLERS)


def _number(word: str) -> str:
    """Digits of a number in words, and digits without the zeros that say nothing."""
    if not _is_number(word):
        return str(_NUMBERS.get(word, word))
    whole, _, part = word.partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


def _duration(words: tuple[str, ...]) -> float | None:
    """Seconds of words that are nothing but numbers with units of time: `1 minute 5 seconds`."""
    amounts, units = words[::2], words[1::2]
    if len(amounts) != len(units) or not words:
        return None
    if not all(_is_number(amount) and unit in _SECONDS for amount, unit in zip(amounts, units, strict=True)):
        return None
    return sum(float(amount) * _SECONDS[unit] for amount, unit in zip(amounts, units, strict=True))
