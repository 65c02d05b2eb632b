"""The prompt of a question about a video and the format of its response, for the trainer and the pipeline.

The prompt is the question with its options, and the instruction how to answer (`user_text`). A response is
`<think>reasoning</think><answer>answer</answer>`, or the answer alone. Models deviate from it, so the parser decides
for every text which part is the answer:

- The last `</think>` ends the thought. An `<answer>` inside the thought is part of the thought.
- After the thought, the last `<answer>` counts, up to the next `</answer>` or the end. Without `<answer>`, the answer
  is all text after the thought.
- In a thought that is never closed, only an answer element that ends the text counts. Any other is a draft.

All functions take linear time.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from schemas.tables import QuestionKind

LETTERS = "ABCDEFGHIJ"
"""Option letters, in order."""

LONGEST_ANSWER = 1000
"""Maximum length of an open answer, in characters. A longer one is wrong: the instruction requests a short answer."""

LETTER_ELEMENT = rf"^<answer>([{LETTERS}])</answer>$"
"""Pattern of `format_answer(letter)`. Its group is the letter."""


class Target(StrEnum):
    """The text that is supervised."""

    REASONING = "reasoning"
    """`<think>reasoning</think><answer>answer</answer>`: the chain-of-thought stage of LongVILA-R1."""
    ANSWER = "answer"
    """The answer alone: the long-video stage before the chain-of-thought stage."""


_INSTRUCTIONS = {
    Target.REASONING: "Think about the video step by step inside <think></think>, then give {answer} inside "
    "<answer></answer>.",
    Target.ANSWER: "Answer with {answer} only.",
}
_ANSWERS = {QuestionKind.CHOICE: "the letter of the right option", QuestionKind.OPEN: "a short answer"}


def instruction(target: Target, kind: QuestionKind) -> str:
    """The sentence after the question that requests this form of response."""
    return _INSTRUCTIONS[target].format(answer=_ANSWERS[kind])


def problem_text(question: str, options: Sequence[str]) -> str:
    """A question, followed by one line for each of its options, `A. ...`: the `problem` of a sample."""
    return "\n".join([question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))])


def user_text(problem: str, target: Target, kind: QuestionKind) -> str:
    """The text of the user's turn after the video: the problem, and the instruction how to answer."""
    return f"{problem}\n\n{instruction(target, kind)}"


def format_answer(answer: str) -> str:
    """The answer element of a response, `<answer>answer</answer>`."""
    return f"<answer>{answer}</answer>"


def format_response(reasoning: str, answer: str) -> str:
    """A response with its chain of thought.

    Args:
        answer: the answer element.
    """
    return f"<think>{reasoning}</think>{answer}"


@dataclass(frozen=True)
class ParsedResponse:
    """The parts of a model's response."""

    reasoning: str | None
    """Text of the thought; None without one."""
    answer: str | None
    """Text of the answer, without white space around it; None if there is none or it is blank."""
    problem: str | None
    """The first deviation from `<think>reasoning</think><answer>answer</answer>`; None for a well-formed response."""

    @property
    def is_well_formed(self) -> bool:
        """Whether the response has exactly one thought and one answer, neither blank, and nothing else."""
        return self.problem is None


_TAG = re.compile(r"<(/?)(think|answer)>", re.IGNORECASE)


def parse_response(text: str, *, thought_is_open: bool = False) -> ParsedResponse:
    """Split any text into thought and answer. Never raises.

    Args:
        thought_is_open: the prompt ends with `<think>`, so that the response begins inside the thought.
    """
    tags = list(_TAG.finditer(text))
    names = [tag.group() for tag in tags]
    lowered = [name.lower() for name in names]
    problem = _find_problem(text, tags, thought_is_open)
    closings = [index for index, name in enumerate(lowered) if name == "</think>"]
    opening = next((tag.end() for tag, name in zip(tags, lowered, strict=True) if name == "<think>"), None)
    begin = opening if opening is not None and (not closings or opening <= tags[closings[-1]].start()) else 0
    if closings:
        end = tags[closings[-1]]
        reasoning = text[begin : end.start()].strip()
        return ParsedResponse(reasoning, _find_answer(text[end.end() :]), problem)
    if not (thought_is_open or "<think>" in lowered):
        return ParsedResponse(None, _find_answer(text), problem)
    end_of_text = text.rstrip()
    last = lowered[-2:] == ["<answer>", "</answer>"] and tags[-1].end() == len(end_of_text)
    answer = text[tags[-2].end() : tags[-1].start()].strip() or None if last else None
    end_of_thought = tags[-2].start() if last else len(text)
    return ParsedResponse(text[begin:end_of_thought].strip(), answer, problem)


