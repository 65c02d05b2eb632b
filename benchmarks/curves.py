"""Draws accuracies by step of GRPO as an SVG."""

from __future__ import annotations

from collections.abc import Mapping

FONT = 'font-family="Helvetica, Arial, sans-serif" font-size="13"'
LEFT, TOP, WIDTH, HEIGHT = 60, 30, 420, 260
LEGEND = 165
"""Width of the legend in pixels."""


def draw_curves(
    curves: Mapping[str, Mapping[int, float]],
    colours: Mapping[str, str],
    *,
    what: str,
    guessing: float | None = None,
    highest: float = 1.0,
) -> str:
    """An SVG of accuracies by step, with a legend.

    Args:
        curves: for each name its accuracies, from 0 to 1, by step.
        colours: for each name a colour.
        what: what the accuracies are of, such as `held-out clips`.
        guessing: accuracy of guessing, drawn as a dashed line; None: no line.
        highest: accuracy at the top.
    """
    last = max(1, *(step for curve in curves.values() for step in curve))

    def x(step: float) -> float:
        return LEFT + WIDTH * step / last

    def y(accuracy: float) -> float:
        return TOP + HEIGHT * (1 - accuracy / highest)

    def text(at: tuple[float, float], content: object, anchor: str = "middle", fill: str = "#555") -> str:
        return f'<text x="{at[0]:.0f}" y="{at[1]:.0f}" {FONT} text-anchor="{anchor}" fill="{fill}">{content}</text>'

    size = (LEFT + WIDTH + LEGEND, TOP + HEIGHT + 50)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img">',
        f'<rect width="{size[0]}" height="{size[1]}" fill="#ffffff"/>',
        f"<title>Accuracy on {what} by step of GRPO</title>",
        text((LEFT, TOP - 12), f"accuracy on {what}", "start"),
        text((x(last / 2), TOP + HEIGHT + 40), "step of GRPO"),
    ]
    for tenth in range(0, round(10 * highest) + 1, 2 if highest > 0.5 else 1):
        height = y(tenth / 10)
        parts.append(f'<path d="M{LEFT} {height:.0f}H{LEFT + WIDTH}" stroke="#e5e5e5"/>')
        parts.append(text((LEFT - 8, height + 4), f"{tenth / 10:.1f}", "end"))
    if guessing is not None:
        parts.append(f'<path d="M{LEFT} {y(guessing):.0f}H{LEFT + WIDTH}" stroke="#777777" stroke-dasharray="4 4"/>')
        parts.append(text((LEFT + WIDTH - 4, y(guessing) - 7), "guessing", "end"))
    parts += [text((x(step), TOP + HEIGHT + 20), step) for step in range(0, last + 1, 10)]
    for number, (name, curve) in enumerate(curves.items()):
        points = " ".join(f"{x(step):.1f},{y(accuracy):.1f}" for step, accuracy in sorted(curve.items()))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[name]}" stroke-width="2.5"/>')
        height = TOP + 12 + 22 * number
        parts.append(f'<path d="M{LEFT + WIDTH + 12} {height}h20" stroke="{colours[name]}" stroke-width="2.5"/>')
        parts.append(text((LEFT + WIDTH + 38, height + 4), name, "start", "#222"))
    return "\n".join([*parts, "</svg>", ""])
