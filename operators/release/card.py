"""The dataset card of a release: README.md with the YAML front matter that the Hugging Face Hub and `datasets` read.

The part of the front matter about files is `operators.release.readers.loading_metadata`.
"""

from __future__ import annotations

import re
import types
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel

from operators.release.energon_command import energon_prepare
from operators.release.readers import loading_metadata
from operators.report.collect import Numbers, collect
from operators.report.figures import PACKAGING
from operators.store.run_folder import RunFolder
from schemas.config import Media, Role
from schemas.run import Release
from schemas.sample import Sample, WebDatasetRecord
from schemas.tables import Question, Reasoning, Source, Split, Video
from schemas.uri import printable, public_text

_HUB_LICENCES = frozenset(
    {"apache-2.0", "mit", "cc0-1.0", "odc-by", "odbl", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"}
    | {"cc-by-nd-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"}
)
"""Licences that videos are published under, from https://huggingface.co/docs/hub/repositories-licenses."""

_MAX_CHARACTERS = 200
"""Maximum length of a foreign text on the card, in characters."""
_MARKUP = re.compile(r"[&<>\"'\\`*_{}\[\]#|~$!@]|^[-+=]|(?<=:)/(?=/)|(?<=www)\.")

_TABLES = (Question, Reasoning, Video, Source)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(release: Release, folder: RunFolder) -> str:
    """README.md of a release, with the figures of the run that made it."""
    return render_card(release, collect(folder))


def render_card(release: Release, numbers: Numbers) -> str:
    """README.md of a release, from a run's figures."""
    environment = Environment(
        loader=PackageLoader("operators.release", ""),
        autoescape=False,  # noqa: S701 - Markdown; the filter `text` escapes what others wrote
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["text"] = markdown_text
    splits = [split.value for split in Split if release.samples.get(split.value)]
    media = numbers.run.config.shard.media is not Media.NONE
    return environment.get_template("card.md.jinja").render(
        front=yaml.safe_dump(_front_matter(release, numbers, splits), sort_keys=False, allow_unicode=True, width=120),
        release=release,
        numbers=numbers,
        config=numbers.run.config,
        splits=splits,
        sizes={split: _split_size(release, split) for split in splits},
        shown=max(splits, key=lambda split: release.samples[split]),
        media=media,
        models=[(role.value, numbers.run.config.models.of(role)) for role in Role],
        licences=_licences(numbers),
        packaging=_packaging(numbers),
        sample_fields=field_table(Sample),
        record_fields=field_table(WebDatasetRecord),
        energon_prepare=energon_prepare(splits, "."),
    )


def markdown_text(text: str) -> str:
    """Escape a foreign text for a Markdown table: nothing in it is markup, HTML, a formula or a mention.

    Special characters become character references, which CommonMark (section 2.5) never takes for structure.
    Credentials of addresses are removed, and long texts are cut.
    """
    words = " ".join(public_text(text).split())
    if len(words) > _MAX_CHARACTERS:
        words = f"{words[:_MAX_CHARACTERS]}…"
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(words))


def field_table(model: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Name, type and meaning of every field of a model.

    The meaning is the first docstring found: the field's own, its type's, or that of the same field in a table.
    """
    rows = []
    for name, info in model.model_fields.items():
        same = [table.model_fields[name].description for table in _TABLES if name in table.model_fields]
        text = next(filter(None, [info.description, _type_doc(info.annotation), *same]), "")
        rows.append((name, _type_name(info.annotation), " ".join(text.split()).replace("|", "\\|")))
    return rows


def _front_matter(release: Release, numbers: Numbers, splits: list[str]) -> dict[str, Any]:
    total = sum(release.samples.values())
    size = next((name for limit, name in _SIZES if total < limit), "n>1M")
    return {
        "pretty_name": release.name,
        **_licence(numbers),
        "task_categories": ["visual-question-answering", "video-text-to-text"],
        "language": ["en"],
        "size_categories": [size],
        "tags": ["video", "long-video", "reasoning", "webdataset"],
        **loading_metadata(splits, with_media=numbers.run.config.shard.media is not Media.NONE),
    }


def _licences(numbers: Numbers) -> list[tuple[str, int]]:
    """Licences as the sources state them, with the number of published videos under each."""
    videos = numbers.videos[numbers.videos["video_id"].isin(numbers.samples["video_id"])]
    counts = videos["licence"].value_counts()
    return [(str(name).strip() or "not stated", int(count)) for name, count in counts.items()]


def _packaging(numbers: Numbers) -> list[tuple[str, int]]:
    """Ways in which the published videos became MP4s, with their numbers; empty if no original videos are published."""
    if numbers.run.config.shard.media is not Media.ORIGINAL:
        return []
    videos = numbers.videos[numbers.videos["video_id"].isin(numbers.samples["video_id"])]
    counts = videos["packaging"].value_counts()
    return [(text, int(counts[way])) for way, text in PACKAGING.items() if way in counts]


def _licence(numbers: Numbers) -> dict[str, str]:
    stated = [re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") for name, _ in _licences(numbers)]
    if len(stated) == 1 and stated[0] in _HUB_LICENCES:
        return {"license": stated[0]}
    return {
        "license": "other",
        "license_name": (stated[0][:_MAX_CHARACTERS] or "other") if len(stated) == 1 else "several",
        "license_link": "README.md",
    }


def _split_size(release: Release, split: str) -> tuple[int, int]:
    """Number of a split's tars, and their size in bytes."""
    tars = [file for file in release.files if file.path.startswith(f"data/{split}/")]
    return len(tars), sum(file.bytes for file in tars)


def _type_name(annotation: Any) -> str:
    """A type in readable form: `string`, `list of {start_us, end_us}`, or the values of an enum."""
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(get_args(annotation)[0])}"
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, Enum):
            return ", ".join(f"`{member.value}`" for member in annotation)
        if issubclass(annotation, BaseModel):
            return "sample" if annotation is Sample else "{" + ", ".join(annotation.model_fields) + "}"
    return {str: "string", int: "integer", float: "number", bool: "boolean"}[annotation]


def _type_doc(annotation: Any) -> str:
    """Docstring of the field's own type, if that is an enum or a model; else empty."""
    inner = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    own = isinstance(inner, type) and issubclass(inner, Enum | BaseModel)
    return (inner.__doc__ or "") if own else ""
