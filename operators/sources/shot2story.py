"""Reads Shot2Story's annotation files as sources: full YouTube videos, with the human texts at their absolute times.

Shot2Story annotates multi-shot segments of about 16 s. `*_meta.csv` gives the place of each segment in its YouTube
video (youtube_id, clip_id, category, duration = two HH:MM:SS.ms times). The annotation JSON holds, per segment,
captions, narration and ASR for each shot file `<clip_id>_<first frame>_<last frame>.mp4`. Frame numbers count the
segment's own frames from 0. The last shot ends with the segment, which gives the frame rate.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from operators.sources.folder import media_names
from operators.sources.manifest import ListRow, read_list
from operators.sources.rejects import assert_storable, plan_reject
from schemas.base import shown_value
from schemas.errors import SourceError
from schemas.manifest import ManifestRow
from schemas.tables import Annotation, Reject, VideoCategory

_SHOT_FILE = re.compile(r"(?P<clip>.+)_(?P<first>\d{1,9})_(?P<last>\d{1,9})\.\w+")
_CLOCK = re.compile(r"\b(\d{1,3}):(\d{2}):(\d{2}(?:\.\d+)?)")
_META_COLUMNS = {"youtube_id", "clip_id", "duration"}
_ANNOTATION_COLUMNS = {"video_names", "captions"}

_CATEGORIES = {  # HD-VILA-100M's names; the others have no counterpart among the 12
    "Film & Animation": VideoCategory.FILM,
    **{
        name: VideoCategory(re.sub(r"\W+", "_", name.lower()))
        for name in (
            "Travel & Events", "Sports", "Education", "Pets & Animals", "People & Blogs", "News & Politics", "Music",
            "Science & Technology", "Comedy", "Entertainment", "Gaming",
        )
    },
}  # fmt: skip


@dataclass(frozen=True)
class _Segment:
    youtube_id: str
    category: VideoCategory
    start_us: int
    end_us: int


def is_shot2story(rows: Sequence[ListRow | Reject]) -> bool:
    """Whether a list has the columns of Shot2Story's annotations, or of its meta table."""
    columns = next((row.fields.keys() for row in rows if isinstance(row, ListRow)), frozenset[str]())
    return columns >= _ANNOTATION_COLUMNS or columns >= _META_COLUMNS


def shot2story_entries(
    fs: Any, path: str, rows: Sequence[ListRow | Reject], media_root: str
) -> Iterator[ManifestRow | Reject]:
    """Yield one entry per YouTube video, with all annotations of its segments in time order.

    Unusable segments become rejects. Full videos are searched in `media_root` by their YouTube id.

    Raises:
        SourceError: the annotations have no readable `*_meta.csv` in their folder, which would give the places of the
            segments; or `media_root` cannot be listed.
    """
    files = media_names(media_root)
    yield from (row for row in rows if isinstance(row, Reject))
    annotated = [row.fields for row in rows if isinstance(row, ListRow)]
    if annotated[0].keys() >= _META_COLUMNS:
        meta, annotated = annotated, []
    else:
        tables = _read_meta(fs, path)
        yield from (row for row in tables if isinstance(row, Reject))
        meta = [row.fields for row in tables if isinstance(row, ListRow)]
    segments: dict[str, _Segment] = {}
    for row in meta:
        try:
            segments[str(row["clip_id"])] = _segment(row)
        except KeyError as missing:
            yield _reject(str(row.get("clip_id")), f"meta row {shown_value(row)}: has no {missing}", row)
        except ValueError as error:
            yield _reject(str(row.get("clip_id")), f"meta row {shown_value(row)}: {error}", row)
    texts: dict[str, list[Annotation]] = defaultdict(list)
    wanted = {segment.youtube_id for segment in segments.values()} if not annotated else set()
    for row in annotated:
        clip_id = PurePosixPath(str(row.get("video"))).stem
        if (segment := segments.get(clip_id)) is None:
            yield _reject(clip_id, f"segment {clip_id}: not in the meta table; add its row or drop the annotation", row)
            continue
        try:
            texts[segment.youtube_id] += _annotations(row, segment)
            wanted.add(segment.youtube_id)
        except KeyError as missing:
            yield _reject(clip_id, f"segment {clip_id}: has no {missing}", row)
        except (ValueError, TypeError) as error:  # a misplaced value; a value of another type
            yield _reject(clip_id, f"segment {clip_id}: {error}", row)
    categories = {segment.youtube_id: segment.category for segment in segments.values()}
    for youtube_id in sorted(wanted):
        try:
            yield ManifestRow(
                uri=files.get(youtube_id, f"{youtube_id}.mp4"),
                source_id=youtube_id,
                category=categories[youtube_id],
                origin=f"https://www.youtube.com/watch?v={youtube_id}",
                annotations=tuple(sorted(texts[youtube_id], key=lambda text: (text.start_us, text.end_us, text.kind))),
            )
        except ValidationError:
            shown = shown_value(youtube_id)
            message = f"youtube_id {shown}: only letters, digits, _ and - can be in one; correct the meta table"
            yield _reject(youtube_id, message, {"youtube_id": youtube_id})


