"""Scores what the stages measured in a film against its truth. `benchmarks.truth` runs them and prints the table.

Every figure is a ratio whose parts are sums over films, so that an interval can be computed by drawing films again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.shot_agreement import Score
from benchmarks.shots import score_film
from operators.demo.films.script import FRAME_HEIGHT, FRAME_US, FRAME_WIDTH, Colour, FilmTruth
from operators.questions.timeline import read_timeline
from operators.video.decode.frames import frames_at
from operators.vision.colours import dominant_colours
from operators.vision.ocr import overlap
from schemas.answers import MOST_OBJECTS
from schemas.base import Box
from schemas.facts import EntityFact, EntityKind, EventFact, VideoFacts
from schemas.tables import Caption, Clip

SIMILAR = 0.6
"""Least similarity (difflib, 0 to 1) of a text that was read to the true one."""
SMALLEST_AREA = 0.002
"""Share of the frame that the box of an entity covers at least where a captioner is expected to name it."""
RIGHT_BOX = 0.5
"""Least intersection over union of a right box, as in PASCAL VOC."""
_SAME_COLOUR = {"teal": "cyan"}
"""Colours of films that `operators.vision.colours` has another name for."""
_IRREGULAR = {
    "take": "took taken",
    "give": "gave given",
    "leave": "",
    "put": "putting",
    "lose": "lost",
    "fly": "flew flown",
    "sleep": "slept",
}
"""Past forms of verbs. `left` is none: it is mostly a direction."""


@dataclass(frozen=True)
class Ratio:
    """A figure: `top` divided by `bottom`. `count` is the number of true or measured things that it rests on."""

    top: float
    bottom: float
    count: int

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(self.top + other.top, self.bottom + other.bottom, self.count + other.count)


Figures = Mapping[str, Ratio]


def share(right: Sequence[bool]) -> Ratio:
    """The share of what is right."""
    return Ratio(sum(right), len(right), len(right))


def f1(score: Score) -> Ratio:
    """`Score.f1` as a ratio. The count is that of the true things."""
    return Ratio(2 * score.found, 2 * score.found + score.missed + score.false, score.found + score.missed)


def mean(values: Sequence[float]) -> Ratio:
    """The mean of values."""
    return Ratio(sum(values), len(values), len(values))


def score_shots(truth: FilmTruth, detectors: Mapping[str, Sequence[int]]) -> Figures:
    """Shot boundaries by kind of transition.

    Args:
        detectors: shot start times (us) by detector, ascending, the first 0.
    """
    figures = {}
    for name, starts in detectors.items():
        scores: dict[str, Score] = {}
        for kind, score in score_film(truth, [start for start in starts if start > 0]):
            scores[kind] = scores.get(kind, Score()) + score
        for kind in ("cut", "fade", "dissolve"):
            figures[f"shots, {name}: {kind}, F1"] = f1(scores.get(kind, Score()))
        for kind in ("flash", "pan"):
            shown = scores.get(f"{kind}s crossed", Score()).found
            figures[f"shots, {name}: boundaries at a {kind}"] = Ratio(scores.get(kind, Score()).false, shown, shown)
        transitions = [score for kind, score in scores.items() if not kind.endswith("crossed")]
        figures[f"shots, {name}: all, F1"] = f1(sum(transitions, start=Score()))
    return figures


def score_texts(truth: FilmTruth, captions: Sequence[Caption]) -> Figures:
    """On-screen texts that were read by program, joined across clips as questions join them."""
    unused = list(read_timeline(captions).occurrences) if captions else []
    read = len(unused)
    starts, ends, exact = [], [], []
    for text in truth.texts:
        near = [each for each in unused if each.start_us < text.end_us and text.start_us < each.end_us]
        best = max(near, key=lambda each: SequenceMatcher(None, each.text, text.text).ratio(), default=None)
        if best is not None and SequenceMatcher(None, best.text, text.text).ratio() >= SIMILAR:
            unused.remove(best)
            exact.append(best.text == text.text)
            starts.append(abs(best.start_us - text.start_us) / 1e6)
            ends.append(abs(best.end_us - text.end_us) / 1e6)
    return {
        "texts: found": Ratio(len(exact), len(truth.texts), len(truth.texts)),
        "texts: read ones that are there": Ratio(len(exact), read, read),
        "texts: found ones right in every character": share(exact),
        "texts: error of the start, seconds": mean(starts),
        "texts: error of the end, seconds": mean(ends),
    }


def score_pixels(film: Path, facts: VideoFacts, clips: Sequence[Clip]) -> Figures:
    """The names of colours in the boxes of the truth, and the motion of clips."""
    names = {each.entity_id: each.name.split() for each in facts.entities if each.kind is not EntityKind.PLACE}
    tracks = [track for track in facts.tracks if set(names[track.entity]) & set(get_args(Colour))]
    middles = sorted(((track.times_us[len(track.times_us) // 2], track) for track in tracks), key=lambda each: each[0])
    frames = frames_at(film, [time_us for time_us, _ in middles], FRAME_WIDTH)
    named = [
        not {_SAME_COLOUR.get(word, word) for word in names[track.entity]}.isdisjoint(dominant_colours([part]))
        for frame, (_, track) in zip(frames, middles, strict=True)
        if (part := _cut_out(frame.rgb, track.boxes[len(track.boxes) // 2])).size > 3 * 12 * 12
    ]
    pairs = combinations([(movement_of(facts, each), each.motion) for each in clips if each.motion is not None], 2)
    ordered = [(one[0] < other[0]) == (one[1] < other[1]) for one, other in pairs if one[0] != other[0]]
    return {
        "colours: of what is in a box": share(named),
        "motion: pairs of clips in the order of what moves": share(ordered),
    }


def score_faces(facts: VideoFacts, captions: Sequence[Caption]) -> Figures:
    """Faces, which are searched where captions are measured, against the boxes of persons."""
    persons = [each.entity_id for each in facts.entities if each.kind is EntityKind.PERSON]
    faces = [(face.box, face.time_us) for caption in captions for face in caption.objects if face.label == "face"]
    inside = [any(_holds(box, face) for box in boxes_at(facts, persons, time_us).values()) for face, time_us in faces]
    peopled = [each for each in captions if any(boxes_at(facts, persons, time) for time in each.frame_times_us)]
    return {
        "faces: clips with a person that have one": share([bool(each.objects) for each in peopled]),
        "faces: found ones in a person's box": share(inside),
    }


def movement_of(facts: VideoFacts, clip: Clip) -> float:
    """How much moves in a clip: area that boxes sweep per second, in frames."""
    swept = 0.0
    for track in facts.tracks:
        for (start_us, one), (_, other) in pairwise(zip(track.times_us, track.boxes, strict=True)):
            if clip.start_us <= start_us < clip.end_us:
                across, down = abs(other.x0 - one.x0), abs(other.y0 - one.y0)
                swept += across * (one.y1 - one.y0) + down * (one.x1 - one.x0)
    return 1e6 * swept / (clip.end_us - clip.start_us)


def score_captioner(facts: VideoFacts, clips: Sequence[Clip], captions: Sequence[Caption]) -> Figures:
    """Objects and actions that a captioner reports. A clip without a caption reports none."""
    caption_of = {caption.clip_id: caption for caption in captions}
    objects = actions = Score()
    boxes: list[bool] = []
    for clip in clips:
        caption = caption_of.get(clip.clip_id)
        score, right_boxes = _score_objects(facts, clip, caption)
        objects, boxes = objects + score, boxes + right_boxes
        actions += _score_actions(facts, clip, caption)
    figures = {}
    for what, score in {"objects": objects, "actions": actions}.items():
        reported, true = score.found + score.false, score.found + score.missed
        figures[f"captioner: {what}, precision"] = Ratio(score.found, reported, reported)
        figures[f"captioner: {what}, recall"] = Ratio(score.found, true, true)
        figures[f"captioner: {what}, F1"] = f1(score)
    return figures | {"captioner: right objects in their box": share(boxes)}


def expected_entities(facts: VideoFacts, times_us: Sequence[int]) -> set[str]:
    """What is in the frame at one of these times, and large enough to be named. Places have no boxes."""
    return {
        entity
        for time_us in times_us
        for entity, box in boxes_at(facts, [each.entity_id for each in facts.entities], time_us).items()
        if (box.x1 - box.x0) * (box.y1 - box.y0) >= SMALLEST_AREA
    }


def boxes_at(facts: VideoFacts, entities: Sequence[str], time_us: int) -> dict[str, Box]:
    """The boxes of those of the entities that are in the frame."""
    return {
        track.entity: track.boxes[max(bisect_right(track.times_us, time_us) - 1, 0)]
        for track in facts.tracks
        if track.entity in entities and track.times_us[0] <= time_us < track.times_us[-1] + FRAME_US
    }


def _score_objects(facts: VideoFacts, clip: Clip, caption: Caption | None) -> tuple[Score, list[bool]]:
    """The objects of one caption, each for at most one entity, and whether the boxes of the right ones are right."""
    shown_us = caption.frame_times_us if caption else ()
    expected = expected_entities(facts, shown_us or [(clip.start_us + clip.end_us) // 2])
    named: set[str] = set()
    boxes, false = [], 0
    for found in caption.objects if caption else ():
        seen = boxes_at(facts, [each.entity_id for each in facts.entities], found.time_us)
        fits = [each for each in facts.entities if each.entity_id in seen and is_called(each, found.label)]
        new = [each.entity_id for each in fits if each.entity_id not in named]
        if not new:
            false += 1
            continue
        entity = max(new, key=lambda each: overlap(seen[each], found.box))
        named.add(entity)
        boxes.append(overlap(seen[entity], found.box) >= RIGHT_BOX)
    missed = max(0, min(MOST_OBJECTS, len(expected)) - len(named))
    return Score(found=len(named), missed=missed, false=false), boxes


def _score_actions(facts: VideoFacts, clip: Clip, caption: Caption | None) -> Score:
    """Events that a caption states, and sentences with a verb of the film that state none."""
    name_of = {each.entity_id: each for each in facts.entities}
    during = [each for each in facts.events if each.start_us < clip.end_us and clip.start_us < each.end_us]
    due = [each for each in during if clip.start_us <= (each.start_us + each.end_us) // 2 < clip.end_us]
    sentences = re.split(r"(?<=[.!?;])\s+", caption.text) if caption else []
    stated = {each.event_id for each in during if any(states(each, name_of, sentence) for sentence in sentences)}
    verbs = {each.phrase.split()[0] for each in facts.events}
    false = 0
    for sentence in sentences:
        if not any(is_called(each, sentence) for each in facts.entities):
            continue
        right = {each.phrase.split()[0] for each in during if states(each, name_of, sentence)}
        named_verbs = {verb for verb in verbs if verb_forms(verb) & _words(sentence)}
        false += len(named_verbs - right)
    missed = sum(each.event_id not in stated for each in due)
    return Score(found=len(stated), missed=missed, false=false)


def states(event: EventFact, entities: Mapping[str, EntityFact], sentence: str) -> bool:
    """Whether a sentence has the verb of an event, and names its actor, object and recipient."""
    involved = [entities[each] for each in (event.actor, event.object, event.recipient) if each]
    stated = verb_forms(event.phrase.split()[0]) & _words(sentence)
    return bool(stated) and all(is_called(each, sentence) for each in involved)


def is_called(entity: EntityFact, text: str) -> bool:
    """Whether a text may name an entity: it has the noun, and the colour unless it names no colour at all.

    `the woman in red` is named by `a woman in a red dress` and by `woman`, not by `a woman in blue`.
    """
    found, name = _words(text), entity.name.split()
    nouns = name[: name.index("in")] if "in" in name else name
    colours = set(get_args(Colour))
    own = set(name) & colours
    return nouns[-1] in found and (not own or bool(own & found) or not found & colours)


@cache
def verb_forms(third_person: str) -> frozenset[str]:
    """Forms of a verb in the third person: `carries` gives carry, carries, carried, carrying."""
    ending = next((each for each in ("ies", "shes", "ches", "sses", "s") if third_person.endswith(each)), "")
    cut = {"ies": 3, "shes": 2, "ches": 2, "sses": 2, "s": 1, "": 0}[ending]
    base = third_person[: len(third_person) - cut] + ("y" if ending == "ies" else "")
    stem = base.removesuffix("e")
    past = (base[:-1] + "ied" if ending == "ies" else stem + "ed",) if base not in _IRREGULAR else ()
    return frozenset({base, third_person, stem + "ing", *past, *_IRREGULAR.get(base, "").split()})


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def _cut_out(picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    rows = slice(round(box.y0 * FRAME_HEIGHT), round(box.y1 * FRAME_HEIGHT))
    return picture[rows, round(box.x0 * FRAME_WIDTH) : round(box.x1 * FRAME_WIDTH)]


def _holds(box: Box, inner: Box) -> bool:
    """Whether the middle of a box lies in another."""
    x, y = (inner.x0 + inner.x1) / 2, (inner.y0 + inner.y1) / 2
    return box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1