def _find_answer(text: str) -> str | None:
    """The answer in the text after the thought."""
    tags = [tag for tag in _TAG.finditer(text) if tag[2].lower() == "answer"]
    begin = max((tag.end() for tag in tags if not tag[1]), default=0)
    end = min((tag.start() for tag in tags if tag[1] and tag.start() >= begin), default=len(text))
    return text[begin:end].strip() or None


def _find_problem(text: str, tags: Sequence[re.Match[str]], thought_is_open: bool) -> str | None:
    names = [tag.group() for tag in tags]
    wanted = ["<think>", "</think>", "<answer>", "</answer>"][thought_is_open:]
    if not text.strip():
        return "the response is empty"
    for name in wanted:
        if (count := names.count(name)) != 1:
            return f"{name} occurs {count} times instead of once"
    if names != wanted:
        return f"the tags are {' '.join(names[:8])} instead of {' '.join(wanted)}"
    begins, ends = [0, *(tag.end() for tag in tags)], [*(tag.start() for tag in tags), len(text)]
    before, *within, after = (text[begin:end].strip() for begin, end in zip(begins, ends, strict=True))
    thought, between, answer = [before, *within] if thought_is_open else within
    if not thought or not answer:
        return f"the {'answer' if thought else 'thought'} is empty"
    if not thought_is_open and before:
        return "there is text before <think>"
    if between or after:
        return f"there is text {'between thought and answer' if between else 'after </answer>'}"
    return None


# A letter stands alone if no letter or digit is next to it. Chinese, Japanese and Korean are written without spaces, so
# their characters may be next to it. All repetitions are bounded, so that the search takes linear time.
_JOINED = r"[^\W\u2e80-\u9fff\uac00-\ud7af]"
_LETTER = rf"(?<!{_JOINED})([A-J])(?!{_JOINED})(?!'\w)"
_OPEN, _CLOSE = r"[\s\"'“‘«(\[{]{0,6}", r"[\s\"'”’»)\]}]{0,6}"
_OPTION = r"(?:(?:option|choice|letter)s?\b[\s:]{0,3})?"
_VERB = r"(?:\s(?:is|was|would\sbe|should\sbe|must\sbe|will\sbe))?"
_ADVERB = r"(?:\s(?:therefore|thus|clearly|most\slikely|likely|probably|simply))?"

