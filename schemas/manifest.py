"""What a user writes about one video: a row of a manifest (CSV or JSON), or a file of facts next to the video."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag

from schemas.base import Model, VideoId, shown_value
from schemas.facts import VideoFacts
from schemas.tables import Annotation as SpanText
from schemas.tables import Split, VideoCategory
from schemas.uri import public_text

PublicText = Annotated[str, AfterValidator(public_text)]
"""A text that is published. Addresses in it lose their credentials."""


KINDS_OF_TEXT = ("caption", "narration", "speech", "summary")
"""Kinds of texts about spans of a video, see `schemas.tables.Annotation`."""


def _check_texts(texts: tuple[SpanText, ...]) -> tuple[SpanText, ...]:
    """Check what kind each text is of. Addresses in them lose their credentials."""
    for each in texts:
        if each.kind not in KINDS_OF_TEXT:
            raise ValueError(f"kind {shown_value(each.kind)} is unknown; known are {', '.join(KINDS_OF_TEXT)}")
        if each.speaker and each.kind != "speech":
            raise ValueError(f"a {each.kind} has no speaker, got {shown_value(each.speaker)}; only speech has one")
    return tuple(each.model_copy(update={"text": public_text(each.text)}) for each in texts)


SpanTexts = Annotated[tuple[SpanText, ...], AfterValidator(_check_texts)]

FORMS_OF_FACTS = ("(path)", "(inline)")
"""Names that pydantic puts into the place of an error in a manifest's column `facts`, by the form of its value."""


def _form_of_facts(value: Any) -> str:
    return FORMS_OF_FACTS[not isinstance(value, str)]


class FactsFile(Model):
    """`NAME.facts.json` next to the video `NAME.mp4`, or the file that a manifest's column `facts` names."""

    annotations: SpanTexts = ()
    """Texts about spans of the video."""
    facts: VideoFacts | None = None


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
    annotations: SpanTexts = ()
    """Texts about spans of the video. JSON manifests only."""
    facts: (
        Annotated[
            Annotated[str, Tag(FORMS_OF_FACTS[0])] | Annotated[VideoFacts, Tag(FORMS_OF_FACTS[1])],
            Discriminator(_form_of_facts),
        ]
        | None
    ) = None
    """Address of a file of facts and texts (`FactsFile`), read like `uri`. JSON manifests may hold the facts
    (`schemas.facts.VideoFacts`) themselves."""
