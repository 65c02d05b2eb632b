"""Checks of a chain of thought by program: form, wording, and whether its times, quotations and names are in the video.

They find what needs no understanding. Readers check the rest (`operators.questions.chains`).
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence

from operators.questions.answers import folded, key_words
from operators.questions.gates.wording import find_injection, find_meta_talk, find_refusal
from operators.questions.outcome import Problem
from operators.questions.story import caption_line
from operators.video.timecode import format_time
from schemas.base import Span
from schemas.tables import Caption, Question

MIN_WORDS = 12
"""Fewest words of a chain. Below, it only asserts its conclusion."""
MAX_WORDS = 700
"""Most words of a chain. The prompt requests five to twelve sentences."""
RUN_WORDS = 8
REPEATED_SHARE = 0.15
"""Share of a chain's runs of eight words that occur more than once, from which it repeats itself. Six are not enough:
`the man in the red coat` is named at each of his moments."""
SENTENCE_WORDS = 6
"""Words from which a sentence that occurs twice is a repetition."""
LEAST_DENSITY = 0.3
"""Compressed size of a chain by its size, below which it repeats itself with small changes. Chains that go through
similar moments have about 0.45, texts without repetition 0.55."""
CONCLUSION_SENTENCES = 2
"""Sentences at the end of a chain in which its answer is stated."""
STATED = 0.5
"""Share of an answer's words that must be in them."""

_END = re.compile(r"[.?!…][\"'”’)\]]*$|[。？！]$")
_SENTENCE = re.compile(r"(?<=[.?!。？！])[\"'”’)\]]*\s+")
_CLOCK = re.compile(r"(?<![\d:.])(?:(\d{1,2}):)?(\d{1,2}):([0-5]\d)(?![\d:])", re.ASCII)
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”")
_NAME = re.compile(r"(?<![.?!:…。\n])(?<=[\w,;)'’])\s+(?P<name>[^\W\d_][\w-]{2,})")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of to in on at by for with from into is are was were be been it its he she they his her their them "
        "him and or then as that this these those there which who what when where while first after before so up",
    )
)