_STATED = re.compile(
    rf"(?:\b(?:answer(?:\sto\s(?:the|this)\squestion)?|(?:correct|right|best|final)\s(?:option|choice|letter|one)){_VERB}{_ADVERB}\s?[:=]?"
    r"|\b(?:choose|chose|pick|picked|select|selected|go\swith|it\sis|it's|that\sis|that's|must\sbe|should\sbe)\b"
    r"|\b(?:letter|option|choice)\s(?:is|would\sbe)\b"
    rf"|(?:答案|答え|正解)\s?[是为は]?\s?:?|选择?|選擇?){_OPEN}{_OPTION}{_OPEN}{_LETTER}",
    re.IGNORECASE,
)
"""`The answer is B`, `I choose (B)`, `it's B`."""
_CONFIRMED = re.compile(
    rf"{_LETTER}{_CLOSE}\s(?:is|must\sbe|should\sbe)\s(?:the\s)?(?:most\slikely\s)?(?:correct|right|answer|best)\b",
    re.IGNORECASE,
)
"""`B is correct`, `B is the right answer`."""
_LISTED = re.compile(
    rf"{_CLOSE}(?:,|/|&|、|和|或|\bor\b|\band\b)?\s?(?:\b(?:or|and)\b)?{_OPEN}{_OPTION}{_OPEN}{_LETTER}", re.IGNORECASE
)
"""What follows the first of several letters: `A or B`, `A, B`, `A/B`, `A B`."""
_NAMED = re.compile(rf"\b(?:option|choice|letter)s?\b[\s:]{{0,3}}{_OPEN}{_LETTER}", re.IGNORECASE)
"""`option B`."""
_BRACKETED = re.compile(rf"[(\[]\s?([A-Ja-j])\s?[)\]]|(?<!{_JOINED})([A-J])\)")
"""`(B)` or `B)`."""
_LABEL = re.compile(
    rf"{_OPEN}{_LETTER}(?:{_CLOSE}(?:\)|[.:、](?=\s|$)|\s[-–—](?=\s))|[^\S\n]{{0,6}}\n|(?=,?\s(?:because|since|as|not|rather|instead)\b))",
    re.IGNORECASE,
)
"""A letter before a text: `B) cat`, `(B) cat`, `B. cat`, `B: cat`, `B - cat`, `B because`."""
_CLOSE_LABEL = re.compile(r"\W{0,6}([A-J])[\s.:]\s{0,6}(?=\S)", re.IGNORECASE)
"""A letter that may label the text after it: `B cat`, `B.cat`. It does if that text is its option."""
_LAST_LINE = re.compile(r"\n\W{0,6}([A-J])\W{0,6}\Z")
"""A last line of a letter alone."""
_LATER_LABEL = re.compile(r"(?<=\s)([A-J])[.:](?=\s|$)")
_REJECTED = re.compile(
    rf"(?:\b(?:not|neither|nor|except|than|instead\sof)\b|n't\b|不是|不选)\s?{_OPEN}{_OPTION}{_OPEN}{_LETTER}",
    re.IGNORECASE,
)
"""`Not B`."""
_NEGATION = re.compile(
    r"\b(?:not|no|nor|neither|never|none|cannot|wrong|incorrect|false|except|exclud(?:e|es|ed|ing)|"
    r"eliminat(?:e|es|ed|ing)|rul(?:e|es|ed|ing)\sout|instead\sof|rather\sthan|other\sthan)\b|n't\b|不|非|没|沒|错|錯",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r"[.;!?](?=\s|$)|[\n。]|\((?!\s?[A-Ja-j]\s?\))|\b(?:but|because|since|therefore)\b"
    r"|,(?=\s?(?:not|rather|instead|as|so|it|the|my|thus|hence)\b)|,(?=\s?[而因但所])",
    re.IGNORECASE,
)
_WORD = re.compile(r"\s[^\W\d_]{2}")
_CONJUNCTION = re.compile(r"\s(?:because|since|as|or|and|is|must|should|but|not|rather|instead)\b", re.IGNORECASE)

_MARKUP = re.compile(
    r"\\(?:boxed|textbf|text|mathrm|mathbf)\b|\\[()\[\]]|[*`#$\u200b-\u200f\u2060\ufeff]|\b_{1,3}|_{1,3}\b"
)
_WRAPPERS = " \t\r\n\"'“”‘«»()[]{}<>.,;:、。"
_QUOTES = " \"'“”‘«»`"
_ARTICLE = re.compile(r"(?:a|an|the) (?=\S)")
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|therefore|hence),? )?(?:it is |it's |(?:the |my )?(?:(?:final|correct|right|best) )?"
    r"(?:answer|option|choice)(?: is(?:: ?| )|: ?)|答案[是为]?:? ?)"
)


