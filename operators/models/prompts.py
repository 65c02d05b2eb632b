"""Prompt files: `<id>.md` has YAML front matter (id, purpose, role, output, sampling, system), then the user message.

The body is a Jinja template, rendered in a sandbox. A variable that it uses and does not get is an error, and so is one
that it gets and does not use. A prompt's sha256 covers its file, without id and purpose, and every file that it
includes, so an edit of any of them makes the rows stale that were made with it. An included file is plain Jinja without
front matter. This module does not prescribe a prompt's text or variables: the file and the stage that renders it must
agree on them. Only `_category.md` must have a text for every question category.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import yaml
from jinja2 import DictLoader, StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, Field, ValidationError

from schemas.base import Model
from schemas.config import Role
from schemas.errors import BadInput
from schemas.provenance import Sampling
from schemas.tables import QuestionCategory, QuestionKind

FENCE = "---\n"
OWN_FOLDER = Path(__file__).parents[2] / "prompts"
"""The project's prompts. The folder is next to the package `operators`, in a checkout and when installed."""
CATEGORY_FILE = "_category.md"
"""The included file that says what a question of the category `category` asks for."""


class PromptError(BadInput):
    """Raised when a prompt file is missing, malformed, or rendered with other variables than it uses."""


class FrontMatter(Model):
    """The head of a prompt file."""

    id: str
    """The file's name without its suffix."""
    purpose: str = Field(min_length=1)
    """What the prompt is for, in one sentence. It is not sent."""
    role: Role
    output: str | Annotated[dict[QuestionKind, str], Field(min_length=1)]
    """Name of the pydantic model that an answer must fit; or one for each kind of question, which the variable `kind`
    selects."""
    sampling: Sampling = Sampling()
    system: str = ""
    """The system message; empty for none."""


@dataclass(frozen=True)
class Prompt:
    """A prompt file after loading and validation. Hashable and picklable."""

    id: str
    sha256: str
    """Hash of the file's bytes, without id and purpose, and those of the files that it includes."""
    purpose: str
    role: Role
    outputs: tuple[tuple[QuestionKind | None, type[BaseModel]], ...]
    """The models that an answer must fit, by kind of question; one with None if the kind does not matter."""
    sampling: Sampling
    system: str
    texts: tuple[tuple[str, str], ...]
    """Name and Jinja source of the body (first) and of every included file."""
    head: str
    """The front matter as it is written."""

    @property
    def source(self) -> str:
        """The file, followed by every file that it includes under its name."""
        (_, body), *included = self.texts
        return f"{FENCE}{self.head}\n{FENCE}{body}" + "".join(f"\n=== {name} ===\n{text}" for name, text in included)

    @property
    def output(self) -> type[BaseModel]:
        """The model that an answer must fit.

        Raises:
            PromptError: it depends on the kind of question, which `of_kind` selects.
        """
        if len(self.outputs) > 1:
            kinds = ", ".join(str(kind) for kind, _ in self.outputs)
            raise PromptError(f"prompt {self.id}: its output depends on the kind of question ({kinds}); use `of_kind`")
        return self.outputs[0][1]

    def of_kind(self, kind: QuestionKind) -> Prompt:
        """The same prompt for one kind of question: it has that kind's output, and renders with that `kind`.

        Raises:
            PromptError: it has no output for that kind.
        """
        outputs = dict(self.outputs)
        if kind not in outputs:
            raise PromptError(f"prompt {self.id}: `output` names no model for {kind.value} questions; add one")
        return replace(self, outputs=((kind, outputs[kind]),))

    @functools.cached_property
    def variables(self) -> frozenset[str]:
        """Names of the variables that the body and its included files use. `of_kind` gives `kind`."""
        sources = (_environment({}).parse(text, filename=name) for name, text in self.texts)
        return frozenset().union(*map(meta.find_undeclared_variables, sources))

    def render(self, **variables: object) -> str:
        """The user message.

        Raises:
            PromptError: the body uses a variable that is not given, does not use one that is given, or cannot be
                rendered for another reason.
        """
        kind, _ = self.outputs[0]
        given = variables if kind is None else {"kind": kind.value} | variables
        if unused := sorted(variables.keys() - self.variables):
            raise PromptError(
                f"prompt {self.id}: it does not use {', '.join(map(repr, unused))}; use it in {self.id}.md, or do not "
                f"give it"
            )
        try:
            return _compile(self.texts).render(given).strip()
        except TemplateError as error:
            raise PromptError(f"prompt {self.id}: {error}; given were {sorted(given)}") from error


def prompts_folder() -> Path:
    """The folder that prompts are read from: LVR_PROMPTS, else the project's."""
    return Path(os.environ.get("LVR_PROMPTS") or OWN_FOLDER)


def prompt_ids(folder: Path) -> list[str]:
    """The ids of the prompts in a folder, sorted. Files that begin with `_` are included by prompts.

    Raises:
        PromptError: the folder has no prompts.
    """
    found = sorted(path.stem for path in folder.glob("*.md") if not path.stem.startswith("_"))
    if not found:
        raise PromptError(f"{folder}: no prompts there; name a folder with files <id>.md, such as {OWN_FOLDER}")
    return found


