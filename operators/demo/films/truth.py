"""Computes the ground truth of a film from its script: what it shows, frame by frame."""

from collections.abc import Iterator
from itertools import combinations, groupby

from operators.demo.films.lettering import Plate, overlap, plate, region_of
from operators.demo.films.script import (
    FRAME_US,
    Direction,
    DistractorTruth,
    Event,
    EventTruth,
    FilmScript,
    FilmTruth,
    MovingObject,
    ObjectTruth,
    OnScreenText,
    PixelBox,
    ShotTruth,
    TextTruth,
    frames_of,
)
from operators.demo.films.timeline import (
    PlacedShot,
    ScriptError,
    boxes_in_frame,
    distractor_frames,
    object_at,
    place_shots,
)
from schemas.base import Span


def film_truth(script: FilmScript, *, script_sha256: str, film_sha256: str, film_bytes: int) -> FilmTruth:
    """The ground truth of the film drawn from `script`.

    Raises:
        ScriptError: the script contradicts itself.
    """
    placed = place_shots(script)
    last = placed[-1].end
    following = [after.fade_start for after in placed[1:]] + [last]
    try:
        return FilmTruth(
            film_id=script.film_id,
            title=script.title,
            category=script.category,
            synopsis=script.synopsis,
            frame_count=last,
            duration_us=last * FRAME_US,
            script_sha256=script_sha256,
            film_sha256=film_sha256,
            film_bytes=film_bytes,
            shots=tuple(_shot_truth(each) for each in placed),
            texts=tuple(text for each, until in zip(placed, following, strict=True) for text in _texts(each, until)),
            events=tuple(_event_truth(each, event) for each in placed for event in each.shot.events),
            distractors=tuple(
                truth for each, until in zip(placed, following, strict=True) for truth in _distractors(each, until)
            ),
        )
    except ScriptError as error:
        raise ScriptError(f"film {script.film_id}: {error}") from error


def _shot_truth(placed: PlacedShot) -> ShotTruth:
    return ShotTruth(
        index=placed.index,
        start_us=placed.start * FRAME_US,
        end_us=placed.end * FRAME_US,
        scene=placed.shot.scene,
        transition=placed.shot.enter.kind,
        transition_start_us=placed.fade_start * FRAME_US,
        transition_end_us=placed.fade_end * FRAME_US,
        objects=tuple(truth for thing in placed.shot.objects if (truth := _object_truth(placed, thing))),
    )


def _object_truth(placed: PlacedShot, thing: MovingObject) -> ObjectTruth:
    boxes = boxes_in_frame(thing, placed)
    if not boxes:
        raise ScriptError(f"shot {placed.index}: object {thing.name!r} never enters the frame; check its path")
    # Frame number minus rank is constant over a run of consecutive frames.
    runs = groupby(enumerate(boxes), key=lambda ranked: ranked[1] - ranked[0])
    frames = [[frame for _, frame in run] for _, run in runs]
    first_box, last_box = boxes[min(boxes)], boxes[max(boxes)]
    return ObjectTruth(
        name=thing.name,
        kind=thing.kind,
        colour=thing.colour,
        visible=tuple(_span(run[0], run[-1] + 1) for run in frames),
        direction=_direction(first_box, last_box),
        first_box=first_box,
        last_box=last_box,
    )


def _direction(first: PixelBox, last: PixelBox) -> Direction:
    right, down = last.left - first.left, last.top - first.top
    if max(abs(right), abs(down)) < 8:
        return "still"
    if abs(right) >= abs(down):
        return "left_to_right" if right > 0 else "right_to_left"
    return "down" if down > 0 else "up"


def _texts(placed: PlacedShot, until: int) -> Iterator[TextTruth]:
    plates = {text: _plate(placed, text) for text in placed.shot.texts}
    for one, other in combinations(plates, 2):
        if one.start < other.end and other.start < one.end and overlap(plates[one].box, plates[other].box):
            raise ScriptError(f"shot {placed.index}: texts {one.text!r} and {other.text!r} cover each other; move one")
    for text, drawn in plates.items():
        start, end = placed.start + frames_of(text.start), placed.start + frames_of(text.end)
        if not placed.fade_end <= start < end <= until:
            raise ScriptError(
                f"shot {placed.index}: text {text.text!r} at {text.start}-{text.end} s touches a transition or the "
                f"end of the shot; it may use {placed.seconds_at(placed.fade_end)}-{placed.seconds_at(until)} s"
            )
        yield TextTruth(
            start_us=start * FRAME_US,
            end_us=end * FRAME_US,
            text=text.text,
            style=text.style,
            region=text.region,
            box=drawn.letters,
            shot_index=placed.index,
        )


def _plate(placed: PlacedShot, text: OnScreenText) -> Plate:
    try:
        return plate(text)
    except ValueError as error:
        raise ScriptError(f"shot {placed.index}: {error}") from error


def _distractors(placed: PlacedShot, until: int) -> Iterator[DistractorTruth]:
    for distractor in placed.shot.distractors:
        first, last = distractor_frames(placed, distractor)
        if not placed.fade_end <= first < last <= until:
            raise ScriptError(f"shot {placed.index}: {distractor.kind} at {distractor.start} s touches a transition")
        yield DistractorTruth(
            start_us=first * FRAME_US, end_us=last * FRAME_US, kind=distractor.kind, shot_index=placed.index
        )


def _event_truth(placed: PlacedShot, event: Event) -> EventTruth:
    start, end = event_frames(placed, event)
    if not placed.start <= start < end <= placed.end:
        raise ScriptError(f"shot {placed.index}: event {event.name!r} at {event.start}-{event.end} s leaves the shot")
    region = event.region
    if region is None:
        _, box = object_at(_participant(placed, event, event.participants[0]), placed, (start + end - 1) // 2)
        region = region_of(box)
    for name in event.participants:
        _participant(placed, event, name)
    return EventTruth(
        start_us=start * FRAME_US,
        end_us=end * FRAME_US,
        name=event.name,
        participants=event.participants,
        region=region,
        shot_index=placed.index,
        cue=event.cue,
    )


def event_frames(placed: PlacedShot, event: Event) -> tuple[int, int]:
    """The frames [first, last) of the film over which an event lasts."""
    if event.start is not None and event.end is not None:
        return placed.start + frames_of(event.start), placed.start + frames_of(event.end)
    first_seen = _object_truth(placed, _participant(placed, event, event.participants[0])).visible[0]
    return first_seen.start_us // FRAME_US, first_seen.end_us // FRAME_US


def _participant(placed: PlacedShot, event: Event, name: str) -> MovingObject:
    for thing in placed.shot.objects:
        if thing.name == name:
            return thing
    present = ", ".join(thing.name for thing in placed.shot.objects) or "nobody"
    raise ScriptError(f"shot {placed.index}: event {event.name!r} names {name!r}, but present are: {present}")


def _span(first: int, last: int) -> Span:
    return Span(start_us=first * FRAME_US, end_us=last * FRAME_US)
