"""One entry of a user's list of videos: a row of a CSV manifest, or an object of a JSON manifest."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from schemas.base import Model, VideoId
from schemas.tables import Annotation as SpanText
from schemas.tables import Split, VideoCategory
from schemas.uri import public_text

PublicText = Annotated[str, AfterValidator(public_text)]
"""A text that is published. Addresses in it lose their credentials."""


def _public(texts: tuple[SpanText, ...]) -> tuple[SpanText, ...]:
    return tuple(each.model_copy(update={"text": public_text(each.text)}) for each in texts)


class ManifestRow(Model):
    """One video of a manifest. Only `uri` is required."""

    uri: str = Field(min_length=1)
    """Address of the full video: an absolute path, an fsspec URL, or a path relative to `media_root`."""
    source_id: VideoId | None = None
    """Id of the video. Default: derived from its path."""
    title: PublicText = ""
    """Title of the video."""
    category: VideoCategory = VideoCategory.UNKNOWN
    licence: PublicText = ""
    """Licence of the video. It is published with every record of the video."""
    origin: PublicText = ""
    """Origin of the video: a channel, an address, a data set."""
    split_hint: Split | None = None
    """Forces the split of this video and of its near-duplicates. If their hints differ, eval wins over sft over rl."""
    annotations: Annotated[tuple[SpanText, ...], AfterValidator(_public)] = ()
    """Texts about spans of the video. JSON manifests only."""
