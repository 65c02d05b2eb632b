"""Verifies the answer of a question about boxes: derives it again by counting the cells of a grid that boxes cover.

`operators.questions.spatial` compares edges and centres. This module knows of each box only which cells of a grid it
covers. The two share the criterion for labels of the same thing, and the form of the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

from operators.questions.phrases import REGIONS
from operators.questions.spatial import Move, Relation, Sighting, Sightings, SpatialTemplate, label_words
from schemas.base import Box, Region
from schemas.tables import Caption, Derivation

GRID = 300
"""Cells along each side of the picture."""


def rederive_from_boxes(derivation: Derivation, captions: Sequence[Caption]) -> str | None:
    """The answer to a question about boxes from the captions of its video; None when they do not determine it."""
    film = Sightings(captions)
    seen = [film.same(label_words(label)) for label in derivation.subjects]
    if not seen or not all(seen):
        return None
    match derivation.template:
        case SpatialTemplate.RELATION if len(seen) == 2:
            found = {_relation(one, other) for one, other in product(*seen) if _together(one, other)}
            return found.pop() if len(found) == 1 else None
        case SpatialTemplate.NEAREST:
            return _nearest(seen[0], seen[1:], derivation.subjects[1:])
        case SpatialTemplate.PLACE if len({each.time_us for each in seen[0]}) == 1:
            return _place_of(seen[0], 0)
        case SpatialTemplate.FIRST_PLACE:
            return _place_of(seen[0], 0)
        case SpatialTemplate.LAST_PLACE:
            return _place_of(seen[0], -1)
        case SpatialTemplate.MOVE:
            return _move(seen[0])
    return None


def _together(one: Sighting, other: Sighting) -> bool:
    """Whether two boxes are different ones of the same frame."""
    return one is not other and (one.caption.clip_id, one.time_us) == (other.caption.clip_id, other.time_us)


def _cells(start: float, end: float) -> range:
    """The cells of a row or a column whose centre is between two edges."""
    return range(round(start * GRID), max(round(end * GRID), round(start * GRID) + 1))


def _relation(one: Sighting, other: Sighting) -> str | None:
    columns, rows = _cells(one.box.x0, one.box.x1), _cells(one.box.y0, one.box.y1)
    other_columns, other_rows = _cells(other.box.x0, other.box.x1), _cells(other.box.y0, other.box.y1)
    across, down = set(columns) & set(other_columns), set(rows) & set(other_rows)
    common = len(across) * len(down)
    if common == len(columns) * len(rows):
        return Relation.WITHIN.value
    if common == len(other_columns) * len(other_rows):
        return Relation.AROUND.value
    if down and not across:
        return (Relation.LEFT if columns[0] < other_columns[0] else Relation.RIGHT).value
    if across and not down:
        return (Relation.ABOVE if rows[0] < other_rows[0] else Relation.BELOW).value
    return None


def _nearest(ones: Sequence[Sighting], others: Sequence[Sequence[Sighting]], labels: Sequence[str]) -> str | None:
    """The label with the smallest number of cells in between, in the one frame that shows the first thing with each."""
    steps: dict[str, int] = {}
    for label, own in zip(labels, others, strict=True):
        found = [(one, other) for one, other in product(ones, own) if _together(one, other)]
        if len(found) != 1:
            return None
        one, other = found[0]
        across = _cells_between(one.box.x0, one.box.x1, other.box.x0, other.box.x1)
        down = _cells_between(one.box.y0, one.box.y1, other.box.y0, other.box.y1)
        steps[label] = across**2 + down**2
    best = sorted(steps, key=steps.__getitem__)
    return best[0] if len(best) > 1 and steps[best[0]] < steps[best[1]] else None


def _cells_between(start: float, end: float, other_start: float, other_end: float) -> int:
    own, others = _cells(start, end), _cells(other_start, other_end)
    return max(0, others[0] - own[-1], own[0] - others[-1])


def _place_of(sightings: Sequence[Sighting], position: int) -> str | None:
    """Name of the ninth of the picture that most cells of the first (0) or last (-1) box are in."""
    edge_us = sightings[position].time_us
    boxes = [each.box for each in sightings if each.time_us == edge_us]
    return REGIONS[_ninth(boxes[0])] if len(boxes) == 1 else None


def _ninth(box: Box) -> Region:
    columns = Counter(3 * cell // GRID for cell in _cells(box.x0, box.x1))
    rows = Counter(3 * cell // GRID for cell in _cells(box.y0, box.y1))
    (row, _), (column, _) = rows.most_common(1)[0], columns.most_common(1)[0]
    return tuple(Region)[3 * min(row, 2) + min(column, 2)]


def _move(sightings: Sequence[Sighting]) -> str | None:
    """The direction from the cells of the first box to those of the last."""
    first, last = sightings[0], sightings[-1]
    if first.time_us == last.time_us:
        return None
    across = _mean(_cells(last.box.x0, last.box.x1)) - _mean(_cells(first.box.x0, first.box.x1))
    down = _mean(_cells(last.box.y0, last.box.y1)) - _mean(_cells(first.box.y0, first.box.y1))
    if max(abs(across), abs(down)) < GRID / 5:
        return None
    if abs(across) > abs(down):
        return (Move.RIGHT if across > 0 else Move.LEFT).value
    return (Move.DOWN if down > 0 else Move.UP).value


def _mean(cells: range) -> float:
    return (cells[0] + cells[-1]) / 2
