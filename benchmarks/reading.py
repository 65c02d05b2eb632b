"""Forty questions from the facts of rendered films, with the pictures they are about, for a reader to judge.

    lvr films films --count 10 --minutes 3..4 --seed 7
    python -m benchmarks.reading draw films/manifest.json --out docs/reading
    python -m benchmarks.reading page docs/reading > docs/questions-from-annotations.md

`draw` takes one question of each category from each film, no template twice while others are left, and writes them to
`questions.json` with a contact sheet for each film: a row for each question, with frames of its evidence and their
times. The reader writes `verdicts.json`: for the number of a question `right`, `answerable` and a `note`. `page` writes
both as a page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import cv2
import numpy as np

from operators.questions.facts.derive import derive
from operators.questions.facts.explain import explain
from operators.video.timecode import format_time
from schemas.base import Span
from schemas.manifest import FactsFile
from schemas.tables import QuestionCategory, QuestionKind
from tests.support.derived_rows import question_of

SECOND_US = 1_000_000
FRAMES = 4
"""Frames shown of each question."""
SIZE = (320, 180)
QUALITY = 60
CATEGORIES = tuple(each for each in QuestionCategory)


def draw(manifest: Path, out: Path) -> None:
    """Draw the questions of a manifest's films and write them with their contact sheets."""
    out.mkdir(parents=True, exist_ok=True)
    used: set[str] = set()
    rows = []
    for row in json.loads(manifest.read_text(encoding="utf-8")):
        film = manifest.parent / row["uri"]
        facts = FactsFile.model_validate_json((manifest.parent / row["facts"]).read_text(encoding="utf-8")).facts
        if facts is None:
            raise SystemExit(f"{row['facts']}: no facts; render the film with `lvr films`")
        rng = Random(row["source_id"])
        duration_us = max(span.end_us for entity in facts.entities for span in entity.spans)
        found = derive(facts, duration_us, tuple(QuestionKind), 1, rng)
        strips = []
        for category in CATEGORIES:
            able = [each for each in found if each.category is category]
            chosen = rng.choice([each for each in able if each.template not in used] or able)
            used.add(chosen.template)
            number = len(rows) + 1
            times = _frame_times(chosen.evidence)
            strips.append(_strip(film, times, number))
            rows.append(
                {
                    "number": number,
                    "film": row["source_id"],
                    "category": category.value,
                    "template": chosen.template,
                    "question": chosen.question,
                    "options": list(chosen.options),
                    "answer": chosen.answer,
                    "evidence": [
                        f"{format_time(each.start_us)}–{format_time(each.end_us)}" for each in chosen.evidence
                    ],
                    "chain": explain(facts, question_of(chosen), rng),
                }
            )
        cv2.imwrite(str(out / f"{row['source_id']}.jpg"), np.vstack(strips), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    (out / "questions.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _frame_times(evidence: Sequence[Span]) -> list[int]:
    """Times of frames in the evidence: as many in each span, the spans at the start and the end if there are many."""
    chosen = evidence if len(evidence) <= FRAMES else [*evidence[: FRAMES - 1], evidence[-1]]
    each = FRAMES // len(chosen)
    parts = [(span, (number + 0.5) / each) for span in chosen for number in range(each)]
    return [round(span.start_us + part * (span.end_us - span.start_us)) for span, part in parts]


def _strip(film: Path, times_us: Sequence[int], number: int) -> np.ndarray:
    """Frames of a film next to each other, with their times, and the number of the question."""
    video = cv2.VideoCapture(str(film))
    shown = np.zeros((SIZE[1], FRAMES * SIZE[0], 3), np.uint8)
    for index, time_us in enumerate(times_us):
        video.set(cv2.CAP_PROP_POS_MSEC, time_us / 1000)
        is_read, frame = video.read()
        if not is_read:
            raise SystemExit(f"{film}: no frame at {format_time(time_us)}; render the film again")
        picture = cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA)
        label = f"{number}  {format_time(time_us)}" if not index else format_time(time_us)
        cv2.rectangle(picture, (0, 0), (12 + 9 * len(label), 18), (0, 0, 0), -1)
        cv2.putText(picture, label, (5, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        shown[:, index * SIZE[0] : (index + 1) * SIZE[0]] = picture
    video.release()
    return shown


def page(folder: Path) -> Iterator[str]:
    """The page's lines: the reader's summary, then the films with their questions, answers and verdicts."""
    questions = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    verdicts = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    judged = [verdicts["questions"][str(each["number"])] for each in questions]
    right, answerable = (sum(each[key] for each in judged) for key in ("right", "answerable"))
    yield "# Forty questions from annotations, read against the pictures\n"
    yield verdicts["introduction"] + "\n"
    yield f"Of {len(questions)} answers **{right} are right**, and **{answerable} follow from the pictures alone**.\n"
    yield "| found | correction |\n|---|---|"
    yield from (f"| {each['found']} | {each['correction']} |" for each in verdicts["corrections"])
    for number, each in enumerate(questions):
        if not number or each["film"] != questions[number - 1]["film"]:
            film = each["film"]
            yield f"\n## {film}\n\n![Frames of the evidence, one row for each question]({folder.name}/{film}.jpg)"
        verdict = judged[number]
        yield f"\n### {each['number']}. {each['category']}\n\n{each['question']}\n"
        yield from (f"- {f'**{option}**' if option == each['answer'] else option}" for option in each["options"])
        if not each["options"]:
            yield f"Answer: **{each['answer']}**"
        yield f"\nSeen at {', '.join(each['evidence'])}. *{each['chain']}*\n"
        state = "right" if verdict["right"] else "wrong"
        seen = "answerable" if verdict["answerable"] else "not answerable"
        yield f"Verdict: {state}, {seen}. {verdict['note']}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("manifest", type=Path)
    drawing.add_argument("--out", type=Path, required=True)
    commands.add_parser("page").add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "draw":
        draw(arguments.manifest, arguments.out)
    else:
        print("\n".join(page(arguments.folder)))


if __name__ == "__main__":
    main()