def load_prompt(
    prompt_id: str, folder: Path | None = None, models: Mapping[str, type[BaseModel]] | None = None
) -> Prompt:
    """Load and validate `<prompt_id>.md`.

    Args:
        prompt_id: the file's name without its suffix.
        folder: defaults to `prompts_folder()`.
        models: pydantic models by the names that `output` may have; defaults to the contents of `schemas.answers`.

    Raises:
        PromptError: the file is missing or malformed, or it includes `_category.md` and a category has no text there.
    """
    place = folder or prompts_folder()
    name = f"{prompt_id}.md"
    head, body = _split(name, _read(place, name))
    try:
        front = FrontMatter.model_validate(yaml.safe_load(head))
    except (ValidationError, yaml.YAMLError) as error:
        raise PromptError(f"prompt {name}: its front matter is wrong: {error}") from error
    if front.id != prompt_id:
        raise PromptError(f"prompt {name}: its id is {front.id!r}; it must be the file's name, {prompt_id!r}")
    named = front.output if isinstance(front.output, dict) else {None: front.output}
    texts = _with_includes(place, name, body)
    if CATEGORY_FILE in dict(texts):
        _assert_every_category_has_text(texts)
    identity = hashlib.sha256(_without_id_and_purpose(_read(place, name)))
    for included, _ in texts[1:]:
        identity.update(b"\0" + included.encode() + b"\0" + _read(place, included))
    return Prompt(
        id=prompt_id,
        sha256=identity.hexdigest(),
        purpose=front.purpose,
        role=front.role,
        outputs=tuple((kind, _output(name, output, models)) for kind, output in named.items()),
        sampling=front.sampling,
        system=front.system.strip(),
        texts=texts,
        head=head,
    )


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise PromptError(
            f"prompt file {name} cannot be read in {folder}: {error}; LVR_PROMPTS names the folder"
        ) from error


def _split(name: str, content: bytes) -> tuple[str, str]:
    """Front matter and body of a prompt file."""
    text = content.decode("utf-8").replace("\r\n", "\n")
    head, closing, body = text.removeprefix(FENCE).partition("\n" + FENCE)
    if not text.startswith(FENCE) or not closing:
        raise PromptError(f"prompt {name}: it must begin with front matter between two lines `---`")
    return head, body


def _without_id_and_purpose(content: bytes) -> bytes:
    """A prompt file as it is hashed. Another purpose changes no answer, so it makes no rows stale."""
    head, closing, body = content.partition(b"\n---")
    return re.sub(rb"(?m)^(?:id|purpose):.*\n(?:[ \t].*\n)*", b"", head + b"\n").removesuffix(b"\n") + closing + body


def _output(name: str, output: str, models: Mapping[str, type[BaseModel]] | None) -> type[BaseModel]:
    known = vars(importlib.import_module("schemas.answers")) if models is None else models
    found = known.get(output)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise PromptError(f"prompt {name}: output {output!r} is no model in schemas/answers.py")
    return found


def _environment(texts: Mapping[str, str]) -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=DictLoader(texts),
        undefined=StrictUndefined,
        autoescape=False,  # the text is for a model, not for a web page
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _assert_every_category_has_text(texts: tuple[tuple[str, str], ...]) -> None:
    template = _environment(dict(texts)).get_template(CATEGORY_FILE)
    for category in QuestionCategory:
        try:
            text = template.render(category=category.value)
        except TemplateError as error:
            raise PromptError(f"prompt {CATEGORY_FILE}: {error}; it may use the variable `category` only") from error
        if not text.strip():
            raise PromptError(
                f"prompt {CATEGORY_FILE}: it has no text for the category {category.value!r}; add "
                f'`{{% elif category == "{category.value}" %}}` and what such a question asks for'
            )


@functools.lru_cache(maxsize=64)
def _compile(texts: tuple[tuple[str, str], ...]) -> Template:
    return _environment(dict(texts)).get_template(texts[0][0])


def _with_includes(folder: Path, name: str, body: str) -> tuple[tuple[str, str], ...]:
    """Names and texts of the body and of all files that it includes, directly or through others, each once.

    Raises:
        PromptError: a template is malformed, or an include does not name its file literally.
    """
    texts = {name: body}
    waiting = [name]
    while waiting:
        current = waiting.pop(0)
        try:
            referenced = meta.find_referenced_templates(_environment({}).parse(texts[current], filename=current))
        except TemplateError as error:
            raise PromptError(f"prompt {current}: {error}") from error
        for other in sorted(referenced, key=str):
            if other is None:
                raise PromptError(f"prompt {current}: an include must name its file literally, for the hash covers it")
            if other not in texts:
                texts[other] = _read(folder, other).decode("utf-8")
                waiting.append(other)
    return tuple(texts.items())
