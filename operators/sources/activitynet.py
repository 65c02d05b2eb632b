"""Reads ActivityNet Captions' JSON as sources: full videos, with the sentences that people wrote about their spans.

The file is one object, `{video id: {"duration": s, "timestamps": [[s, s], ...], "sentences": [text, ...]}}`, with times
in seconds from the beginning of the video (arXiv 1705.00754). A sentence that cannot be used is one reject.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from operators.sources.folder import media_names
from operators.sources.rejects import assert_storable, plan_reject
from schemas.base import message_of, shown_value
from schemas.manifest import ManifestRow
from schemas.tables import Annotation, Reject

Entry = tuple[str, dict[str, Any]]
"""The id of a video, and its fields."""

_FIELDS = ("duration", "timestamps", "sentences")
_SLACK_SECONDS = 1.0
"""Seconds by which a sentence may end after its video, as many of the data set do. It is cut there."""
_YOUTUBE_ID = 11
"""Length of a YouTube id. ActivityNet's own ids have `v_` in front."""


def read_activitynet(data: bytes) -> list[Entry] | None:
    """The videos of ActivityNet Captions' JSON in their order, also those that are named twice; None for other data."""
    if not data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return None
    try:
        found = json.loads(data, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    videos = [(name, fields) for name, fields in found if isinstance(fields, list)]
    entries = [(name, dict(fields)) for name, fields in videos if all(_is_pair(each) for each in fields)]
    is_one = len(entries) == len(found) and any({"timestamps", "sentences"} <= each.keys() for _, each in entries)
    return entries if is_one else None


def activitynet_entries(videos: Sequence[Entry], name: str, media_root: str) -> Iterator[ManifestRow | Reject]:
    """Yield one entry per video, with its sentences as dense captions, and a reject for each that cannot be used.

    Args:
        name: the file's address, for error messages.
        media_root: folder of the videos, which are named by their ids.

    Raises:
        SourceError: `media_root` cannot be listed.
    """
    files = media_names(media_root)
    for video_id, fields in videos:
        place = f"{name}, video {shown_value(video_id)}"
        try:
            assert_storable({video_id: fields})
            if problem := _problem(fields):
                yield plan_reject(video_id, "manifest_row", f"{place}: {problem}", fields)
                continue
            captions = []
            for index, (span, text) in enumerate(zip(fields["timestamps"], fields["sentences"], strict=True)):
                found = _caption(span, text, fields["duration"])
                if isinstance(found, Annotation):
                    captions.append(found)
                else:
                    message = f"{place}, sentence {index}: {found}"
                    yield plan_reject(f"{video_id}.{index}", "annotation", message, {"span": span, "sentence": text})
            youtube_id = video_id.removeprefix("v_")
            is_youtube = len(youtube_id) == _YOUTUBE_ID
            yield ManifestRow(
                uri=files.get(video_id) or files.get(youtube_id) or f"{video_id}.mp4",
                source_id=video_id,
                origin=f"https://www.youtube.com/watch?v={youtube_id}" if is_youtube else "",
                annotations=tuple(captions),
            )
        except UnicodeEncodeError as error:
            yield plan_reject(video_id, "manifest_row", f"{place}: not Unicode text ({error}); correct it")
        except ValidationError as error:
            problem = message_of(dict(error.errors()[0]))
            yield plan_reject(video_id, "manifest_row", f"{place}: its id or a sentence cannot be used: {problem}")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _problem(fields: dict[str, Any]) -> str | None:
    """Why the fields of a video cannot be used, as text for a message."""
    if missing := [field for field in _FIELDS if field not in fields]:
        return f"field {missing[0]} is missing; add it"
    if unknown := fields.keys() - set(_FIELDS):
        return f"field {shown_value(min(unknown))} is unknown; known are {', '.join(_FIELDS)}"
    if not _is_number(fields["duration"]) or fields["duration"] <= 0:
        return f"field duration: {shown_value(fields['duration'])} is no positive number of seconds; correct it"
    for field in ("timestamps", "sentences"):
        if not isinstance(fields[field], list):
            return f"field {field}: {shown_value(fields[field])} is no list; correct it"
    counts = [len(fields[field]) for field in ("timestamps", "sentences")]
    if counts[0] != counts[1]:
        return f"field sentences: {counts[1]} for {counts[0]} timestamps; give one for each"
    return None


def _caption(span: Any, text: Any, duration: float) -> Annotation | str:
    """A sentence as a dense caption, or why it cannot be used, as text for a message."""
    if not isinstance(span, list) or len(span) != 2 or not all(map(_is_number, span)):
        return f"its timestamps {shown_value(span)} are no two numbers of seconds; correct them"
    start, end = span
    if not 0 <= start < min(end, duration):
        return f"its timestamps {shown_value(span)} are no span of the video's {duration} s; correct them"
    if end > duration + _SLACK_SECONDS:
        return f"it ends at {end} s, after the video's end at {duration} s; correct its timestamps or the duration"
    if not isinstance(text, str) or not text.strip():
        return f"its text {shown_value(text)} is empty or no text; write one, or drop its timestamps"
    start_us, end_us = round(start * 1_000_000), round(min(end, duration) * 1_000_000)
    if start_us == end_us:
        return f"its timestamps {shown_value(span)} are the same microsecond; correct them"
    return Annotation(start_us=start_us, end_us=end_us, kind="caption", text=text.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
