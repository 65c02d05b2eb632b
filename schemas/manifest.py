"""One line of a user's list of videos: the columns of a CSV manifest, the fields of a JSON one."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Model, VideoId
from schemas.tables import Annotation, Split, VideoCategory


class ManifestRow(Model):
    """Only `uri` is required."""

    uri: str = Field(min_length=1)
    """The full video: absolute, an fsspec URL, or relative to `media_root`."""
    source_id: VideoId | None = None
    """The video's id; by default made from its path."""
    title: str = ""
    category: VideoCategory = VideoCategory.UNKNOWN
    licence: str = ""
    origin: str = ""
    split_hint: Split | None = None
    """Forces the split of this video's samples."""
    annotations: tuple[Annotation, ...] = ()
    """JSON manifests only: texts on spans of the video."""
