"""Writes docs/examples-of-questions.md: questions that a build kept and rejected, with frames of their evidence.

    python -m benchmarks.example_questions [--films DIR]

Stage `question` runs on three rendered films (`operators/demo/films/stories`) with the models of
`tests/support/film_world.py`: a competent writer that errs in half of its answers in ways that writers err, a judge
that knows what it reads, and a viewer that knows what the frames show. Twenty kept questions (by film and category) and
twenty rejected ones (by reason) are written down, with the verdict of a person who has read them
(`example_verdicts.json`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import cv2
import numpy as np

from operators.demo.films.film import render_film
from operators.demo.films.stories import film_scripts
from operators.models.session import ModelPool
from operators.questions.gates.frames import choose_times
from operators.stages.question import STAGE
from operators.video.timecode import format_time
from operators.vision.request_frames import decode_frames
from schemas.tables import Question, Reject
from tests.support.film_world import FilmModels, FilmWorld
from tests.support.openai_server import OpenAIServer
from tests.support.rows import make_source, make_video, of_file
from tests.support.stages import StageRunner

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "examples-of-questions.md"
IMAGES = ROOT / "docs" / "images" / "examples"
VERDICTS = Path(__file__).with_name("example_verdicts.json")
COUNT = 20
"""Questions of each list."""
MAX_BYTES = 25_000
"""Of a picture."""
UNREAD = {"verdict": "not read", "why": "this question is new"}
QUESTION = {"writers": ["model"], "min_questions": 24, "rounds": 2, "mix": {"spatial": 0.2}}


@dataclass(frozen=True)
class Example:
    """A question of a build."""

    film: Path
    question: Question
    reject: Reject | None

    @property
    def key(self) -> str:
        """What its verdict is stored under."""
        result = self.reject.reason if self.reject is not None else "kept"
        return f"{result}: {self.question.question} {self.question.answer}"


def build_examples(folder: Path, films: Sequence[Path]) -> list[Example]:
    """All questions of the films, with their rejects."""
    examples: list[Example] = []
    with ModelPool() as pool:
        for film in films:
            place = folder / film.stem
            place.mkdir()
            world = FilmWorld(film_scripts()[film.stem])
            with OpenAIServer() as server:
                server.script = FilmModels(world)
                runner = StageRunner(place, server, pool, vision=True)
                video = of_file(make_video(film.stem), film).model_copy(update={"duration_us": world.duration_us})
                rows = runner.run(STAGE, [video], world.captions(), [], [make_source(film.stem)], question=QUESTION)
                rejects = {reject.key: reject for reject in runner.rejects}
            examples += [Example(film, row, rejects.get(row.question_id)) for row in rows if isinstance(row, Question)]
    return examples


def choose(examples: Sequence[Example], group: Callable[[Example], Hashable]) -> list[Example]:
    """`COUNT` examples, as equally from all groups as possible, in the order of the groups."""
    groups: dict[Hashable, list[Example]] = defaultdict(list)
    for example in examples:
        groups[group(example)].append(example)
    turns = [(turn, name) for name, own in groups.items() for turn in range(len(own))]
    chosen = sorted(sorted(turns, key=lambda each: each[0])[:COUNT], key=lambda each: list(groups).index(each[1]))
    return [groups[name][turn] for turn, name in chosen]


def write_picture(example: Example, path: Path) -> None:
    """Up to three frames of the evidence, side by side, as a JPEG of at most `MAX_BYTES`."""
    times = choose_times(example.question.evidence, 3)
    few = [times[index * (len(times) - 1) // 2] for index in range(3)] if len(times) > 3 else list(times)
    frames = decode_frames(example.film, few, 240)
    decoded = [cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR) for frame in frames]
    strip = np.hstack([cv2.resize(each, (240, 135)) for each in decoded if each is not None])
    for quality in range(85, 20, -10):
        data = cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= MAX_BYTES:
            break
    path.write_bytes(data)


def write_page(kept: Sequence[Example], rejected: Sequence[Example], total: Sequence[Example]) -> str:
    """The page as Markdown, and its pictures."""
    verdicts = json.loads(VERDICTS.read_text(encoding="utf-8"))
    IMAGES.mkdir(parents=True, exist_ok=True)
    for old in IMAGES.glob("*.jpg"):
        old.unlink()
    passed = sum(example.reject is None for example in total)
    counts = Counter(verdicts.get(each.key, UNREAD)["verdict"] for each in (*kept, *rejected))
    summary = f"""\
        # Examples of questions

        Twenty questions that a build kept and twenty that it rejected, with the verdict of a reader who has seen the
        films. The build ran on three rendered films with models that are programs: a writer that knows the captions and
        errs in half of its answers as weak writers do, a judge that knows what it reads, and a viewer that knows what
        frames show. The captions are made from the films' truth, with one false event and one pair of exchanged boxes
        in each film. So the page shows what the gates find, not how a certain model writes.

        Of {len(total)} questions {passed} were kept. Verdicts on the twenty kept ones below:
        {counts["good"]} good, {counts["weak"]} weak. On the twenty rejected ones:
        {counts["rightly"]} rejected rightly, {counts["loss"]} lost.
        These films tell their stories by words on screen, so many answers are read rather than seen.

        `python -m benchmarks.example_questions` writes this page. Pictures show up to three frames of the evidence.
        """
    lines = dedent(summary).split("\n")
    for title, examples in (("Kept", kept), ("Rejected", rejected)):
        lines += [f"## {title}", ""]
        for number, example in enumerate(examples, start=1):
            lines += _describe(example, f"{title.lower()}-{number:02d}", number, verdicts.get(example.key, UNREAD))
    return "\n".join(lines).rstrip() + "\n"


def _describe(example: Example, name: str, number: int, verdict: Mapping[str, str]) -> list[str]:
    question = example.question
    spans = ", ".join(f"{format_time(span.start_us)} to {format_time(span.end_us)}" for span in question.evidence)
    film = example.film.stem.replace("_", " ")
    source = f", from boxes ({question.derivation.template})" if question.derivation else ""
    lines = [
        f"### {number}. {question.question}",
        "",
        f"*{film}*, {question.category.value}{source}, {question.reach} evidence: {spans}",
        "",
    ]
    if question.options:
        lines += [f"- {option}{' ✓' if option == question.answer else ''}" for option in question.options] + [""]
    else:
        lines += [f"Answer: {question.answer}", ""]
    write_picture(example, IMAGES / f"{name}.jpg")
    lines += [f"![frames of the evidence](images/examples/{name}.jpg)", ""]
    if example.reject is not None:
        message = example.reject.message.partition("): ")[2]
        lines += [f"Rejected as `{example.reject.reason}`: {message}", ""]
    return [*lines, f"**Reader, {verdict['verdict']}:** {verdict['why']}", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, help="folder that keeps the rendered films for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.films or Path(folder) / "films"
        films = [render_film(script, place).path for script in film_scripts().values()]
        build = Path(folder) / "build"
        build.mkdir()
        examples = build_examples(build, films)
    kept = choose([each for each in examples if each.reject is None], lambda each: (each.film, each.question.category))
    rejected = choose([each for each in examples if each.reject], lambda each: each.reject and each.reject.reason)
    PAGE.write_text(write_page(kept, rejected, examples), encoding="utf-8")
    print(f"{len(kept)} kept and {len(rejected)} rejected questions are in {PAGE}")


if __name__ == "__main__":
    main()
