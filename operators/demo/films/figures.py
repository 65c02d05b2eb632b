"""Drawings of people, animals and small things.

Each function draws one, facing right, on a canvas of the size given in `FIGURES`.

`colour` is `#rrggbb`. `phase` is 0 or 1 and moves legs, wings and tails.
"""

from operators.demo.films.canvas import Canvas, shade
from operators.demo.films.vehicles import Drawing

_SKIN = "#e8b48c"
_DARK = "#2d3446"


def _person(canvas: Canvas, colour: str, phase: int) -> None:
    stride = 9 if phase else 3
    canvas.line([(20, 54), (20 - stride, 81)], _DARK, 6)
    canvas.line([(20, 54), (20 + stride, 81)], _DARK, 6)
    canvas.polygon([(13, 24), (28, 24), (32, 58), (8, 58)], colour)
    swing = 6 if phase else -2
    canvas.line([(18, 28), (18 - swing, 48)], shade(colour, 0.75), 5)
    canvas.line([(24, 28), (24 + swing, 48)], shade(colour, 0.75), 5)
    canvas.circle(21, 14, 10, _SKIN)
    canvas.ellipse(20, 12, 11, 10, "#4a3020", 150, 330)
    canvas.circle(26, 14, 1.5, _DARK)


def _bird(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.polygon([(2, 26), (18, 28), (6, 36)], shade(colour, 0.75))
    canvas.ellipse(28, 28, 17, 9, colour)
    canvas.circle(44, 22, 7, colour)
    canvas.circle(46, 20, 1.5, _DARK)
    canvas.polygon([(50, 20), (58, 23), (50, 26)], "#e8741a")
    tip = (16, 2) if phase else (16, 46)
    canvas.polygon([(20, 26), (36, 26), tip], shade(colour, 0.7))


def _dog(canvas: Canvas, colour: str, phase: int) -> None:
    legs = ((14, 8), (22, 26), (48, 44), (54, 60)) if phase else ((14, 16), (20, 20), (50, 50), (55, 55))
    for top, foot in legs:
        canvas.line([(top, 36), (foot, 53)], shade(colour, 0.75), 5)
    canvas.line([(10, 26), (3, 12 if phase else 20)], colour, 5)
    canvas.ellipse(33, 31, 24, 11, colour)
    canvas.circle(58, 19, 11, colour)
    canvas.ellipse(69, 23, 7, 5, shade(colour, 1.2))
    canvas.circle(75, 21, 2.5, "#1d1e22")
    canvas.ellipse(53, 20, 4, 10, shade(colour, 0.6))
    canvas.circle(62, 16, 1.8, "#1d1e22")


def _cat(canvas: Canvas, colour: str, phase: int) -> None:
    feet = ((12, 6), (18, 22), (38, 34), (42, 48)) if phase else ((12, 12), (18, 18), (38, 38), (43, 43))
    for top, foot in feet:
        canvas.line([(top, 34), (foot, 45)], shade(colour, 0.75), 4)
    canvas.line([(8, 28), (2, 16), (6, 4 if phase else 8)], colour, 4)
    canvas.ellipse(27, 30, 20, 9, colour)
    canvas.circle(48, 20, 10, colour)
    canvas.polygon([(39, 16), (40, 2), (48, 11)], colour)
    canvas.polygon([(57, 16), (56, 2), (48, 11)], colour)
    canvas.circle(51, 18, 1.8, "#1d1e22")
    canvas.circle(57, 22, 1.6, "#f7a6b8")


def _fish(canvas: Canvas, colour: str, phase: int) -> None:
    tail = 4 if phase else -4
    canvas.polygon([(16, 16), (2, 6 + tail), (2, 26 + tail)], shade(colour, 0.75))
    canvas.ellipse(30, 16, 20, 11, colour)
    canvas.polygon([(24, 7), (38, 7), (28, 1)], shade(colour, 0.75))
    canvas.circle(42, 13, 2.5, "#ffffff")
    canvas.circle(43, 13, 1.4, "#1d1e22")


def _robot(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.line([(31, 12), (31, 3)], "#4a4d55", 2)
    canvas.circle(31, 4, 3.5, "#ff4d4d" if phase else "#7a1f1f")
    canvas.rect(14, 11, 34, 24, shade(colour, 1.2))
    canvas.circle(25, 22, 4.5, "#e9fbff")
    canvas.circle(39, 22, 4.5, "#e9fbff")
    canvas.line([(23, 30), (41, 30)], "#4a4d55", 2)
    canvas.rect(8, 38, 46, 34, colour)
    canvas.rect(18, 45, 26, 14, "#20303c")
    canvas.rect(20, 50 if phase else 47, 22, 3, "#5cf2a5")
    reach = 6 if phase else 0
    canvas.line([(8, 42), (2, 58 - reach)], "#4a4d55", 5)
    canvas.line([(54, 42), (60, 58 - reach)], "#4a4d55", 5)
    for x in (16, 31, 46):
        canvas.circle(x, 79, 7, "#2b2d33")
        canvas.circle(x, 79, 3, "#9aa0aa")


def _parcel(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.rect(2, 6, 42, 32, colour)
    canvas.rect(2, 6, 42, 6, shade(colour, 1.3))
    canvas.rect(19, 6, 8, 32, "#f6ecd2")
    canvas.polygon([(23, 7), (12, 1), (13, 9)], "#f6ecd2")
    canvas.polygon([(23, 7), (34, 1), (33, 9)], "#f6ecd2")


def _key(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.circle(14, 14, 12, colour)
    canvas.circle(14, 14, 5.5, "#fffbe6")
    canvas.line([(26, 14), (58, 14)], colour, 6)
    canvas.line([(46, 14), (46, 25)], colour, 5)
    canvas.line([(56, 14), (56, 25)], colour, 5)


def _ball(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.circle(16, 16, 15, colour)
    canvas.ellipse(16, 16, 5, 15, "#fdfdf8") if phase else canvas.ellipse(16, 16, 15, 5, "#fdfdf8")


def _flower(canvas: Canvas, colour: str, phase: int) -> None:
    lean = 2 if phase else 0
    canvas.line([(22, 74), (22 + lean, 24)], "#2f7d32", 4)
    canvas.ellipse(13, 56, 10, 5, "#3c9a40")
    canvas.ellipse(31, 48, 10, 5, "#3c9a40")
    for x, y in ((22, 9), (35, 18), (30, 32), (14, 32), (9, 18)):
        canvas.circle(x + lean, y, 8.5, colour)
    canvas.circle(22 + lean, 21, 7.5, "#ffd54a" if colour != "#f5c518" else "#7a4b26")


def _lamp(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.circle(22, 30, 21, "#fff2b8" if phase else "#ffe58a")
    canvas.line([(14, 8), (22, 2), (30, 8)], "#4a4d55", 3)
    canvas.rect(10, 8, 24, 6, colour)
    canvas.rect(13, 14, 18, 32, "#fffce8")
    canvas.polygon([(22, 18), (28, 34), (22, 42), (16, 34)], "#ff9d2e")
    canvas.rect(10, 46, 24, 7, colour)


def _cup(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.ellipse(12, 16, 11, 12, shade(colour, 0.8))
    canvas.ellipse(48, 16, 11, 12, shade(colour, 0.8))
    canvas.polygon([(10, 3), (50, 3), (44, 28), (36, 38), (24, 38), (16, 28)], colour)
    canvas.polygon([(17, 6), (24, 6), (24, 30), (20, 26)], shade(colour, 1.4))
    canvas.rect(26, 38, 8, 14, shade(colour, 0.85))
    canvas.rect(14, 52, 32, 8, "#4a3020")


def _book(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.rect(2, 2, 40, 48, colour)
    canvas.rect(2, 2, 7, 48, shade(colour, 0.65))
    canvas.rect(42, 5, 4, 43, "#f6ecd2")
    canvas.rect(15, 11, 20, 6, "#f6ecd2")
    canvas.rect(15, 21, 20, 3, "#f6ecd2")


def _apple(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.circle(14, 24, 13, colour)
    canvas.circle(26, 24, 13, colour)
    canvas.ellipse(20, 30, 12, 10, colour)
    canvas.line([(20, 13), (22, 3)], "#7a4b26", 3)
    canvas.ellipse(29, 6, 7, 3.5, "#3c9a40")


def _umbrella(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.line([(34, 8), (34, 60), (42, 66), (48, 58)], "#7a4b26", 4)
    canvas.ellipse(34, 34, 32, 30, colour, 180, 360)
    for x in (2, 23.5, 45):
        canvas.ellipse(x + 10.5, 34, 10.5, 6, shade(colour, 0.75), 180, 360)
    canvas.line([(34, 8), (34, 2)], "#7a4b26", 3)


def _hammer(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.line([(24, 14), (24, 66)], "#8a5a2b", 7)
    canvas.rect(4, 4, 40, 16, colour)
    canvas.polygon([(44, 6), (54, 12), (44, 18)], shade(colour, 0.75))


def _bucket(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.ellipse(24, 16, 20, 14, "#4a4d55", 180, 360)
    canvas.ellipse(24, 16, 17, 11, "#e9edf2", 180, 360)
    canvas.polygon([(2, 16), (46, 16), (40, 50), (8, 50)], colour)
    canvas.ellipse(24, 17, 22, 5, shade(colour, 0.7))
    canvas.rect(4, 32, 40, 4, shade(colour, 0.75))


def _crown(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.polygon([(6, 42), (2, 10), (16, 24), (28, 2), (40, 24), (54, 10), (50, 42)], colour)
    canvas.rect(6, 36, 44, 8, shade(colour, 0.75))
    for x in (14, 28, 42):
        canvas.circle(x, 40, 3, "#fffce8")


def _bone(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.line([(14, 14), (46, 14)], colour, 9)
    for x, y in ((10, 9), (10, 19), (50, 9), (50, 19)):
        canvas.circle(x, y, 7, colour)


def _guitar(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.line([(22, 34), (22, 6)], "#7a4b26", 5)
    canvas.rect(17, 2, 10, 9, "#4a3020")
    canvas.circle(22, 38, 10, colour)
    canvas.circle(22, 54, 14, colour)
    canvas.circle(22, 47, 5, "#2d3446")


def _ladder(canvas: Canvas, colour: str, phase: int) -> None:
    for x in (5, 31):
        canvas.line([(x, 4), (x, 124)], colour, 6)
    for y in range(16, 120, 18):
        canvas.line([(5, y), (31, y)], shade(colour, 0.8), 5)


FIGURES: dict[str, Drawing] = {
    "person": (42, 84, _person),
    "bird": (60, 48, _bird),
    "dog": (80, 56, _dog),
    "cat": (62, 48, _cat),
    "fish": (52, 32, _fish),
    "robot": (64, 88, _robot),
    "parcel": (46, 40, _parcel),
    "key": (62, 30, _key),
    "ball": (32, 32, _ball),
    "flower": (46, 76, _flower),
    "lamp": (44, 54, _lamp),
    "cup": (60, 60, _cup),
    "book": (48, 52, _book),
    "apple": (40, 40, _apple),
    "umbrella": (68, 70, _umbrella),
    "hammer": (56, 70, _hammer),
    "bucket": (48, 52, _bucket),
    "crown": (56, 46, _crown),
    "bone": (60, 28, _bone),
    "guitar": (44, 70, _guitar),
    "ladder": (36, 128, _ladder),
}
