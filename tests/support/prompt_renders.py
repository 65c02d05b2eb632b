"""Renders every prompt from one small story, as files that show in a review what an edit of a prompt changes.

`python -m tests.support.prompt_renders` writes `tests/data/prompts/` again.
"""

from __future__ import annotations

from pathlib import Path

from operators.models.prompts import OWN_FOLDER, Prompt, load_prompt, prompt_ids
from schemas.answer_format import Target, problem_text, user_text
from schemas.tables import QuestionKind

FOLDER = Path(__file__).parents[1] / "data" / "prompts"

STORY = """\
00:00 - 00:10: A woman in a green apron puts a loaf of rye into the oven on the left. A clock on the wall shows 9:10.
00:10 - 00:20: A boy with a red cap brings her a basket of eggs and leaves through the back door.
00:20 - 00:30: She takes the loaf out and puts it on the sill. Heard: "This one is for the ferry."
00:30 - 00:40: The boy comes back through the front door, takes the loaf from the sill and runs to a ferry."""
QUESTION = "Through which door does the boy leave before he takes the loaf?"
OPTIONS = ("the back door", "the front door", "the side door", "the cellar door")
CHAIN = (
    "I search for the boy. At 00:10 he brings eggs and leaves through the back door, before he comes back for the loaf."
)
VARIABLES = {
    "story": STORY,
    "complete": True,
    "duration": "00:40",
    "entities": [
        {"name": "the woman in the green apron", "description": "a baker", "where": "00:00 - 00:30"},
        {
            "name": "the boy with the red cap",
            "description": "about ten years old",
            "where": "00:10 - 00:20, 00:30 - 00:40",
        },
    ],
    "reach": "far",
    "around": ["00:05", "00:35"],
    "asked": ["What does the woman take out of the oven?"],
    "question": QUESTION,
    "options": list(zip("ABCD", OPTIONS, strict=True)),
    "answer": OPTIONS[0],
    "evidence": "\n".join(STORY.splitlines()[1::2]),
    "chain": CHAIN,
    "right": OPTIONS[0],
    "turn": user_text(problem_text(QUESTION, OPTIONS), Target.REASONING, QuestionKind.CHOICE),
    "given": "the door at the back",
    "first": f"{QUESTION}\nAnswer: {OPTIONS[0]}",
    "second": "How does the boy with the red cap go out?\nAnswer: by the back door",
    "fact": "From 00:20 to 00:30 the loaf of rye is to the left of the woman in the green apron.",
    "labels": ["the loaf of rye", "the woman in the green apron"],
    "mentions": "1. (00:00 - 00:40) the baker: a woman in a green apron\n2. (00:10 - 00:20) the boy: a red cap\n"
    "3. (00:30 - 00:40) the boy with the red cap: about ten years old",
    "mistake": "2 stands in two entries",
    "title": "The loaf for the ferry",
    "scenes": "00:00 - 00:40: A loaf is fetched: A woman bakes a loaf (00:00), and a boy takes it to a ferry (00:30).",
    "frames": 8,
    "boxes": "pixels",
    "width": 448,
    "height": 252,
    "start": "00:00",
    "end": "00:10",
    "hints": [{"kind": "speech", "start": "00:20", "end": "00:30", "text": "This one is for the ferry."}],
    "category": "temporal",
    "number": 2,
    "count": 2,
}
"""Values of the variables of all prompts."""
OTHERS: dict[str, dict[str, object]] = {
    "chain": {"options": OPTIONS},
    "chain_hinted": {"options": OPTIONS},
    "refine": {"options": OPTIONS},
    "reason": {"options": OPTIONS},
    "spatial": {"answer": "on the left", "kind": "choice"},
}
"""Variables of a prompt that differ."""


def render(prompt_id: str) -> str:
    """The system text and the user message of a prompt; one after the other for each kind if it is for both."""
    prompt = load_prompt(prompt_id, OWN_FOLDER)
    return "".join(_render(prompt, kind) for kind, _ in prompt.outputs)


def _render(prompt: Prompt, kind: QuestionKind | None) -> str:
    chosen = prompt if kind is None else prompt.of_kind(kind)
    known = VARIABLES | OTHERS.get(prompt.id, {})
    needed = prompt.variables if kind is None else prompt.variables - {"kind"}
    head = f"===== {prompt.id}" + (f", {kind.value}" if kind else "") + f": {chosen.output.__name__} ====="
    text = chosen.render(**{name: known[name] for name in needed})
    return f"{head}\n{prompt.system}\n-----\n{text}\n"


def main() -> None:
    """Write all renders, and remove those of prompts that are gone."""
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for prompt_id in prompt_ids(OWN_FOLDER):
        (FOLDER / f"{prompt_id}.txt").write_text(render(prompt_id))


if __name__ == "__main__":
    main()
