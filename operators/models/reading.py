"""Reads a raw answer: separates thoughts from the answer, finds its JSON and validates it with the prompt's model."""

from __future__ import annotations

import re
import zlib

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from operators.models.answer_schema import assert_not_cut
from operators.models.requests import Answer, Refusal, Request
from schemas.answers import FreeText
from schemas.journal import JournalEntry
from schemas.provenance import Provenance, Sampling


def read_entry(request: Request, entry: JournalEntry, sampling: Sampling, limits_text: bool) -> Answer | Refusal:
    """Parse an answer from a journal or a server.

    Answers from journals are parsed here as well, because the output model may have changed since they were written.

    Args:
        limits_text: the decoder was held to the longest texts, so that a text may be as long as its limit.
    """
    cut = entry.finish_reason == "length"

    def refusal(reason: str, message: str) -> Refusal:
        return Refusal(request, reason, message, full_text(entry), entry.request_sha256)

    if entry.finish_reason == "content_filter":
        return refusal("blocked", "The server's content filter stopped the answer.")
    ended = f"The answer was cut off after {entry.tokens_out} tokens"
    try:
        value = _read_value(entry, request.prompt.output, cut, limits_text)
    except ValueError as error:
        if cut:
            return refusal("truncated", f"{ended}: {describe_error(error)}.")
        return refusal("schema", f"The answer does not fit the schema: {describe_error(error)}.")
    if value is None:
        return refusal("truncated", f"{ended} of thinking.") if cut else refusal("empty", "The answer was empty.")
    return Answer(request, value, _provenance(request, entry, sampling), truncated=cut)


def _read_value(entry: JournalEntry, output: type[BaseModel], cut: bool, limits_text: bool) -> BaseModel | None:
    """The value of an answer, or None if it is empty."""
    if issubclass(output, FreeText):
        whole = full_text(entry)
        return output.model_validate({"text": whole}) if whole.strip() else None
    text = entry_text(entry)
    return read_answer(text, output, cut, limits_text) if text else None


def read_answer(text: str, output: type[BaseModel], cut: bool = False, limits_text: bool = False) -> BaseModel:
    """Parse the JSON of an answer.

    Args:
        text: the answer without thoughts and without a code fence.
        output: the model that the JSON must fit.
        cut: the model ran out of tokens. An unfinished JSON text is closed where it ends, which may still be valid.
        limits_text: a text may be as long as its limit.

    Raises:
        ValueError: the answer has no valid JSON for `output`. pydantic's ValidationError is one.
    """
    if cut:
        data = from_json(text, allow_partial="trailing-strings")
        value = output.model_validate(data)
    else:
        value = output.model_validate_json(text)
        data = from_json(text)
    if not limits_text:
        assert_not_cut(data, output)
    return value


def full_text(entry: JournalEntry) -> str:
    """Everything that the model wrote. Thoughts come first, between `<think>` and `</think>`."""
    if entry.thoughts is None:
        return entry.raw
    if entry.finish_reason == "length" and not entry.raw:
        return f"<think>{entry.thoughts}"
    return f"<think>{entry.thoughts}</think>{entry.raw}"


def repeats_itself(text: str) -> bool:
    """Whether a text ends in a loop, which no further tokens would end.

    Its last 4,000 characters are then compressed to less than a fourteenth. Prose shrinks to about a half, lists of
    boxes in JSON to an eighth, and a paragraph that occurs ten times to a sixteenth.
    """
    tail = text[-4000:].encode()
    return len(tail) >= 2000 and len(zlib.compress(tail, 9)) * 14 < len(tail)


def entry_text(entry: JournalEntry) -> str:
    """The text of an answer without thoughts and without a code fence around it.

    Thoughts that came apart are no part of the text, whatever they hold. Else the text before `</think>` is thoughts,
    as of a server without a parser for them.
    """
    return answer_text(entry.raw) if entry.thoughts is None else without_fence(entry.raw)


def answer_text(raw: str) -> str:
    """A raw answer without the thoughts before `</think>` and without a code fence."""
    text = raw.strip()
    if not text.startswith(("{", "```")):
        before, mark, after = text.partition("</think>")
        text = after if mark else before
    return without_fence(text)


def without_fence(text: str) -> str:
    """A text without the code fence around it."""
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*(?:```)?", text.strip(), re.DOTALL)
    return fenced[1] if fenced else text.strip()


def _provenance(request: Request, entry: JournalEntry, sampling: Sampling) -> Provenance:
    prompt = request.prompt
    return Provenance(
        model=entry.model,
        served_model=entry.served_model,
        prompt_id=prompt.id,
        prompt_sha256=prompt.sha256,
        sampling=sampling,
        seed=request.seed,
        tokens_in=entry.tokens_in,
        tokens_out=entry.tokens_out,
        finish_reason=entry.finish_reason,
        raw=full_text(entry),
        request_sha256=entry.request_sha256,
    )


def describe_error(error: ValueError) -> str:
    """A message of one line, with the fields of a validation error."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'JSON'}: {item['msg']}" for item in found[:5])
