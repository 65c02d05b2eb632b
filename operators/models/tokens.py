"""An upper bound on the tokens of a text, for servers without a tokenizer endpoint.

Tokenizers of language models merge frequent pieces of text, and fall back to single UTF-8 bytes: a text never has more
tokens than bytes. Written language has fewer, by script. Measured with SmolLM2's tokenizer of 49,152 tokens, which has
seen little but English, on the translations of Airflow's web pages (tokens for each character, and for each byte):

    English 0.27, 0.27    German 0.41, 0.41    Polish 0.53, 0.51      Russian 0.81, 0.45    Greek 0.91, 0.50
    Arabic  0.97, 0.55    Hebrew 1.08, 0.62    Hindi  1.11, 0.44      Thai    1.60, 0.62    Japanese 1.50, 0.60
    Chinese 1.48, 0.62    Korean 1.96, 0.87    emoji  3.0,  0.75      digits  1.0,  1.0

Rare characters of any script take all of their bytes, so that only ASCII letters and spaces are counted at less.
"""

from __future__ import annotations

import re

_PIECES = re.compile(
    r"(?P<word>[A-Za-z]+)|(?P<spaces>[ \t\r\n]+)|(?P<other>[^\x00-\x7f]+)|(?P<single>[\x00-\x7f])", re.ASCII
)
_UNUSUAL = re.compile(r"[^aeiouy]{5}|[aeiouy]{4}|[jqx][^aeiouy]|^[^aeiouy]+$", re.IGNORECASE)
"""Letters that are no syllables, of which a tokenizer may have no piece longer than one letter."""
_ENDS = 2
"""Tokens by which a text of a single foreign word may exceed the bound on its letters."""
_LONGEST_WORD = 24
"""Characters of a word of a language. What is longer is an identifier or noise."""


def token_bound(text: str) -> int:
    """Upper bound on the number of tokens of a text, without the few that a chat template adds.

    It holds for byte-level tokenizers and for those with a fallback to bytes. English text has about half as many.
    """
    return _ENDS + sum(_bound_of(match) for match in _PIECES.finditer(text))


def _bound_of(piece: re.Match[str]) -> int:
    found = piece[0]
    match piece.lastgroup:
        case "word":
            return _word_bound(found)
        case "spaces":
            # One space before a word is a part of the word's token. Longer white space rarely is one token for each.
            before_word = found.endswith(" ") and piece.string[piece.end() : piece.end() + 1].isalpha()
            return len(found) - before_word
        case _:
            return len(found.encode("utf-8", "surrogatepass"))


def _word_bound(word: str) -> int:
    """Two letters for each token, and one more for a word of four letters or more."""
    letters = len(word)
    is_written = word[1:].islower() or letters == 1  # all small, or with a capital letter first
    if not is_written or letters > _LONGEST_WORD or _UNUSUAL.search(word):
        return letters
    return letters // 2 + 1 if letters > 3 else (letters + 1) // 2
