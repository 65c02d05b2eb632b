"""Do two answers say the same? By program as far as that is certain; what is left is for a judge to say.

Case, spaces, punctuation and filler words do not matter, nor whether a number is written in digits or in words, nor a
unit that only one of two numbers carries. Times and durations agree within `TOLERANCE_SECONDS`, the
precision with which they are measured.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

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


@dataclass(frozen=True)
class _Reading:
    """What an answer says: its words in order, and the one quantity that it names, if it names just one."""

    words: tuple[str, ...]
    number: float | None
    is_time: bool
    bare: bool
    """Nothing but the quantity, its unit and fillers."""
    numbered: bool
    """Some number is named."""


def same_answer(answer: str, other: str, kind: QuestionKind) -> bool:
    """Do the two agree for certain? For choices: the same option. For open answers see the module."""
    if kind is QuestionKind.CHOICE:
        return folded(answer) == folded(other)
    return compare_open(answer, other) is True


def compare_open(answer: str, other: str) -> bool | None:
    """Do two open answers agree? None: their words differ, and only somebody who reads them can tell."""
    one, two = _read(answer), _read(other)
    if not one.words or not two.words:
        return folded(answer) == folded(other)
    if one.number is not None and two.number is not None:
        if one.bare and two.bare:
            return abs(one.number - two.number) <= (TOLERANCE_SECONDS if one.is_time or two.is_time else 0.0)
        if (one.bare or two.bare) and not (one.is_time or two.is_time):
            return one.number == two.number  # "3" and "3 boats"
    if "".join(one.words) == "".join(two.words) or _letters(answer) == _letters(other):
        return True
    if (one.bare and not two.numbered) or (two.bare and not one.numbered):
        return False  # a quantity, and something that names none
    return None


def names(answer: str, text: str) -> bool:
    """Does an answer contain a text, letter by letter?"""
    return _letters(text) in _letters(answer)


def folded(text: str) -> str:
    """Case folded, single spaces. Punctuation stays, for options may differ in it ("3.5" and "35")."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _letters(text: str) -> str:
    """Without spaces and marks, but those between digits: readers of on-screen text err in spaces most."""
    return re.sub(r"(?<!\d)[\W_]|[\W_](?!\d)", "", folded(text))


def _read(answer: str) -> _Reading:
    text = folded(answer)
    clock = _CLOCK.search(text)
    if clock and not (rest := _words(text[: clock.start()] + " " + text[clock.end() :])):
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        value = 3600 * hours + 60 * minutes + seconds
        return _Reading((*rest, str(value)), float(value), is_time=True, bare=True, numbered=True)
    words = _words(text) or tuple(_TOKEN.findall(text))
    seconds_named = _duration(words)
    if seconds_named is not None:
        return _Reading((f"{seconds_named:g}",), seconds_named, is_time=True, bare=True, numbered=True)
    numbers = [word for word in words if word[0].isdecimal()]
    number = float(numbers[0]) if len(numbers) == 1 else None
    bare = number is not None and len(words) == 1
    return _Reading(words, number, is_time=False, bare=bare, numbered=bool(numbers))


def _words(text: str) -> tuple[str, ...]:
    """Words without fillers, numbers in digits."""
    text = _ARTICLE.sub("", text)
    text = _COMPOUND.sub(lambda match: str(_NUMBERS[match[1]] + _NUMBERS[match[2]]), text)
    return tuple(_number(word) for word in _TOKEN.findall(text) if word not in _FILLERS)


def _number(word: str) -> str:
    """Digits of a number in words, and digits without the zeros that say nothing."""
    if not word[0].isdecimal():
        return str(_NUMBERS.get(word, word))
    whole, _, part = word.partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


def _duration(words: tuple[str, ...]) -> float | None:
    """Seconds of words that are nothing but numbers with units of time: `1 minute 5 seconds`."""
    amounts, units = words[::2], words[1::2]
    if len(amounts) != len(units) or not words:
        return None
    if not all(amount[0].isdecimal() and unit in _SECONDS for amount, unit in zip(amounts, units, strict=True)):
        return None
    return sum(float(amount) * _SECONDS[unit] for amount, unit in zip(amounts, units, strict=True))
