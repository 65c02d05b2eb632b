"""The facts about a film: what its events are, who wants what, and where everything is in every frame."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from operators.demo.films.grammar.staging import StagedShot
from operators.demo.films.grammar.world import Event, World
from operators.demo.films.script import FPS, FRAME_HEIGHT, FRAME_US, FRAME_WIDTH, FilmScript, PixelBox
from operators.demo.films.timeline import boxes_in_frame, place_shots
from schemas.base import Box, Span
from schemas.facts import EntityFact, EventFact, GoalFact, TrackFact, VideoFacts

_BOX_FRAMES = FPS // 5
"""Frames between two boxes of a track."""

Boxes = list[tuple[int, PixelBox]]
"""Frames of the film in which an entity is seen without a break, each with its box."""


def facts_of(world: World, staged: Sequence[StagedShot], script: FilmScript) -> VideoFacts:
    """All facts about the film of a staged plot."""
    runs = _visible_runs(staged, script)
    seen = {entity: [(run[0][0], run[-1][0] + 1) for run in each] for entity, each in runs.items()}
    for shot, placed in zip(staged, place_shots(script), strict=True):
        if shot.shot.scene in world.entities:
            seen.setdefault(shot.shot.scene, []).append((placed.start, placed.end))
    events = [_event_fact(event, seen) for event in world.events if event.end]
    return VideoFacts(
        entities=tuple(
            EntityFact(
                entity_id=each.id,
                kind=each.kind,
                name=each.name,
                appearance=each.appearance,
                spans=tuple(_span(*span) for span in _merge(seen[each.id])),
            )
            for each in world.entities.values()
            if each.id in seen
        ),
        events=tuple(sorted(events, key=lambda event: (event.start_us, int(event.event_id[1:])))),
        goals=tuple(
            GoalFact(
                goal_id=goal.id,
                actor=goal.actor,
                aim=goal.aim,
                motive=goal.motive,
                reached=goal.reached,
                shown=tuple(_span(*span) for span in goal.shown),
            )
            for goal in world.goals
        ),
        tracks=tuple(_track(entity, run) for entity, each in runs.items() for run in each),
        complete=True,
    )


def _event_fact(event: Event, seen: dict[str, list[tuple[int, int]]]) -> EventFact:
    start, end = event.start, event.end
    if event.action in ("leave", "arrive", "cross", "fly"):
        subjects = [event.actor, *([event.object] if event.object else [])]
        spans = [(max(start, first), min(end, last)) for each in subjects for first, last in seen.get(each, ())]
        spans = [span for span in spans if span[0] < span[1]]
        start, end = min(span[0] for span in spans), max(span[1] for span in spans)
    return EventFact(
        start_us=start * FRAME_US,
        end_us=end * FRAME_US,
        event_id=event.id,
        actor=event.actor,
        action=event.action,
        phrase=event.phrase,
        object=event.object,
        recipient=event.recipient,
        place=event.place,
        causes=event.causes,
        goal=event.goal,
        succeeded=event.succeeded,
    )


def _visible_runs(staged: Sequence[StagedShot], script: FilmScript) -> dict[str, list[Boxes]]:
    """The runs of frames in which every entity is in the frame, by entity. A shot's end ends a run."""
    runs: dict[str, list[Boxes]] = defaultdict(list)
    for shot, placed in zip(staged, place_shots(script), strict=True):
        boxes: dict[str, Boxes] = defaultdict(list)
        for thing in shot.shot.objects:
            if entity := shot.entities.get(thing.name):
                boxes[entity].extend(boxes_in_frame(thing, placed).items())
        for entity, each in boxes.items():
            each.sort(key=lambda item: item[0])
            runs[entity].extend(_split_runs(each))
    return runs


def _split_runs(boxes: Boxes) -> Iterator[Boxes]:
    breaks = [index for index, (one, other) in enumerate(pairwise(boxes), 1) if other[0] > one[0] + 1]
    for first, last in pairwise([0, *breaks, len(boxes)]):
        yield boxes[first:last]


def _track(entity: str, run: Boxes) -> TrackFact:
    chosen = run[::_BOX_FRAMES]
    if chosen[-1] is not run[-1]:
        chosen = [*chosen, run[-1]]
    return TrackFact(
        entity=entity,
        times_us=tuple(frame * FRAME_US for frame, _ in chosen),
        boxes=tuple(_fractions(box) for _, box in chosen),
    )


def _fractions(box: PixelBox) -> Box:
    def share(pixels: int, whole: int) -> float:
        return round(min(max(pixels, 0), whole) / whole, 4)

    return Box(
        x0=share(box.left, FRAME_WIDTH),
        y0=share(box.top, FRAME_HEIGHT),
        x1=share(box.right, FRAME_WIDTH),
        y1=share(box.bottom, FRAME_HEIGHT),
    )


def _merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _span(start: int, end: int) -> Span:
    return Span(start_us=start * FRAME_US, end_us=end * FRAME_US)
