"""A release of short rendered films with questions from their facts, small enough to train a model from scratch.

Films are those of `lvr films`, of half a minute to three quarters, in 224 x 126 pixels at 1.25 frames per second. Only
the frames that are kept are reduced and encoded, so that a film takes half a second of CPU time and about 25 KB.

Questions are open ones of the pipeline's own templates. Options of a choice question would have to be bound to letters,
which is hard for a small model, and short films have too few events for them. Chains of thought are the templates',
without the opening and without the sentences that state a time.

The splits are by film: `sft`, `rl` and `eval`. From the films of `sft` there are also short clips with questions about
what they show. On the films alone, supervised answers are too rare a signal: a model of random weights needs far more
of them until it attends to what it sees.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from random import Random

import av
import cv2

from operators.demo.films.canvas import Picture
from operators.demo.films.grammar.film import Film, make_film
from operators.demo.films.painter import paint_film
from operators.demo.films.script import FPS
from operators.questions.facts.derive import TEMPLATES, Derived, derive
from operators.questions.facts.index import FactIndex
from schemas.answer_format import Target, format_answer, instruction
from schemas.facts import EntityKind
from schemas.sample import Sample
from schemas.tables import QuestionCategory, QuestionKind, Split, Video
from tests.support.rows import make_sample
from tests.trainer_plugin.support import film_row, write_release
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer

WIDTH, HEIGHT = 224, 126
EVERY = 20
"""Every so many frames of a film, one is kept: 5 frames in 4 seconds."""
CRF = 30
"""Quality of H.264."""
MOMENTS = 8
"""Moments of each film of the split `sft` that are short clips too: two frames, one temporal patch."""
CLIP_QUESTIONS = {
    EntityKind.PLACE: "Which place is this?",
    EntityKind.PERSON: "Who is there, from left to right?",
    EntityKind.THING: "Which things are there, from left to right?",
}
"""Questions about a clip, whose answers are what it shows of each kind."""
MOST_SHOWN = 3
"""Most persons or things of an answer about a clip."""
MINUTES = (0.5, 0.75)
SHARES = {Split.SFT: 0.3, Split.RL: 0.55, Split.EVAL: 0.15}
"""Shares of the films by split."""
TEMPLATE_NAMES = (
    "facts_appearance", "facts_between", "facts_count", "facts_gap", "facts_nth", "facts_while",
    "facts_wants", "facts_who_wants", "facts_motive", "facts_wants_person",
    "facts_from_whom", "facts_to_whom", "facts_what_given", "facts_both_held",
    "facts_where", "facts_where_person", "facts_picked_up", "facts_next_place", "facts_direction", "facts_leftmost",
    "facts_rightmost",
)  # fmt: skip
"""Templates whose answers are seen in a short film and, but for those of positions, are not in the question."""
PER_CATEGORY = 5
"""Most questions of one category about one film."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
Fields = dict[str, object]
"""Fields of a sample by name."""
_TIME = re.compile(r"\d\d:\d\d")
_SPAN = re.compile(r"^From \d\d:\d\d to \d\d:\d\d it")
_VOCABULARY = 2000
"""Most tokens. The words of the questions are fewer."""


@dataclass(frozen=True)
class FilmOrder:
    """A film to be made: its number, its split, and the templates of its questions."""

    seed: int
    number: int
    split: Split
    templates: tuple[str, ...]


def write_world(
    folder: Path, films: int, seed: int, workers: int, templates: Sequence[str] = TEMPLATE_NAMES
) -> dict[Split, int]:
    """Make the films that are missing, write the release and its tokenizer, and return the number of films by split.

    `{folder}/films` keeps the films, `{folder}/release` and `{folder}/tokenizer` are written again.
    """
    (folder / "films").mkdir(parents=True, exist_ok=True)
    splits = _splits(films)
    orders = [FilmOrder(seed, number, split, tuple(templates)) for number, split in enumerate(splits)]
    with ProcessPoolExecutor(workers) as pool:
        made = list(pool.map(partial(_make, folder / "films"), orders, chunksize=4))
    videos: list[Video] = []
    samples: list[Sample] = []
    for order, found in zip(orders, made, strict=True):
        for video, questions in found:
            videos += [video] * bool(questions)
            samples += [
                make_sample(len(samples) + number, video, order.split).model_copy(update=fields)
                for number, fields in enumerate(questions)
            ]
    shutil.rmtree(folder / "release", ignore_errors=True)
    write_release(folder / "release", videos, samples, videos_per_tar=64)
    _write_tokenizer(folder / "tokenizer", samples)
    return dict(Counter(splits))


def _splits(films: int) -> list[Split]:
    """The split of each film: the shares in turn, each at least once."""
    found: list[Split] = []
    counts: Counter[Split] = Counter()
    for number in range(films):
        chosen = min(SHARES, key=lambda each: (counts[each] + (0.5 if number >= len(SHARES) else 0)) / SHARES[each])
        counts[chosen] += 1
        found.append(chosen)
    return found


