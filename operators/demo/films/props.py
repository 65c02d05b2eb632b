"""Drawings of what stands in a scene (chests, gates, trees) and of signs over heads (thought bubbles, marks).

`colour` is `#rrggbb`. `phase` is 0 or 1.
"""

from functools import partial

from operators.demo.films.canvas import Canvas, shade
from operators.demo.films.vehicles import Drawing

_DARK = "#2d3446"
_WOOD = "#7a4b26"
_PALE = "#cfe6f5"


def _chest(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.rect(3, 24, 84, 40, colour)
    canvas.ellipse(45, 25, 42, 20, shade(colour, 0.85), 180, 360)
    for x in (12, 72):
        canvas.rect(x, 8, 7, 56, "#e0b84c")
    canvas.rect(3, 24, 84, 4, _DARK)
    canvas.rect(37, 22, 16, 18, "#e0b84c")
    canvas.circle(45, 28, 3, _DARK)
    canvas.rect(43.5, 28, 3, 8, _DARK)


def _open_chest(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.polygon([(8, 6), (82, 6), (87, 32), (3, 32)], shade(colour, 0.6))
    canvas.polygon([(14, 11), (76, 11), (80, 32), (10, 32)], "#23180e")
    canvas.rect(3, 32, 84, 32, colour)
    for x in (12, 72):
        canvas.rect(x, 32, 7, 32, "#e0b84c")
    canvas.ellipse(45, 32, 36, 5, "#23180e")


def _gate_posts(canvas: Canvas, colour: str) -> None:
    for x in (2, 80):
        canvas.rect(x, 16, 16, 134, "#8b8f96")
        canvas.rect(x - 1, 10, 18, 8, "#6d7178")
    canvas.ellipse(49, 22, 46, 20, colour, 180, 360)
    canvas.ellipse(49, 24, 32, 12, "#6d7178", 180, 360)


def _gate(canvas: Canvas, colour: str, phase: int) -> None:
    _gate_posts(canvas, colour)
    for x in range(18, 82, 9):
        canvas.rect(x, 24, 5, 126, colour)
    canvas.rect(18, 60, 62, 6, shade(colour, 0.75))
    canvas.rect(18, 120, 62, 6, shade(colour, 0.75))
    canvas.rect(40, 80, 18, 22, "#e0b84c")
    canvas.circle(49, 88, 3.5, _DARK)
    canvas.rect(47.5, 88, 3, 9, _DARK)


def _open_gate(canvas: Canvas, colour: str, phase: int) -> None:
    _gate_posts(canvas, colour)
    for left, right in ((18, 28), (70, 80)):
        canvas.polygon([(left, 24), (right, 30), (right, 144), (left, 150)], colour)


def _boulder(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.polygon([(6, 90), (2, 58), (16, 22), (50, 4), (88, 14), (108, 48), (104, 90)], colour)
    canvas.polygon([(16, 22), (50, 4), (60, 30), (30, 46)], shade(colour, 1.2))
    canvas.polygon([(60, 30), (88, 14), (108, 48), (80, 62)], shade(colour, 0.85))
    canvas.line([(30, 46), (38, 72), (62, 80)], shade(colour, 0.6), 2)


def _tree(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.polygon([(50, 84), (66, 84), (72, 190), (44, 190)], _WOOD)
    canvas.line([(60, 100), (98, 74)], _WOOD, 7)
    for x, y, radius in ((38, 62, 32), (76, 58, 34), (56, 36, 34), (104, 66, 18)):
        canvas.circle(x, y, radius, colour)
    for x, y in ((30, 50), (56, 26), (80, 50), (50, 68)):
        canvas.circle(x, y, 7, shade(colour, 1.2))


def _barrel(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.polygon([(8, 4), (52, 4), (58, 36), (52, 68), (8, 68), (2, 36)], colour)
    for x in (18, 30, 42):
        canvas.line([(x, 4), (x, 68)], shade(colour, 0.75), 1.5)
    for y in (14, 52):
        canvas.rect(4, y, 52, 6, _DARK)
    canvas.ellipse(30, 5, 22, 4, shade(colour, 0.55))


def _crate(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.rect(2, 2, 66, 60, colour)
    canvas.line([(6, 6), (64, 58)], shade(colour, 0.7), 6)
    canvas.line([(6, 58), (64, 6)], shade(colour, 0.7), 6)
    for x, y, width, height in ((2, 2, 66, 8), (2, 54, 66, 8), (2, 2, 8, 60), (60, 2, 8, 60)):
        canvas.rect(x, y, width, height, shade(colour, 0.8))


def _basket(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.ellipse(36, 28, 28, 26, _WOOD, 180, 360)
    canvas.ellipse(36, 28, 22, 20, "#f3ead2", 180, 360)
    canvas.polygon([(2, 26), (70, 26), (60, 60), (12, 60)], colour)
    for y in (34, 43, 52):
        canvas.line([(6, y), (66, y)], shade(colour, 0.7), 2)
    canvas.rect(0, 24, 72, 7, shade(colour, 0.8))


def _bubble(canvas: Canvas, colour: str, phase: int, *, width: int) -> None:
    for shrink, paint in ((0.0, colour), (2.0, _PALE)):
        for x in range(30, width - 29, 12):
            canvas.circle(x, 22, 20 - shrink, paint)
            canvas.circle(x, 58, 20 - shrink, paint)
        canvas.ellipse(width / 2, 40, width / 2 - 1 - shrink, 30 - shrink, paint)
        for y, radius in ((85, 6), (97, 4)):
            canvas.circle(width / 2, y, radius - shrink, paint)


def _cross(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.line([(6, 6), (30, 30)], colour, 9)
    canvas.line([(30, 6), (6, 30)], colour, 9)


def _heart(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.circle(11, 12, 9.5, colour)
    canvas.circle(27, 12, 9.5, colour)
    canvas.polygon([(2.5, 16), (35.5, 16), (19, 36)], colour)


def _arrow(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.line([(4, 14), (22, 14)], colour, 6)
    canvas.polygon([(20, 4), (36, 14), (20, 24)], colour)


def _smoke(canvas: Canvas, colour: str, phase: int) -> None:
    lift = 5 if phase else 0
    for x, y, radius in ((14, 50, 8), (24, 36, 11), (18, 20, 13)):
        canvas.circle(x, y - lift * 0.6 + 3, radius, colour)


def _sleep(canvas: Canvas, colour: str, phase: int) -> None:
    for x, y, size in ((4, 34, 10), (18, 20, 13), (34, 2, 16)):
        canvas.line([(x, y), (x + size, y), (x, y + size), (x + size, y + size)], colour, 4)


PROPS: dict[str, Drawing] = {
    "chest": (90, 66, _chest),
    "open_chest": (90, 66, _open_chest),
    "gate": (98, 152, _gate),
    "open_gate": (98, 152, _open_gate),
    "boulder": (112, 92, _boulder),
    "tree": (126, 192, _tree),
    "barrel": (60, 70, _barrel),
    "crate": (70, 64, _crate),
    "basket": (72, 62, _basket),
    "bubble": (92, 104, partial(_bubble, width=92)),
    "wide_bubble": (176, 104, partial(_bubble, width=176)),
    "cross": (36, 36, _cross),
    "heart": (38, 38, _heart),
    "arrow": (40, 28, _arrow),
    "smoke": (40, 62, _smoke),
    "sleep": (54, 50, _sleep),
}
"""A bubble hangs over the head of the one who thinks: its lower edge is a trail of small circles."""
