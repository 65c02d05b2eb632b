"""Drawings of vehicles. Each function draws one, facing right, on a canvas of the size given in `VEHICLES`.

`colour` is `#rrggbb`. `phase` is 0 or 1 and turns wheels and propellers.
"""

from collections.abc import Callable

from operators.demo.films.canvas import Canvas, shade

Drawing = tuple[int, int, Callable[[Canvas, str, int], None]]

_GLASS = "#cfe8f5"
_TYRE = "#1d1e22"


def _wheel(canvas: Canvas, x: float, y: float, radius: float, phase: int) -> None:
    canvas.circle(x, y, radius, _TYRE)
    canvas.circle(x, y, radius * 0.5, "#b8bcc4")
    reach = radius * 0.45
    spoke = [(x - reach, y), (x + reach, y)] if phase else [(x, y - reach), (x, y + reach)]
    canvas.line(spoke, _TYRE, 1.5)


def _car(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.polygon([(22, 20), (34, 3), (70, 3), (86, 20)], colour)
    canvas.polygon([(30, 19), (38, 7), (51, 7), (51, 19)], _GLASS)
    canvas.polygon([(55, 19), (55, 7), (67, 7), (77, 19)], _GLASS)
    canvas.polygon([(3, 22), (10, 18), (92, 18), (110, 23), (113, 36), (3, 36)], colour)
    canvas.rect(3, 32, 110, 4, shade(colour, 0.7))
    canvas.circle(108, 26, 3, "#fff3b0")
    canvas.rect(3, 23, 4, 5, "#ff8a80")
    _wheel(canvas, 27, 36, 9, phase)
    _wheel(canvas, 89, 36, 9, phase)


def _truck(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.rect(2, 4, 92, 46, colour)
    canvas.rect(2, 22, 92, 8, shade(colour, 1.35))
    canvas.polygon([(98, 16), (120, 16), (132, 33), (132, 50), (98, 50)], shade(colour, 0.75))
    canvas.polygon([(104, 20), (118, 20), (126, 33), (104, 33)], _GLASS)
    canvas.rect(2, 47, 130, 5, "#3a3c42")
    for x in (24, 46, 112):
        _wheel(canvas, x, 53, 10, phase)


def _bicycle(canvas: Canvas, colour: str, phase: int) -> None:
    for x in (16, 60):
        canvas.circle(x, 62, 15, _TYRE)
        canvas.circle(x, 62, 12.5, "#dfe3e8")
        reach = [(x - 12, 62), (x + 12, 62)] if phase else [(x, 50), (x, 74)]
        canvas.line(reach, "#8a8f98", 1)
    canvas.line([(16, 62), (30, 42), (54, 42), (37, 62), (16, 62)], colour, 3.5)
    canvas.line([(30, 42), (37, 62)], colour, 3.5)
    canvas.line([(60, 62), (52, 36), (60, 33)], colour, 3.5)
    foot = (42, 70) if phase else (34, 56)
    canvas.line([(30, 36), (42, 46), foot], "#2d3446", 5)
    canvas.line([(30, 36), (40, 16)], colour, 9)
    canvas.line([(40, 20), (57, 33)], "#e8b48c", 4)
    canvas.circle(43, 8, 7, "#e8b48c")
    canvas.ellipse(43, 7, 8, 7.5, colour, 180, 360)


def _train(canvas: Canvas, colour: str, phase: int) -> None:
    for left in (2, 108):
        canvas.rect(left, 8, 100, 44, colour)
        canvas.rect(left, 8, 100, 5, shade(colour, 0.7))
        for x in (10, 34, 58, 82):
            canvas.rect(left + x, 18, 16, 14, _GLASS)
        canvas.rect(left, 38, 100, 5, "#f4f4f0")
    canvas.polygon([(214, 8), (270, 8), (294, 34), (294, 52), (214, 52)], colour)
    canvas.rect(214, 8, 57, 5, shade(colour, 0.7))
    canvas.polygon([(262, 14), (270, 14), (285, 31), (262, 31)], _GLASS)
    canvas.rect(222, 18, 30, 14, _GLASS)
    canvas.rect(214, 38, 80, 5, "#f4f4f0")
    canvas.rect(2, 51, 292, 5, "#2b2d33")
    for x in (20, 88, 126, 194, 232, 278):
        _wheel(canvas, x, 56, 7, phase)


def _boat(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.line([(52, 6), (52, 70)], "#6b4a2c", 3)
    canvas.polygon([(55, 6), (55, 62), (98, 62)], "#fdfdf8")
    canvas.polygon([(49, 14), (49, 62), (18, 62)], shade("#fdfdf8", 0.88))
    flag = [(52, 2), (72, 6 + 3 * phase), (52, 12)]
    canvas.polygon(flag, colour)
    canvas.polygon([(4, 68), (112, 68), (94, 90), (20, 90)], colour)
    canvas.rect(6, 68, 104, 5, shade(colour, 1.35))


def _ferry(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.rect(84, 4, 20, 26, shade(colour, 0.8))
    canvas.rect(84, 10, 20, 6, "#f4f4f0")
    for step in range(3):
        canvas.circle(78 - 11 * step - 3 * phase, 6 - step, 5 - step, "#c9ced6")
    canvas.rect(34, 28, 130, 16, "#f6f6f2")
    canvas.rect(20, 42, 168, 18, "#f6f6f2")
    for x in range(30, 182, 16):
        canvas.rect(x, 46, 9, 8, "#3d6d96")
    for x in range(44, 160, 16):
        canvas.rect(x, 32, 9, 7, "#3d6d96")
    canvas.polygon([(2, 58), (216, 58), (196, 88), (16, 88)], colour)
    canvas.polygon([(9, 77), (204, 77), (196, 88), (16, 88)], shade(colour, 0.65))


def _plane(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.polygon([(6, 4), (20, 4), (32, 24), (14, 26)], shade(colour, 0.8))
    canvas.ellipse(60, 28, 52, 11, colour)
    canvas.ellipse(90, 25, 10, 5, _GLASS)
    canvas.polygon([(52, 28), (72, 28), (42, 52), (32, 52)], shade(colour, 0.7))
    tip = (114, 14) if phase else (114, 20)
    canvas.line([tip, (114, 56 - tip[1])], "#4a4d55", 3)


def _balloon(canvas: Canvas, colour: str, phase: int) -> None:
    canvas.circle(38, 38, 35, colour)
    canvas.polygon([(9, 58), (67, 58), (48, 84), (28, 84)], colour)
    canvas.ellipse(38, 38, 12, 35, "#fdf6e0")
    canvas.line([(28, 84), (30, 96)], "#5c4630", 1.5)
    canvas.line([(48, 84), (46, 96)], "#5c4630", 1.5)
    canvas.rect(27, 96, 22, 15, "#8a5a2b")
    if phase:
        canvas.polygon([(34, 92), (38, 84), (42, 92)], "#ff9d2e")


def _rocket(canvas: Canvas, colour: str, phase: int) -> None:
    length = 34 if phase else 24
    canvas.polygon([(20, 104), (44, 104), (32, 104 + length)], "#ff9d2e")
    canvas.polygon([(26, 104), (38, 104), (32, 98 + length * 0.7)], "#ffe27a")
    canvas.polygon([(14, 70), (2, 104), (16, 100)], shade(colour, 0.7))
    canvas.polygon([(50, 70), (62, 104), (48, 100)], shade(colour, 0.7))
    canvas.polygon([(32, 2), (50, 36), (50, 104), (14, 104), (14, 36)], "#f2f3f5")
    canvas.polygon([(32, 2), (50, 36), (14, 36)], colour)
    canvas.circle(32, 52, 9, colour)
    canvas.circle(32, 52, 6, _GLASS)
    canvas.rect(14, 86, 36, 7, colour)


def _drone(canvas: Canvas, colour: str, phase: int) -> None:
    reach = 16 if phase else 9
    for x in (16, 64):
        canvas.line([(x - reach, 6), (x + reach, 6)], "#4a4d55", 2.5)
        canvas.line([(x, 6), (x, 15)], "#4a4d55", 3)
    canvas.line([(16, 15), (64, 15)], "#4a4d55", 5)
    canvas.ellipse(40, 18, 18, 10, colour)
    canvas.circle(50, 19, 4, "#ffffff")
    canvas.line([(26, 26), (22, 34)], "#4a4d55", 2.5)
    canvas.line([(54, 26), (58, 34)], "#4a4d55", 2.5)


VEHICLES: dict[str, Drawing] = {
    "car": (116, 46, _car),
    "truck": (136, 64, _truck),
    "bicycle": (78, 78, _bicycle),
    "train": (298, 64, _train),
    "boat": (116, 92, _boat),
    "ferry": (220, 90, _ferry),
    "plane": (120, 60, _plane),
    "balloon": (76, 112, _balloon),
    "rocket": (64, 140, _rocket),
    "drone": (80, 36, _drone),
}
