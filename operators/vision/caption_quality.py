"""Finds captions that are no descriptions of their clip: refusals, repetitions, copies, injections, cut-off texts.

A caption with such a fault is requested again, with other random choices, and then rejected
(`operators.stages.caption`).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_BYTES = 10
"""Minimum size of a caption's letters and digits in UTF-8. An ideograph counts as three letters."""
MAX_CHARACTERS = 4_000
"""Maximum length of a caption: as much as a story shows of it (`operators.questions`). Detailed ones have 1,000."""
MAX_COMPRESSION = 2.4
"""Maximum ratio of a text's size to its size after zlib, as in Whisper (Radford et al. 2022, section 4.5)."""
MIN_COMPRESSED = 200
"""Bytes from which the compression ratio is meaningful: shorter texts hardly compress."""
PHRASE = 6
"""Words of a phrase whose repetitions are counted. Names of persons, "the man in the red coat", are shorter."""
MAX_REPEATED = 0.3
"""Maximum share of a text's words that belong to repetitions of a phrase. Of captions by people it is below 0.1."""
MIN_WORDS = 12
"""Words from which repeated phrases are counted."""
COPY = 0.9
"""Similarity of two captions, 0 to 1, from which one is a copy of the other."""
MIN_DIFFERENCE = 0.04
"""Mean difference of luma, 0 to 1, between the pictures of two clips from which they must not share a caption. Noise
and small movements stay below 0.02."""
BLACK = 0.5
"""Share of black frames from which a caption may be as short as "Black."."""

_THUMBNAIL = (16, 9)

_CJK = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|„[^“”]*[“”]|「[^」]*」|(?<!\w)'[^']*'(?!\w)|(?<!\w)‘[^’]*’(?!\w)")

_REFUSALS = re.compile(
    "|".join(
        (
            r"\bi(?:['’]m| am) (?:(?:very|so|really) )?(?:sorry|afraid|unable|not able|not allowed)\b",
            r"\bi(?:['’]m| am) an? (?:ai|language model)\b",
            r"\bi (?:can(?:['’]t|not| not)|could(?:n['’]t| not)|won['’]t|will not|do(?: not|n['’]t)) "
            r"(?:help|assist|describe|provide|comply|see|view|watch|access|identify|analy[sz]e|process|fulfil|answer|continue|have)",
            r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|multimodal model|text-based)\b",
            r"\b(?:i apologi[sz]e|my apologies|unfortunately,? i)\b",
            r"\b(?:please|kindly) (?:provide|upload|share|attach|send) (?:the|a|an|some|me|more|your)\b",
            r"^(?:sorry|es tut mir leid|leider kann ich|je suis désolé|lo siento|mi dispiace|desculpe)\b",
            r"^(?:抱歉|对不起|很抱歉|我无法|我不能|作为一个?(?:ai|人工智能|语言模型)|申し訳|すみません)",
        )
    ),
    re.IGNORECASE,
)
"""Phrases of a model about itself or to its user."""

_MODEL = r"(?:ais?|llms?|(?:large |vision )?language models?|models?|assistants?|chatbots?|judges?|graders?)"
_INJECTIONS = re.compile(
    "|".join(
        (
            r"\b(?:ignore|disregard|forget|override|skip)\s+(?:(?:all|any|everything|the|of|your|my|these|those|this)\s+)*"
            r"(?:(?:above|previous|prior|preceding|earlier|foregoing)\b|(?:instructions?|prompts?|guidelines)\b)",
            r"(?:^|[.!?:;,\n\"'“‘(\[]\s*|\b(?:and|then|always|must|just|please|only|should|simply)\s+)"
            r"answer:?\s+(?:(?:with|by|option|letter|only)\s+)*[\"'“(]?(?-i:[A-D])\b"
            r"(?!\s+(?:is|was|are|and|or|appears|lights?|on|of|in)\b)",
            r"\b(?:choose|select|pick|output|respond\s+with|reply\s+with|print)\s+(?:only\s+)?(?:option|answer|letter)\s+"
            r"[\"'“(]?(?-i:[A-D])\b",
            r"\b(?:correct|right)\s+(?:answer|option)\s+(?:is|must\s+be)\s+(?:always\s+|option\s+|letter\s+)*[\"'“(]?(?-i:[A-D])\b",
            r"\b(?:system|developer)\s+(?:prompt|instructions?)\b",
            rf"\b(?:you\s+are\s+now|act\s+as|pretend\s+to\s+be|from\s+now\s+on,?\s+you)\b.{{0,40}}\b{_MODEL}\b",
            rf"\b(?:to|dear|attention,?|note\s+to|instructions?\s+(?:to|for))\s+(?:(?:the|all|any)\s+)?{_MODEL}\s*:",
            r"<\|[a-z_]+\|>|\[/?INST\]|</?(?:system|assistant|video|notes|instructions?)>",
            r"^\s*\#{2,}\s*(?:instructions?|system)\b",
            r"(?:忽略|无视)(?:以上|上述|之前|前面)",
        )
    ),
    re.IGNORECASE | re.MULTILINE,
)
"""Instructions to a model, also where a caption quotes them: quoted texts belong to the texts on screen."""


