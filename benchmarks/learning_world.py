"""A release of short rendered films with questions from their facts, small enough to train a model from scratch.

Films are those of `lvr films`, of half a minute to three quarters, in 224 x 126 pixels at 1.25 frames per second. Only
the frames that are kept are reduced and encoded, so that a film takes half a second of CPU time and about 25 KB.

Questions are open ones of the pipeline's own templates. Options of a choice question would have to be bound to letters,
which is hard for a small model, and short films have too few events for them. Chains of thought are the templates',
without the opening and without the sentences that state a time.

The splits are by film: `sft`, `rl` and `eval`.
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

from operators.demo.films.grammar.film import Film, make_film
from operators.demo.films.painter import paint_film
from operators.demo.films.script import FPS
from operators.questions.facts.derive import TEMPLATES, Derived, derive
from operators.questions.facts.index import FactIndex
from schemas.answer_format import Target, format_answer, instruction
from schemas.sample import Sample
from schemas.tables import QuestionKind, Split, Video
from tests.support.rows import make_sample
from tests.trainer_plugin.support import film_row, write_release
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer

WIDTH, HEIGHT = 224, 126
EVERY = 20
"""Every so many frames of a film, one is kept: 5 frames in 4 seconds."""
CRF = 30
"""Quality of H.264."""
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
    numbers = iter(range(10**9))
    videos = [video for video, questions in made if questions]
    samples = [
        make_sample(next(numbers), video, order.split).model_copy(update=fields)
        for order, (video, questions) in zip(orders, made, strict=True)
        for fields in questions
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


def _make(folder: Path, order: FilmOrder) -> tuple[Video, list[dict[str, object]]]:
    cv2.setNumThreads(1)
    film = make_film(order.seed, MINUTES, index=order.number)
    path = folder / f"{film.script.film_id}.mp4"
    frames = -(-(film.duration_us * FPS // 1_000_000) // EVERY)
    if not path.exists():
        draft = path.with_suffix(".part")
        _encode(film, draft)
        draft.replace(path)
    facts = {
        "duration_us": frames * EVERY * 1_000_000 // FPS,
        "fps": FPS / EVERY,
        "width": WIDTH,
        "height": HEIGHT,
    }
    return film_row(path).model_copy(update=facts), list(_questions(film, order))


def _encode(film: Film, path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(FPS, EVERY), options={"preset": "medium", "crf": str(CRF), "g": "250"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        kept = 0
        for number, painted in enumerate(paint_film(film.script)):
            if number % EVERY:
                continue
            picture = cv2.resize(painted.picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
            frame = av.VideoFrame.from_ndarray(picture, "bgr24")
            frame.pts, frame.time_base = kept, Fraction(EVERY, FPS)
            container.mux(stream.encode(frame))
            kept += 1
        container.mux(stream.encode(None))


def _questions(film: Film, order: FilmOrder) -> list[dict[str, object]]:
    """The fields of each question's sample, at most `PER_CATEGORY` of each category."""
    rng = Random(f"{order.seed}/{order.number}")
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
                "problem": each.question,
                "problem_type": each.category,
                "question": each.question,
                "kind": QuestionKind.OPEN,
                "options": (),
                "reasoning": _chain(index, each),
                "answer": format_answer(each.answer),
                "answer_text": each.answer,
                "evidence": each.evidence,
                "question_id": f"{film.script.film_id}-{len(rows):02d}",
                "writer": each.template,
                "trials": 0,
                "pass_rate": 0.0,
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
