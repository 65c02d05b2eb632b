"""Drawings of people, distinguished by hair, hats and clothes. Each function draws one, facing right.

`colour` is the colour of the clothes as `#rrggbb`. `phase` is 0 or 1 and moves legs and arms.
"""

from collections.abc import Callable
from functools import partial

from operators.demo.films.canvas import Canvas, shade
from operators.demo.films.vehicles import Drawing

_SKIN = "#e8b48c"
_BROWN_SKIN = "#a86f45"
_DARK = "#2d3446"
_WHITE = "#fbfbf6"

Hat = Callable[[Canvas, str], None]


def _trousers(canvas: Canvas, colour: str, phase: int) -> None:
    stride = 9 if phase else 3
    canvas.line([(22, 74), (22 - stride, 101)], _DARK, 6)
    canvas.line([(22, 74), (22 + stride, 101)], _DARK, 6)
    canvas.polygon([(15, 44), (30, 44), (34, 78), (10, 78)], colour)


def _dress(canvas: Canvas, colour: str, phase: int) -> None:
    stride = 6 if phase else 3
    canvas.line([(22, 88), (22 - stride, 101)], _DARK, 5)
    canvas.line([(22, 88), (22 + stride, 101)], _DARK, 5)
    canvas.polygon([(16, 44), (29, 44), (31, 60), (40, 93), (4, 93), (13, 60)], colour)


def _short_hair(canvas: Canvas, hair: str) -> None:
    canvas.ellipse(22, 32, 11, 10, hair, 150, 330)


def _long_hair(canvas: Canvas, hair: str) -> None:
    canvas.ellipse(21, 32, 12, 11, hair, 120, 330)
    canvas.polygon([(10, 30), (19, 30), (19, 54), (8, 54)], hair)


def _pigtails(canvas: Canvas, hair: str) -> None:
    canvas.ellipse(22, 32, 11, 10, hair, 150, 330)
    canvas.circle(8, 36, 6, hair)
    canvas.circle(12, 26, 3, "#d62f2f")


def _beard(canvas: Canvas, hair: str) -> None:
    canvas.polygon([(19, 38), (33, 38), (30, 56), (24, 60)], hair)
    canvas.ellipse(22, 32, 11, 10, hair, 150, 330)


def _chef_hat(canvas: Canvas, colour: str) -> None:
    canvas.rect(14, 14, 18, 12, _WHITE)
    for x in (14, 23, 32):
        canvas.circle(x, 12, 7, _WHITE)
    canvas.rect(14, 22, 18, 3, "#c9ced6")


def _captain_hat(canvas: Canvas, colour: str) -> None:
    canvas.ellipse(23, 21, 14, 6, _WHITE)
    canvas.rect(13, 22, 20, 5, "#1d2742")
    canvas.polygon([(30, 25), (40, 28), (31, 29)], "#1d2742")


def _straw_hat(canvas: Canvas, colour: str) -> None:
    canvas.ellipse(23, 25, 19, 4, "#e0b84c")
    canvas.ellipse(23, 23, 10, 9, "#e0b84c", 180, 360)
    canvas.rect(13, 21, 20, 3, "#8c4a2b")


def _crown(canvas: Canvas, colour: str) -> None:
    canvas.polygon([(12, 26), (10, 12), (17, 19), (22, 9), (27, 19), (34, 12), (32, 26)], "#f5c518")
    canvas.circle(22, 20, 2.5, "#d62f2f")


def _pointed_hat(canvas: Canvas, colour: str) -> None:
    canvas.polygon([(10, 27), (34, 27), (18, 0)], shade(colour, 0.8))
    canvas.ellipse(22, 27, 16, 3.5, shade(colour, 0.65))
    canvas.circle(21, 16, 2.5, "#ffe27a")


def _helmet(canvas: Canvas, colour: str) -> None:
    canvas.ellipse(22, 32, 13, 15, "#9aa3b0", 180, 360)
    canvas.rect(9, 31, 26, 4, "#6d7684")
    canvas.polygon([(20, 18), (24, 18), (14, 2), (6, 8)], "#d62f2f")


def _draw(
    canvas: Canvas,
    colour: str,
    phase: int,
    *,
    clothes: Callable[[Canvas, str, int], None] = _trousers,
    locks: Callable[[Canvas, str], None] = _short_hair,
    hair: str = "#4a3020",
    hat: Hat | None = None,
    skin: str = _SKIN,
) -> None:
    clothes(canvas, colour, phase)
    swing = 6 if phase else -2
    canvas.line([(20, 48), (20 - swing, 68)], shade(colour, 0.75), 5)
    canvas.line([(26, 48), (26 + swing, 68)], shade(colour, 0.75), 5)
    canvas.circle(23, 34, 10, skin)
    locks(canvas, hair)
    if hat:
        hat(canvas, colour)
    canvas.circle(28, 34, 1.5, _DARK)


PEOPLE: dict[str, Drawing] = {
    "woman": (46, 104, partial(_draw, clothes=_dress, locks=_long_hair)),
    "man": (46, 104, partial(_draw, hair="#1f1a17", skin=_BROWN_SKIN)),
    "girl": (46, 104, partial(_draw, clothes=_dress, locks=_pigtails, hair="#c9772b")),
    "boy": (46, 104, partial(_draw, hair="#e0b84c")),
    "cook": (46, 104, partial(_draw, hat=_chef_hat)),
    "captain": (46, 104, partial(_draw, hat=_captain_hat, hair="#8a8f98")),
    "farmer": (46, 104, partial(_draw, hat=_straw_hat, skin=_BROWN_SKIN)),
    "queen": (46, 104, partial(_draw, clothes=_dress, locks=_long_hair, hair="#8c4a2b", hat=_crown)),
    "wizard": (46, 104, partial(_draw, clothes=_dress, locks=_beard, hair="#f1f1ee", hat=_pointed_hat)),
    "knight": (46, 104, partial(_draw, hat=_helmet)),
}
