"""Families of models, and whether the models that check are others than those that write.

A model is a poor judge of what a model of its own family wrote: both make the same mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from operators.models.session import MEASURED
from schemas.config import ModelsConfig, QuestionConfig, Role, Writer
from schemas.findings import Finding, Severity

_MEMBERS = {
    "qwen": ("qwen", "qwq", "qvq"),
    "llama": ("llama", "vicuna"),
    "mistral": ("mistral", "mixtral", "ministral", "magistral", "pixtral", "devstral"),
    "gemini": ("gemini", "gemma"),
    "gpt": ("gpt", "chatgpt", "o1", "o3", "o4"),
    "glm": ("glm", "chatglm", "cogvlm"),
    "intern": ("internlm", "internvl", "internvideo"),
    "smol": ("smollm", "smolvlm"),
    "olmo": ("olmo", "molmo"),
    "kimi": ("kimi", "moonlight", "moonshot"),
}
"""Names of models by family, where they do not all begin with the family's own name."""
_FAMILY_OF = {member: family for family, members in _MEMBERS.items() for member in members}


def model_family(model: str) -> str:
    """The family of a model by its name: by a known name in it, else the letters that it begins with.

    The organization before a slash is ignored. So is the folder of a model that is served by its path.
    """
    name = model.rstrip("/").rsplit("/", 1)[-1].casefold()
    for word in re.findall(r"[a-z]+(?:\d+(?![a-z]))?|\d+", name):
        letters = word.rstrip("0123456789")
        if found := _FAMILY_OF.get(word) or _FAMILY_OF.get(letters):
            return found
    found_letters = re.match(r"[a-z]+", name)
    return found_letters[0] if found_letters else name


def find_dependent_models(
    models: ModelsConfig, question: QuestionConfig, served: Mapping[Role, str] | None = None
) -> Iterator[Finding]:
    """Yield findings on whether writer and judge, and captioner and viewer, are independent of each other.

    There are none if a program writes all questions.

    Args:
        models: the resolved models.
        question: the settings of questions.
        served: names that servers stated in their answers, by role. They count more than the requested names, which may
            be aliases.
    """
    if Writer.MODEL not in question.writers or not models.reasoner.model:
        return
    name_of = {role: (served or {}).get(role) or models.of(role).model for role in Role}
    writer, judge = name_of[Role.REASONER], name_of[Role.JUDGE]
    is_same = model_family(writer) == model_family(judge)
    yield Finding(
        severity=Severity.WARNING if is_same else Severity.INFO,
        code="same_family",
        subject="Writer and judge",
        message=f"{writer} writes and {judge} judges"
        + (", models of one family, which make the same mistakes; name a judge of another one" if is_same else ""),
    )
    captioner, viewer = name_of[Role.CAPTIONER], name_of[Role.VIEWER]
    if captioner in {"", MEASURED}:
        return
    if not viewer:
        yield Finding(
            severity=Severity.WARNING,
            code="no_viewer",
            subject="Viewer",
            message=f"none, so nothing checks what {captioner} states in captions; set LVR_VIEWER_URL",
        )
        return
    is_captioner = viewer == captioner
    yield Finding(
        severity=Severity.WARNING if is_captioner else Severity.INFO,
        code="viewer_is_captioner",
        subject="Viewer",
        message=f"{viewer} checks what {captioner} states in captions"
        + ("; it sees again what it invented: name a model of another family" if is_captioner else ""),
    )
