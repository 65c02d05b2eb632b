"""Patterns of texts that do not belong into a question or a chain of thought.

They are narrow: a pattern fits only what hardly any honest text says, because a judge reviews the wording as well
(`operators.questions.gates.review`). Words that have an ordinary use (a hair clip, a caption under a painting, a court
transcript) are left to the judge.
"""

from __future__ import annotations

import re

QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|(?<!\w)'[^']*'(?!\w)")
"""A quotation with its marks."""

_SOURCE = r"(?:captions?|descriptions?|transcripts?|notes?|summar(?:y|ies)|passages?|timelines?|storyboards?|ocr)"
_STATES = r"(?:say|state|show|mention|describe|note|indicate|read|list|tell|report|speak|refer|suggest|confirm)"
_META = re.compile(
    rf"""
      \b(?:the|this|these|that|those|its|their|given|provided|above|following|video|clip|frame|text)\ {_SOURCE}
        \ (?:only\ |also\ |above\ |below\ |here\ |of\ the\ (?:video|clips?)\ )*{_STATES}(?:s|es|ed|d|ing)?\b
    | \b(?:according\ to|based\ on|from|in|per)\ (?:the\ |these\ |this\ )?
        (?:(?:given|provided|above|video|clip)\ )?{_SOURCE}\b(?!\ (?:of|on|under|by|from|at|to|for)\b)
    | \b(?:above|provided|given|following)\ (?:text|information|context|parts?|{_SOURCE})\b
    | \b(?:text|information|context|{_SOURCE})\ (?:is\ |are\ |was\ |were\ )?(?:above|below|provided|given)\b
    | \b(?:frame|clip|segment|caption|scene|image|picture)s?\ (?:no\.?\ |number\ |\#)?\d+\b
    | \b(?:first|second|third|last|final|next|previous|each|every|same|given|following)\ (?:video\ )?(?:clip|frame)s?\b
    | \b(?:in|of|from|throughout|during|within|across)\ (?:the|this|that|these|those|all|both)\ (?:video\ )?
        (?:clip|frame)s?\b
    | \b(?:all|none|both|two|neither)\ of\ the\ (?:above|options|choices|answers)\b
    | \bparts?\ of\ the\ video\ (?:is\ |are\ )?(?:left\ out|omitted|summari[sz]ed)\b | \[summary\]
    | \b(?:right|correct|expected|reference)\ (?:answer|option)\ (?:is|was|has\ been)
        \ (?:given|provided|told|known|supplied)\b
    | \b(?:given|provided|supplied|stated)\ (?:right\ |correct\ |reference\ )?answer\b
    | \bi\ (?:was|am|have\ been)\ (?:told|given|shown)\ (?:that\ )?the\ (?:right|correct|answer|options?)\b
    | \b(?:as|i\ am|i'm)\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model|assistant)\b
    | \b(?:the|this|my|your|these|those)\ (?:prompt|instructions?\ (?:above|given|say))\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LETTER = re.compile(
    r"""
      \b(?:[Oo]ptions?|[Cc]hoices?|[Aa]nswers?)\ \(?[A-D]\)?
        (?=\ (?:is|was|are|fits?|match(?:es)?|seems?|must|can|cannot|would|says|remains?|and|or)\b|[,.;:)]|$)
    | \b[Aa]nswer(?:\ is|\ must\ be|:)\ \(?(?:[B-D]\b|A\b(?!\ [a-z]))
    | (?<!\w)\([A-D]\)
    """,
    re.VERBOSE,
)
_INJECTION = re.compile(
    r"""
      \b(?:ignore|disregard|forget|override)\ (?:all\ |any\ |the\ |your\ |everything\ |of\ )*
        (?:above|instructions?|prompts?
        |(?:previous|prior|earlier|preceding|other)\ (?:text|instructions?|rules|prompts?))\b
    | \b(?:always\ |only\ |just\ |please\ |must\ )*(?:answer|choose|select|pick|reply|respond|output)
        \ (?:with\ |only\ |option\ |letter\ |always\ )*["'(]?[A-D]\b["')]?(?!\w|\ [a-z])
    | \byou\ (?:must|should|will|are\ to|have\ to)\ (?:now\ )?(?:answer|choose|select|reply|respond|output|ignore|act)\b
    | \bsystem\ prompt\b | \bnew\ instructions?: | <\|?/?(?:im_start|im_end|system|assistant|user|video)\|?>
    | \b(?:dear|attention|note\ to|instructions?\ (?:to|for))\ (?:the\ )?(?:ai|model|judge|assistant|grader|llm)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_REFUSAL = re.compile(
    r"""
      \b(?:i\ am|i'm)\ (?:sorry|afraid|unable)\b
    | \bi\ (?:can't|cannot|can\ not|won't|am\ not\ able\ to)
        \ (?:help|assist|answer|provide|comply|do\ that|create|write|determine|see|watch|view|fulfil|continue)\b
    | \bas\ an?\ (?:ai|language\ model)\b | \bunable\ to\ (?:help|assist|comply|fulfil|provide)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def find_meta_talk(text: str) -> str | None:
    """The first words that refer to how a text was made (captions, clips, notes, option letters), or None.

    Quotations are ignored.
    """
    own = QUOTED.sub('""', text)
    found = _META.search(own) or _LETTER.search(own)
    return found[0] if found else None


def find_injection(text: str) -> str | None:
    """The first words that instruct the reader, a model, instead of describing a video; None if there are none."""
    found = _INJECTION.search(text)
    return found[0] if found else None


def find_refusal(text: str) -> str | None:
    """The first words with which a model refuses, or None. Quotations are ignored: people in videos apologize."""
    found = _REFUSAL.search(QUOTED.sub('""', text))
    return found[0] if found else None