def choice_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that a response chooses, or None if it chooses none or the choice is uncertain.

    Accepted are a letter alone ("B", "(b)", "**B**", "\\boxed{B}", a full-width letter), a letter before its option
    ("B) cat", "B. cat"), the option's text (in any case, with quotes, a period or another article), and a sentence
    that names a letter ("Option B.", "The answer is B", "B is correct"). A sentence that names the answer counts more
    than options that are only mentioned. A letter alone is a letter even if it is also the text of an option.

    None for several letters ("A or B"), a negation ("not B"), a letter before another option's text, a letter that no
    option has, a letter in a word or in a phrase that does not name the answer ("vitamin C"), and a text that several
    options share.

    Args:
        text: a whole response, or its answer.
        options: texts of the options in the order of their letters, at most ten.
    """
    answer = parse_response(text).answer
    if answer is None:
        return None
    letters = LETTERS[: len(options)]
    plain = _MARKUP.sub("", unicodedata.normalize("NFKC", answer)).replace("’", "'").strip()
    plain = plain.removeprefix("- ").removeprefix("• ")
    bare = plain.rstrip("!").strip(_WRAPPERS).upper()
    if len(bare) == 1 and bare in LETTERS:
        return bare if bare in letters else None
    keys = [_key(option) for option in options]
    folded = _key(plain)
    rest = _LEAD_IN.sub("", folded, count=1) if _LEAD_IN.match(folded) else folded
    for key in (_key(answer), folded, rest):
        if letter := _letter_of(keys, key):
            return letter
    for label in (_LABEL.match(rest), _CLOSE_LABEL.match(rest)):
        if label and (letter := _letter_of(keys, _key(rest[label.end() :]))):
            return letter if letter == label[1].upper() else None
    chosen = _affirmed_letter(plain)
    return chosen if chosen is not None and chosen in letters else None


def _key(text: str) -> str:
    """A text for comparison: case, spaces, and quotes and periods around it do not matter."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("’", "'").split())
    return folded.strip(_QUOTES).rstrip(".,;:。").strip(_QUOTES)


def _letter_of(keys: Sequence[str], key: str) -> str | None:
    """The letter of the only option with this key, or else of the only one with it but for an article."""
    if not key:
        return None
    same = [index for index, each in enumerate(keys) if each == key]
    same = same or [index for index, each in enumerate(keys) if _ARTICLE.sub("", each, 1) == _ARTICLE.sub("", key, 1)]
    return LETTERS[same[0]] if len(same) == 1 else None


def _affirmed_letter(text: str) -> str | None:
    """The only letter that a text names as the answer and does not also reject."""
    ends = [match.start() for match in _CLAUSE_END.finditer(text)]
    negated = {bisect_right(ends, match.start()) for match in _NEGATION.finditer(text)}
    rejected = {match[1].upper() for match in _REJECTED.finditer(text)}
    stated, mentioned = set[str](), set[str]()
    for chosen, find in ((stated, _find_stated), (mentioned, _find_mentioned)):
        for position, letter in find(text):
            (rejected if bisect_right(ends, position) in negated else chosen).add(letter)
    chosen = stated or mentioned
    return chosen.pop() if len(chosen) == 1 and not chosen & rejected else None


def _find_stated(text: str) -> Iterator[tuple[int, str]]:
    """Position and letter of each answer that a phrase names, and of the letters that are listed after it."""
    for pattern in (_STATED, _CONFIRMED):
        for match in pattern.finditer(text):
            listed: re.Match[str] | None = match
            for _ in LETTERS:
                if listed is None or _is_word(text, listed):
                    break
                yield listed.start(1), listed[1].upper()
                listed = _LISTED.match(text, listed.end(1))


def _find_mentioned(text: str) -> Iterator[tuple[int, str]]:
    """Position and letter of each option that a text mentions."""
    label = _LABEL.match(text)
    found = [*_NAMED.finditer(text), *_LAST_LINE.finditer(text)]
    found += [label, *_LATER_LABEL.finditer(text)] if label else []
    yield from ((match.start(1), match[1].upper()) for match in found if not _is_word(text, match))
    yield from ((match.start(), match[match.lastindex or 0].upper()) for match in _BRACKETED.finditer(text))
    for match in _NAMED.finditer(text):
        if listed := _LISTED.match(text, match.end(1)):
            yield listed.start(1), listed[1].upper()


def _is_word(text: str, match: re.Match[str]) -> bool:
    """Whether a letter is the article `a`, the pronoun `I`, or a lower-case letter inside a sentence."""
    may_be = match[1].islower() or match[1] in "AI"
    return may_be and bool(_WORD.match(text, match.end(1))) and not _CONJUNCTION.match(text, match.end(1))
