"""Indoor scenes and title cards. Each function paints one on a canvas of 960 x 360 pixels."""

from operators.demo.films.canvas import Canvas, shade


def card(canvas: Canvas) -> None:
    """A plain black-blue card for titles, with a thin frame round the view at rest."""
    canvas.rect(0, 0, 960, 360, "#10131c")
    canvas.line([(184, 76), (776, 76), (776, 284), (184, 284), (184, 76)], "#3a4258", 2)
    canvas.line([(440, 240), (520, 240)], "#c9a13b", 3)


def kitchen(canvas: Canvas) -> None:
    """Cream walls, yellow cupboards, a stove and a chequered floor."""
    canvas.rect(0, 0, 960, 270, "#f7eccb")
    for x in range(0, 960, 32):
        canvas.line([(x, 150), (x, 206)], "#e6d7ab", 1.5)
    for y in (150, 178, 206):
        canvas.line([(0, y), (960, y)], "#e6d7ab", 1.5)
    for x in (20, 130, 560, 670, 780):
        canvas.rect(x, 30, 100, 92, "#e3b23c")
        canvas.rect(x + 8, 38, 84, 76, "#efc65c")
        canvas.circle(x + 84, 78, 4, "#7a5a1c")
    canvas.rect(292, 36, 200, 112, "#ffffff")
    canvas.rect(302, 46, 180, 92, "#a9dcf5")
    canvas.line([(392, 46), (392, 138)], "#ffffff", 5)
    canvas.rect(0, 206, 960, 10, "#b98f4a")
    canvas.rect(0, 216, 960, 66, "#e3b23c")
    for x in range(20, 960, 110):
        canvas.rect(x, 224, 94, 52, "#efc65c")
    canvas.rect(570, 200, 110, 82, "#d8dade")
    canvas.rect(582, 232, 86, 40, "#3a3c42")
    for x in (592, 658):
        canvas.ellipse(x, 202, 18, 5, "#3a3c42")
    canvas.polygon([(576, 198), (608, 198), (604, 174), (580, 174)], "#c2483c")
    for row in range(3):
        for column in range(25):
            tile = "#fdf8ea" if (row + column) % 2 else "#d9c592"
            canvas.rect(column * 40, 282 + row * 26, 40, 26, tile)


def workshop(canvas: Canvas) -> None:
    """Brown boards, a wall of tools, a long workbench and a hanging lamp."""
    canvas.rect(0, 0, 960, 270, "#2f1f12")
    for row in range(9):
        canvas.rect(0, row * 32, 960, 31, shade("#7a5535", 0.92 + 0.05 * (row % 3)))
    canvas.rect(0, 270, 960, 90, "#4d3521")
    canvas.rect(210, 46, 320, 118, "#caa878")
    for index, x in enumerate(range(236, 520, 44)):
        canvas.line([(x, 66), (x, 124)], "#5a3b1e", 6)
        head = ("#8f969f", "#b33a2e", "#3f6fa8")[index % 3]
        canvas.rect(x - 13, 60, 26, 15, head)
    for x in (640, 720, 800, 60, 120):
        canvas.rect(x, 96, 56, 66, shade("#3f6f62", 0.9 + 0.1 * (x % 3)))
        canvas.rect(x + 6, 104, 44, 12, "#dfe8dd")
    canvas.rect(600, 162, 300, 8, "#3b2816")
    canvas.rect(30, 162, 160, 8, "#3b2816")
    canvas.rect(120, 232, 720, 18, "#b07a43")
    for x in (140, 460, 800):
        canvas.rect(x, 250, 20, 74, "#7d5228")
    canvas.rect(700, 206, 66, 26, "#5c6470")
    canvas.polygon([(690, 206), (776, 206), (760, 196), (706, 196)], "#79828f")
    canvas.line([(560, 0), (560, 40)], "#2a1c10", 3)
    canvas.polygon([(528, 66), (592, 66), (574, 38), (546, 38)], "#2f7d6c")
    canvas.ellipse(560, 67, 18, 8, "#fff0b0")


def laboratory(canvas: Canvas) -> None:
    """White and teal: benches with flasks, a big screen, tiles."""
    canvas.rect(0, 0, 960, 280, "#e6f3f3")
    for x in range(0, 960, 80):
        canvas.line([(x, 0), (x, 280)], "#cfe4e4", 1.5)
    canvas.rect(330, 34, 250, 128, "#2b3a42")
    canvas.rect(340, 44, 230, 108, "#0f5f66")
    curve = [(350 + 8 * step, 110 - 26 * ((step * 5) % 7) / 6) for step in range(27)]
    canvas.line(curve, "#7cf2d4", 3)
    for x in (40, 170, 690, 820):
        canvas.rect(x, 60, 104, 8, "#7fb3b5")
        for index in range(4):
            canvas.rect(x + 6 + index * 25, 32, 17, 28, ("#f2a541", "#e4572e", "#76b041", "#4a7fc1")[index])
    canvas.rect(0, 214, 960, 14, "#0f8a8c")
    canvas.rect(0, 228, 960, 54, "#bfe0e0")
    for x in range(40, 960, 150):
        canvas.rect(x, 236, 110, 38, "#a6d2d2")
        liquid = ("#4fc3f7", "#ffb74d", "#aed581")[(x // 150) % 3]
        canvas.polygon(
            [(x + 24, 214), (x + 60, 214), (x + 48, 190), (x + 48, 172), (x + 36, 172), (x + 36, 190)], liquid
        )
    canvas.rect(0, 282, 960, 78, "#c3ccd0")
    for x in range(0, 960, 96):
        canvas.line([(x, 282), (x - 30, 360)], "#aab4b9", 1.5)


def library(canvas: Canvas) -> None:
    """Dark red walls, shelves of books, a green carpet."""
    canvas.rect(0, 0, 960, 290, "#6d1f26")
    for index in range(5):
        x = 14 + index * 190
        canvas.rect(x, 24, 168, 256, "#3d2415")
        for row in range(4):
            top = 32 + row * 62
            canvas.rect(x + 6, top, 156, 54, "#23140b")
            left, book = x + 8.0, index * 3 + row
            while left < x + 148:
                width, height = 9 + (book * 5) % 8, 36 + (book * 7) % 16
                cover = ("#a63d40", "#e9b872", "#90a959", "#6494aa", "#d9d4c5", "#7d5ba6")[book % 6]
                canvas.rect(left, top + 54 - height, width, height, cover)
                left, book = left + width + 1.5, book + 1
    canvas.rect(0, 286, 960, 74, "#2c4a3b")
    for x in range(0, 960, 60):
        canvas.polygon([(x, 322), (x + 30, 308), (x + 60, 322), (x + 30, 336)], "#39604c")