_SOURCE = r"(?:captions?|descriptions?|transcripts?|notes?|summar(?:y|ies)|storyboards?|annotations?)"
_CHAIN_META = re.compile(
    rf"""
      \b(?:right|correct|expected|known|given|provided|intended|reference|official|stated)
        \ (?:answer|solution|option)\b
    | \banswer\ (?:is|was|has\ been|being|that\ (?:is|was))\ (?:already\ )?
        (?:given|provided|told|known|supplied|stated|hinted)\b
    | \b(?:i|we)\ (?:was|were|am|are|have\ been|'ve\ been)\ (?:already\ )?(?:told|given|informed)\b
    | \bknow(?:s|ing|n)?\ (?:already\ |beforehand\ |in\ advance\ )*(?:that\ |what\ )?the\ answer\b
    | \bthe\ hint\ (?:says|states|tells|is)\b
    | \bsupposed\ to\ (?:justify|explain|arrive|conclude|answer|confirm)\b
    | \b(?:the|these|those|all|other|remaining|possible|answer|given|listed)
        \ (?:other\ |remaining\ |possible\ |answer\ |given\ |listed\ |four\ |three\ )*(?:options|answers)\b
    | \b{_SOURCE}\ (?:at|for|from|of|around|between)\ (?:the\ (?:moment|time|part|video|clips?|frames?)\b|\d)
    | \b(?:the|this|written|video)\ record\ (?:says?|states?|tells?|mentions?|does|indicates?|describes?)\b
    | \b(?:is|are|was|were)\ (?:described|captioned|annotated|transcribed)\ (?:as|at|in)\b
    | \b(?:provided|given|supplied)\ (?:video|footage|segments?|material|evidence|excerpts?)\b
    | \b(?:these|those|several|all|sampled|extracted|consecutive|neighbouring|adjacent|video)\ (?:key)?frames\b
    | \b(?:the|this|that|one|another|next|a)\ (?:key|video\ )?frame\ (?:at|from|around|of)\ \d
    | \bframes?\ (?:at|from|around|of|between)\ \d | \bkey\ ?frames?\b
    | \b(?:the|this|that|one|another|video)\ clip\ (?:at|from|around|of|shows?|begins|starts|ends|describes?)\b
    | </?(?:think|answer|chain)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""What a question may say and a chain may not, beyond `find_meta_talk`. A reviewer finds what the patterns miss."""
_SIGHT = re.compile(r"\b(?:see|watch|view)$", re.IGNORECASE)


def find_chain_problem(
    reasoning: str, question: Question, captions: Sequence[Caption], evidence: Sequence[Span]
) -> Problem | None:
    """The first thing that is wrong with a chain of thought, or None.

    Args:
        reasoning: the chain.
        question: the question that it answers.
        captions: all captions of the video, in order of time.
        evidence: the parts of the video that the question and the chain rest on.
    """
    nearby = widen(captions, evidence)
    return (
        _length(reasoning)
        or _completeness(reasoning)
        or _repetition(reasoning)
        or _refusal(reasoning)
        or _injection(reasoning)
        or _times(reasoning, question, nearby)
        or _quotations(reasoning, question, nearby)
        or _conclusion(reasoning, question)
        or _meta_talk(reasoning)
    )


def find_refinement_problem(refined: str, original: str) -> Problem | None:
    """What a second pass added to a chain or took from it although it must not, or None."""
    times, before = _read_times(refined), _read_times(original)
    if added := times - before:
        return Problem("chain_time", f"the second pass added the time {format_time(min(added))}", refined)
    if 2 * len(times) < len(before):
        return Problem("chain_time", f"the second pass kept {len(times)} of {len(before)} times", refined)
    known = set(key_words(original))
    added_words = [word for word in key_words(_CLOCK.sub(" ", refined)) if word not in known]
    if numbers := [word for word in added_words if word[0].isdecimal()]:
        return Problem("chain_quote", f"the second pass added the number {numbers[0]}", refined)
    known_text = _normalize_spaces(original)
    if quotes := [quote for quote in _read_quotations(refined) if _normalize_spaces(quote) not in known_text]:
        return Problem("chain_quote", f"the second pass added the quotation {quotes[0]!r}", refined)
    return None


def widen(captions: Sequence[Caption], spans: Sequence[Span]) -> list[Caption]:
    """The captions that overlap any of the spans, and the one before and after each, in order of time."""
    chosen = set()
    for index, caption in enumerate(captions):
        if any(caption.start_us < span.end_us and span.start_us < caption.end_us for span in spans):
            chosen |= {index - 1, index, index + 1}
    return [caption for index, caption in enumerate(captions) if index in chosen]


def states_answer(text: str, answer: str) -> float:
    """The share of an answer's words that a text contains, 0 to 1."""
    words = _stems(answer)
    return len(words & _stems(text)) / len(words) if words else 0.0


def _length(reasoning: str) -> Problem | None:
    words = len(reasoning.split())
    if MIN_WORDS <= words <= MAX_WORDS:
        return None
    return Problem("chain_length", f"it has {words} words; between {MIN_WORDS} and {MAX_WORDS} are wanted", reasoning)


def _completeness(reasoning: str) -> Problem | None:
    if _END.search(reasoning.strip()):
        return None
    return Problem("cut_text", f"it ends with {reasoning[-30:]!r}, not with a sentence", reasoning)


def _repetition(reasoning: str) -> Problem | None:
    sentences = Counter(_normalize_spaces(sentence) for sentence in _SENTENCE.split(reasoning))
    for sentence, count in sentences.items():
        if count > 1 and len(sentence.split()) >= SENTENCE_WORDS:
            return Problem("chain_repeats", f"it has {count} times {sentence.strip()!r}", reasoning)
    words = re.findall(r"\w+", folded(reasoning))
    runs = Counter(zip(*(words[start:] for start in range(RUN_WORDS)), strict=False))
    repeated = sum(count for count in runs.values() if count > 1)
    raw = reasoning.encode()
    if repeated > REPEATED_SHARE * sum(runs.values()) or len(zlib.compress(raw, 9)) < LEAST_DENSITY * len(raw):
        return Problem("chain_repeats", "large parts of it occur more than once", reasoning)
    return None


def _refusal(reasoning: str) -> Problem | None:
    found = find_refusal(reasoning)
    if found is None or _SIGHT.search(found):  # "I cannot see his face" is an observation
        return None
    return Problem("refused_text", f"it is a refusal ({found!r})", reasoning)


def _injection(reasoning: str) -> Problem | None:
    found = find_injection(reasoning)
    return Problem("injection", f"it instructs its reader ({found!r})", reasoning) if found else None


def _meta_talk(reasoning: str) -> Problem | None:
    match = _CHAIN_META.search(_QUOTED.sub('""', reasoning))
    found = find_meta_talk(reasoning) or (match[0] if match else None)
    return Problem("meta_talk", f"it speaks of {found!r}; it must speak of the video", reasoning) if found else None


def _times(reasoning: str, question: Question, nearby: Sequence[Caption]) -> Problem | None:
    known = _read_times(_source_text(question, nearby))
    for time_us in sorted(_read_times(reasoning) - known):
        if not any(each.start_us - 1_000_000 < time_us <= each.end_us for each in nearby):
            return Problem("chain_time", f"the time {format_time(time_us)} is not near its evidence", reasoning)
    return None


def _quotations(reasoning: str, question: Question, nearby: Sequence[Caption]) -> Problem | None:
    source = _source_text(question, nearby)
    spaced = _normalize_spaces(source)
    for quote in _read_quotations(reasoning):
        if _normalize_spaces(quote) not in spaced:
            return Problem("chain_quote", f"{quote!r} is neither in the captions near its evidence nor in the question")
    words = set(re.findall(r"\w+", folded(source)))
    for match in _NAME.finditer(_QUOTED.sub('""', reasoning)):
        name = match["name"]
        if name[0].isupper() and not words.issuperset(re.findall(r"\w+", folded(name))):
            return Problem(
                "chain_quote", f"the name {name!r} is neither in the captions near its evidence nor in the question"
            )
    return None


def _conclusion(reasoning: str, question: Question) -> Problem | None:
    end = " ".join(_SENTENCE.split(reasoning.strip())[-CONCLUSION_SENTENCES:])
    stated = states_answer(end, question.answer)
    others = [states_answer(end, option) for option in question.options if option != question.answer]
    if stated >= max(STATED, *others, 0.0):
        return None
    return Problem("chain_conclusion", f"it ends with {end[-120:]!r}, which is not {question.answer!r}", reasoning)


def _source_text(question: Question, nearby: Sequence[Caption]) -> str:
    """What a chain may quote."""
    return "\n".join([*map(caption_line, nearby), question.question, question.answer, *question.options])


def _read_times(text: str) -> set[int]:
    """The times that a text shows, in microseconds."""
    return {
        (3600 * int(hours or 0) + 60 * int(minutes) + int(seconds)) * 1_000_000
        for hours, minutes, seconds in _CLOCK.findall(text)
    }


def _read_quotations(text: str) -> list[str]:
    return [straight or curly for straight, curly in _QUOTED.findall(text)]


def _normalize_spaces(text: str) -> str:
    """The words of a text, separated by single spaces, so that punctuation does not matter in a comparison."""
    words = " ".join(re.findall(r"[^\W_]+", folded(text)))
    return f" {words} "


def _stems(text: str) -> frozenset[str]:
    """The words of a text without stop words (unless there are only such), inflection and forms of numbers."""
    every = key_words(folded(text))
    content = [word for word in every if word not in _STOP_WORDS] or every
    return frozenset(re.sub(r"(?:ing|ed|es|s)$", "", word) if len(word) > 4 else word for word in content)