def _make(folder: Path, order: FilmOrder) -> list[tuple[Video, list[Fields]]]:
    """The film and its clips, with the fields of their questions' samples."""
    cv2.setNumThreads(1)
    film = make_film(order.seed, MINUTES, index=order.number)
    frames = -(-(film.duration_us * FPS // 1_000_000) // EVERY)
    rng = Random(f"{order.seed}/{order.number}")
    moments = sorted(rng.sample(range(frames - 1), MOMENTS)) if order.split is Split.SFT else []
    name = film.script.film_id
    paths = {folder / f"{name}.mp4": range(frames)}
    paths |= {folder / f"{name}_{first:02d}.mp4": range(first, first + 2) for first in moments}
    if not all(path.exists() for path in paths):
        kept = [
            cv2.resize(painted.picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
            for number, painted in enumerate(paint_film(film.script))
            if number % EVERY == 0
        ]
        for path, shown in paths.items():
            _encode([kept[number] for number in shown], path)
    questions = [_questions(film, order, rng), *(_clip_questions(film, first) for first in moments)]
    return [(_video(path, len(shown)), fields) for (path, shown), fields in zip(paths.items(), questions, strict=True)]


def _video(path: Path, frames: int) -> Video:
    duration_us = frames * EVERY * 1_000_000 // FPS
    facts = {"duration_us": duration_us, "fps": FPS / EVERY, "width": WIDTH, "height": HEIGHT}
    return film_row(path).model_copy(update=facts)


def _encode(pictures: Sequence[Picture], path: Path) -> None:
    draft = path.with_suffix(".part")
    with av.open(str(draft), "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(FPS, EVERY), options={"preset": "medium", "crf": str(CRF), "g": "250"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "bgr24")
            frame.pts, frame.time_base = number, Fraction(EVERY, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    draft.replace(path)


def _clip_questions(film: Film, first: int) -> list[Fields]:
    """Questions about what the frames number `first` and the next show, all of it in both."""
    start_us, end_us = (number * EVERY * 1_000_000 // FPS for number in (first, first + 1))
    shown: dict[EntityKind, list[tuple[float, str]]] = {kind: [] for kind in CLIP_QUESTIONS}
    for entity in film.facts.entities:
        if any(span.start_us <= start_us and end_us < span.end_us for span in entity.spans) and entity.kind in shown:
            shown[entity.kind].append((_left_edge(film, entity.entity_id, start_us), entity.name))
    rows = []
    for kind, found in shown.items():
        if 1 <= len(found) <= (1 if kind is EntityKind.PLACE else MOST_SHOWN):
            answer = ", then ".join(name for _, name in sorted(found))
            rows.append(
                {
                    **_fields(CLIP_QUESTIONS[kind], f"What I see is {answer}.", answer),
                    "problem_type": QuestionCategory.SPATIAL,
                    "question_id": f"{film.script.film_id}-{first:02d}-{kind}",
                    "writer": f"clip_{kind}",
                }
            )
    return rows


def _left_edge(film: Film, entity: str, time_us: int) -> float:
    """Where the entity begins in the picture at the time, from 0 to 1; 0 without boxes."""
    boxes = [
        (abs(time - time_us), box.x0)
        for track in film.facts.tracks
        if track.entity == entity
        for time, box in zip(track.times_us, track.boxes, strict=True)
    ]
    return min(boxes)[1] if boxes else 0.0


def _fields(question: str, reasoning: str, answer: str) -> Fields:
    """Those of the fields of an open question's sample that are not specific to films or clips."""
    return {
        "problem": question,
        "question": question,
        "kind": QuestionKind.OPEN,
        "options": (),
        "reasoning": reasoning,
        "answer": format_answer(answer),
        "answer_text": answer,
        "trials": 0,
        "pass_rate": 0.0,
    }


def _questions(film: Film, order: FilmOrder, rng: Random) -> list[Fields]:
    """The fields of the samples of questions about the film, at most `PER_CATEGORY` of each category."""
    index = FactIndex(film.facts, film.duration_us)
    found = derive(film.facts, film.duration_us, (QuestionKind.OPEN,), 3, rng)
    able = [each for each in found if each.template in order.templates]
    rng.shuffle(able)
    counts: Counter[str] = Counter()
    rows = []
    for each in able:
        counts[each.category] += 1
        if counts[each.category] > PER_CATEGORY:
            continue
        rows.append(
            {
                **_fields(each.question, _chain(index, each), each.answer),
                "problem_type": each.category,
                "evidence": each.evidence,
                "question_id": f"{film.script.film_id}-{len(rows):02d}",
                "writer": each.template,
            }
        )
    return rows


def _chain(index: FactIndex, question: Derived) -> str:
    """The steps of the template's chain in their first wording, without the opening and those that state a time."""
    statement = TEMPLATES[question.template].state(index, *question.subjects)
    assert statement is not None
    steps = [step[0] for step in statement.chain[1:]]
    return " ".join([each for each in steps[:-1] if not _TIME.search(each)] + [_SPAN.sub("It", steps[-1])])


def _write_tokenizer(folder: Path, samples: Sequence[Sample]) -> None:
    """Write a tokenizer with a token for each word of the questions and chains, and for each tag as Qwen3's has."""
    prompts = [instruction(target, QuestionKind.OPEN) for target in Target]
    texts = [text for each in samples for text in (each.question, each.reasoning, each.answer_text)]
    tokenizer = bytes_tokenizer().train_new_from_iterator(
        [*texts, *prompts * 3, *["user", "assistant"] * 3], vocab_size=_VOCABULARY, show_progress=False
    )
    tokenizer.add_tokens(list(TAGS))
    tokenizer.save_pretrained(folder)
