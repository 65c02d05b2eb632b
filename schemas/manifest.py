"""One line of a user's list of videos: the columns of a CSV manifest, the fields of a JSON one."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from schemas.base import Model, VideoId
from schemas.tables import Annotation as SpanText
from schemas.tables import Split, VideoCategory
from schemas.uri import public_text

PublicText = Annotated[str, AfterValidator(public_text)]
"""A text that is published, in which addresses lose their credentials."""


def _public(texts: tuple[SpanText, ...]) -> tuple[SpanText, ...]:
    return tuple(each.model_copy(update={"text": public_text(each.text)}) for each in texts)


class ManifestRow(Model):
    """Only `uri` is required."""

    uri: str = Field(min_length=1)
    """The full video: absolute, an fsspec URL, or relative to `media_root`."""
    source_id: VideoId | None = None
    """The video's id; by default made from its path."""
    title: PublicText = ""
    category: VideoCategory = VideoCategory.UNKNOWN
    licence: PublicText = ""
    origin: PublicText = ""
    split_hint: Split | None = None
    """Forces the split of this video's samples."""
    annotations: Annotated[tuple[SpanText, ...], AfterValidator(_public)] = ()
    """JSON manifests only: texts on spans of the video."""