@dataclass(frozen=True)
class CaptionFault:
    """Why a caption is not used."""

    reason: str
    """A word of `schemas.reject_reasons`."""
    message: str


def find_fault(text: str, *, is_truncated: bool, black: float) -> CaptionFault | None:
    """The first fault of a caption, or None.

    Args:
        text: the caption.
        is_truncated: whether the model ran out of tokens, in the text or after it.
        black: share of the clip's frames that are black. Nothing can be seen in a black clip, so a word is enough.
    """
    size = len("".join(each for each in text if each.isalnum()).encode())
    if size < MIN_BYTES and (black < BLACK or not size):
        return CaptionFault("bad_caption_short", f"it has {size} bytes of letters, at least {MIN_BYTES} are a sentence")
    if (repeated := _describe_repetition(text)) is not None:
        return CaptionFault("bad_caption_repetition", repeated)
    if len(text) > MAX_CHARACTERS:
        return CaptionFault("bad_caption_long", f"it has {len(text)} characters, at most {MAX_CHARACTERS} are shown")
    if found := _INJECTIONS.search(text):
        return CaptionFault("injection", f"it holds an instruction to a model: {_shorten(found[0])}")
    if found := _REFUSALS.search(_QUOTED.sub("", text).strip()):
        return CaptionFault("bad_caption_refusal", f"it speaks of its writer, not of the video: {_shorten(found[0])}")
    if is_truncated and not _ends(text):
        return CaptionFault("bad_caption_truncated", f"its text is cut off after {len(text)} characters")
    return None


def find_copy(text: str, neighbour: str, difference: float) -> CaptionFault | None:
    """The fault that a caption repeats the one before it, although the pictures differ; None otherwise.

    Args:
        text: the caption.
        neighbour: the caption of the clip before.
        difference: of the two clips' pictures (`picture_difference`). A static scene may have the same caption twice.
    """
    if difference < MIN_DIFFERENCE:
        return None
    words, others = _split_words(text), _split_words(neighbour)
    similarity = SequenceMatcher(None, words, others, autojunk=False).ratio() if words != others else 1.0
    if similarity < COPY:
        return None
    return CaptionFault(
        "bad_caption_copy",
        f"{similarity:.0%} of its words repeat the caption before it, but the pictures differ ({difference:.2f})",
    )


def thumbnails(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Luma of RGB frames at thumbnail size, 0 to 1. Shape [frames, pixels]."""
    small = [cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA) for frame in frames]
    luma = np.stack([cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).ravel() for each in small])
    return luma.astype(np.float32) / np.float32(255)


def picture_difference(clip: NDArray[np.float32], neighbour: NDArray[np.float32]) -> float:
    """Mean difference, 0 to 1, of each frame of a clip to the most similar one of its neighbour.

    Clips that alternate between the same two shots do not differ.

    Args:
        clip: `thumbnails` of the clip's frames.
        neighbour: those of the other clip.
    """
    distances = np.abs(clip[:, None] - neighbour[None]).mean(axis=2)
    return float(distances.min(axis=1).mean())


def _describe_repetition(text: str) -> str | None:
    data = text.encode()
    ratio = len(data) / len(zlib.compress(data))
    if len(data) >= MIN_COMPRESSED and ratio > MAX_COMPRESSION:
        return f"it repeats itself: zlib makes it {ratio:.1f} times smaller, a description at most {MAX_COMPRESSION}"
    words = list(islice(_WORD.finditer(text.casefold()), 2 * MAX_CHARACTERS))
    if len(words) < MIN_WORDS:
        return None
    seen: set[tuple[str, ...]] = set()
    repeated = [False] * len(words)
    for start in range(len(words) - PHRASE + 1):
        phrase = tuple(word[0] for word in words[start : start + PHRASE])
        if phrase in seen:
            repeated[start : start + PHRASE] = [True] * PHRASE
        seen.add(phrase)
    share = sum(repeated) / len(words)
    return f"{share:.0%} of its words repeat an earlier phrase" if share > MAX_REPEATED else None


def _split_words(text: str) -> list[str]:
    return [word[0] for word in islice(_WORD.finditer(text.casefold()), MAX_CHARACTERS)]


def _ends(text: str) -> bool:
    """Whether a text ends with a sentence."""
    return text.rstrip().rstrip("\"'”’»)」").endswith((".", "!", "?", "…", "。", "！", "？"))


def _shorten(found: str) -> str:
    return repr(" ".join(found.split())[:80])