def _read_meta(fs: Any, path: str) -> list[ListRow | Reject]:
    folder = path.rpartition("/")[0]
    found = [entry["name"] for entry in fs.ls(folder, detail=True) if entry["type"] != "directory"]
    tables = sorted(name for name in found if fnmatchcase(name.rpartition("/")[2], "*meta*.csv"))
    if not tables:
        raise SourceError(f"{path}: Shot2Story annotations need their *_meta.csv in the same folder; copy it there")
    return [row for table in tables for row in _meta_rows(fs, table)]


def _meta_rows(fs: Any, table: str) -> list[ListRow | Reject]:
    try:
        return read_list(fs.cat_file(table), table)
    except PermissionError as error:
        raise SourceError(f"{table}: the meta table cannot be read: {error}; copy it again") from error


def _segment(row: dict[str, Any]) -> _Segment:
    clocks = _CLOCK.findall(str(row["duration"]))
    if len(clocks) != 2:
        raise ValueError(f"duration {shown_value(row['duration'])} should hold two HH:MM:SS.ms times")
    start_us, end_us = (
        round((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 1_000_000)
        for hours, minutes, seconds in clocks
    )
    if end_us <= start_us:
        raise ValueError(f"duration {shown_value(row['duration'])} ends before it starts")
    category = _CATEGORIES.get(str(row.get("category")), VideoCategory.UNKNOWN)
    return _Segment(str(row["youtube_id"]), category, start_us, end_us)


def _annotations(row: dict[str, Any], segment: _Segment) -> list[Annotation]:
    assert_storable(row)
    shots = [_shot_frames(name) for name in row["video_names"]]
    last_frame = max((last for _, last in shots), default=0)
    if last_frame == 0:
        raise ValueError(
            f"shot files {row['video_names']} end at frame 0, so their frame rate is unknown; drop its row"
        )
    us_per_frame = (segment.end_us - segment.start_us) / last_frame
    found = [
        Annotation(
            start_us=segment.start_us + round(first * us_per_frame),
            end_us=segment.start_us + round(last * us_per_frame),
            kind=kind,
            text=text,
        )
        for kind, column in (("caption", "captions"), ("narration", "audio_captions"), ("speech", "ASR"))
        for (first, last), text in zip(shots, row.get(column) or [""] * len(shots), strict=True)
        if text
    ]
    if summary := row.get("whole_caption"):
        found.append(Annotation(start_us=segment.start_us, end_us=segment.end_us, kind="summary", text=summary))
    return found


def _shot_frames(name: str) -> tuple[int, int]:
    match = _SHOT_FILE.fullmatch(PurePosixPath(name).name)
    if match is None:
        raise ValueError(f"shot file {shown_value(name)} should be named <clip id>_<first frame>_<last frame>.mp4")
    return int(match["first"]), int(match["last"])


def _reject(key: str, message: str, row: dict[str, Any]) -> Reject:
    return plan_reject(key, "annotation", message, row)
