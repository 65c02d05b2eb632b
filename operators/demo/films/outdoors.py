"""Outdoor scenes. Each function paints one on a canvas of 960 x 360 pixels, of which a shot shows 640 x 360.

Objects stand and drive around y = 300 to 340. Skies are plain, so that flying objects and texts stay visible.
"""

from operators.demo.films.canvas import Canvas, shade


def _hills(canvas: Canvas, base: float, height: float, step: float, colour: str) -> None:
    for index in range(-1, int(960 / step) + 2):
        peak = height * (0.7 + 0.3 * ((index * 7) % 5) / 4)
        canvas.ellipse(index * step, base, step * 0.8, peak, colour, 180, 360)


def _pine(canvas: Canvas, x: float, y: float, height: float, colour: str) -> None:
    canvas.rect(x - 4, y - height * 0.15, 8, height * 0.15, "#5b3a1e")
    for tier in range(3):
        top = y - height + tier * height * 0.25
        half = height * (0.16 + 0.06 * tier)
        canvas.polygon([(x, top), (x - half, top + height * 0.36), (x + half, top + height * 0.36)], colour)


def _cloud(canvas: Canvas, x: float, y: float, size: float, colour: str = "#ffffff") -> None:
    for dx, dy, radius in ((-1.1, 0.1, 0.6), (-0.3, -0.25, 0.8), (0.6, -0.05, 0.65), (1.2, 0.15, 0.45)):
        canvas.circle(x + dx * size, y + dy * size, radius * size, colour)


def harbour(canvas: Canvas) -> None:
    """Blue water, a lighthouse on the right, cranes, a wooden pier in front."""
    canvas.gradient(0, 170, "#7db8e8", "#d6ecf8")
    _cloud(canvas, 250, 52, 20)
    _cloud(canvas, 560, 40, 16)
    _hills(canvas, 172, 42, 130, "#7f9fb5")
    canvas.gradient(170, 310, "#2f6fae", "#174a86")
    for row in range(7):
        for x in range((row * 53) % 90, 960, 110):
            canvas.line([(x, 186 + row * 18), (x + 26, 186 + row * 18)], "#4f8ec6", 1.5)
    canvas.rect(690, 150, 130, 40, "#6d6a66")
    canvas.polygon([(730, 150), (738, 52), (768, 52), (776, 150)], "#f5f5f0")
    for top in (72, 108):
        canvas.polygon([(736, top), (770, top), (772, top + 18), (734, top + 18)], "#d24545")
    canvas.rect(736, 34, 34, 18, "#ffe27a")
    canvas.polygon([(732, 34), (753, 18), (774, 34)], "#d24545")
    for x in (200, 880):
        canvas.line([(x, 172), (x, 70), (x + 62, 92)], "#c0632b", 5)
        canvas.line([(x + 52, 88), (x + 52, 130)], "#54412f", 2)
    canvas.rect(0, 306, 960, 54, "#8a6238")
    for x in range(0, 960, 48):
        canvas.line([(x, 306), (x, 360)], "#6d4b28", 2)
    for x in range(24, 960, 144):
        canvas.rect(x, 286, 12, 30, "#5a3d20")


def market(canvas: Canvas) -> None:
    """Striped red and orange stalls with fruit under a warm sky."""
    canvas.gradient(0, 300, "#fbd9a0", "#f6b26b")
    canvas.rect(0, 290, 960, 70, "#c98d54")
    for index in range(6):
        x = 20 + index * 160
        canvas.rect(x - 14, 70, 158, 180, shade("#e9a96a", 0.92 + 0.03 * (index % 3)))
        canvas.rect(x + 6, 84, 34, 44, "#8c5a34")
        canvas.rect(x + 88, 84, 34, 44, "#8c5a34")
        awning = "#c8322b" if index % 2 else "#d9761a"
        for stripe in range(8):
            colour = awning if stripe % 2 else "#fff4de"
            left = x + stripe * 17
            canvas.polygon([(left, 150), (left + 17, 150), (left + 15 + stripe, 192), (left - 6 + stripe, 192)], colour)
        canvas.rect(x, 236, 136, 56, "#9a5f2e")
        for pile in range(7):
            fruit = ("#d13b2e", "#f0a51d", "#6ea832")[(index + pile // 3) % 3]
            canvas.circle(x + 16 + pile * 17, 232 - 5 * (pile % 2), 10, fruit)


def forest(canvas: Canvas) -> None:
    """Dark green pines in three rows and a mossy path."""
    canvas.gradient(0, 360, "#b9dcb0", "#4d8a4a")
    for x in range(10, 960, 60):
        _pine(canvas, x, 220, 150 + (x * 7) % 50, "#5d9a5c")
    for x in range(-10, 980, 84):
        _pine(canvas, x, 262, 190 + (x * 5) % 60, "#2f7140")
    canvas.rect(0, 258, 960, 102, "#2f5d2c")
    canvas.polygon([(0, 318), (960, 300), (960, 340), (0, 356)], "#8b7747")
    for x in range(30, 960, 190):
        canvas.rect(x, 40, 26, 236, "#53381f")
        canvas.ellipse(x + 13, 30, 66, 50, "#1f5a30")
        canvas.ellipse(x + 60, 296, 12, 7, "#c9382c")
        canvas.rect(x + 57, 296, 6, 12, "#f3ead2")


def street(canvas: Canvas) -> None:
    """A town street at night: dark purple sky, lit windows, lamps, an empty road."""
    canvas.gradient(0, 260, "#120f2e", "#33265c")
    canvas.circle(820, 54, 24, "#f2ecc9")
    for index in range(8):
        x, height = index * 122 - 6, 130 + (index * 47) % 76
        canvas.rect(x, 262 - height, 112, height, shade("#2a2444", 0.8 + 0.1 * (index % 4)))
        for row in range(int(height // 38)):
            for column in range(3):
                lit = (index * 5 + row * 3 + column * 7) % 4
                window = "#f7cf5e" if lit < 2 else "#1b1732"
                canvas.rect(x + 14 + column * 33, 274 - height + row * 38, 18, 22, window)
    canvas.rect(0, 260, 960, 24, "#57526e")
    canvas.rect(0, 284, 960, 76, "#24222f")
    for x in range(10, 960, 90):
        canvas.rect(x, 318, 46, 5, "#d8d3a0")
    for x in range(70, 960, 200):
        canvas.line([(x, 268), (x, 150), (x + 26, 144)], "#0d0b18", 5)
        canvas.circle(x + 30, 148, 9, "#fff0b0")


def mountain(canvas: Canvas) -> None:
    """White peaks under a pale sky, a snow field in front."""
    canvas.gradient(0, 260, "#a9cdea", "#eaf4fb")
    for x, top, half in ((120, 84, 190), (430, 44, 250), (720, 78, 200), (930, 104, 170)):
        canvas.polygon([(x, top), (x - half, 280), (x + half, 280)], "#7a8ba1")
        canvas.polygon([(x, top), (x - half, 280), (x - half * 0.25, 280)], "#8fa1b8")
        snow = [(x, top), (x - half * 0.3, top + 62), (x - half * 0.1, top + 50), (x + half * 0.08, top + 66)]
        canvas.polygon([*snow, (x + half * 0.3, top + 60)], "#ffffff")
    canvas.polygon([(0, 262), (260, 244), (560, 268), (960, 240), (960, 360), (0, 360)], "#eef3f8")
    canvas.polygon([(0, 316), (960, 304), (960, 346), (0, 354)], "#cfdae6")
    for x in (70, 330, 610, 860):
        _pine(canvas, x, 288, 74, "#3c6b5a")


def desert(canvas: Canvas) -> None:
    """Orange dunes, cacti and a big sun."""
    canvas.gradient(0, 230, "#f4a64a", "#fbe3b0")
    canvas.circle(640, 84, 40, "#fff3c4")
    canvas.polygon([(0, 230), (190, 160), (420, 226), (640, 172), (960, 236), (960, 300), (0, 300)], "#d98e3f")
    canvas.polygon([(0, 272), (300, 220), (620, 276), (960, 226), (960, 360), (0, 360)], "#e6b263")
    canvas.polygon([(0, 308), (960, 300), (960, 350), (0, 352)], "#c98f45")
    for x, height in ((90, 92), (380, 70), (560, 104), (880, 84)):
        canvas.line([(x, 286), (x, 286 - height)], "#4c7a3a", 15)
        canvas.line([(x, 250), (x - 24, 250), (x - 24, 250 - height * 0.3)], "#4c7a3a", 10)
        canvas.line([(x, 262), (x + 24, 262), (x + 24, 262 - height * 0.4)], "#4c7a3a", 10)


def meadow(canvas: Canvas) -> None:
    """A bright green meadow with a white fence, flowers and a red barn."""
    canvas.gradient(0, 220, "#8fd0f2", "#e4f6fb")
    _cloud(canvas, 320, 60, 24)
    _cloud(canvas, 690, 46, 18)
    _hills(canvas, 232, 64, 190, "#9bd06a")
    canvas.gradient(214, 360, "#86c84f", "#5aa833")
    canvas.rect(600, 126, 124, 100, "#b8382f")
    canvas.polygon([(588, 130), (662, 76), (736, 130)], "#6d2a24")
    canvas.rect(642, 164, 40, 62, "#f3e7d0")
    canvas.line([(642, 164), (682, 226), (682, 164), (642, 226)], "#b8382f", 3)
    for x in range(0, 960, 44):
        canvas.rect(x, 232, 7, 34, "#ffffff")
    canvas.rect(0, 240, 960, 5, "#ffffff")
    canvas.rect(0, 254, 960, 5, "#ffffff")
    for index in range(60):
        colour = ("#ffffff", "#ffe14d", "#f28ab2")[index % 3]
        canvas.circle((index * index * 37 + index * 71) % 960, 276 + (index * 29) % 78, 3, colour)


def station(canvas: Canvas) -> None:
    """A grey railway platform with a clock, columns and rails in front."""
    canvas.gradient(0, 250, "#c2c8d0", "#e3e6ea")
    canvas.polygon([(0, 20), (960, 20), (960, 52), (0, 64)], "#59616e")
    for x in range(40, 960, 150):
        canvas.rect(x, 56, 14, 200, "#6b7482")
        canvas.polygon([(x - 16, 56), (x + 30, 56), (x + 14, 84), (x, 84)], "#59616e")
        canvas.rect(x + 40, 112, 82, 66, "#9db7c9")
        canvas.line([(x + 81, 112), (x + 81, 178)], "#6b7482", 3)
    canvas.circle(480, 92, 26, "#30353d")
    canvas.circle(480, 92, 22, "#fbfbf6")
    canvas.line([(480, 76), (480, 92), (492, 98)], "#30353d", 3)
    canvas.rect(0, 236, 960, 40, "#a7a9ab")
    canvas.rect(0, 268, 960, 8, "#f2d03c")
    canvas.rect(0, 276, 960, 84, "#5a5148")
    for x in range(0, 960, 36):
        canvas.rect(x, 312, 20, 34, "#3d2f24")
    for y in (316, 338):
        canvas.rect(0, y, 960, 5, "#c7ccd2")


def stadium(canvas: Canvas) -> None:
    """A red running track with white lanes before a crowd."""
    canvas.gradient(0, 110, "#6fb3e0", "#bfe0f2")
    canvas.rect(0, 84, 960, 112, "#3f4656")
    for row in range(6):
        for x in range(6 + 7 * (row % 2), 960, 15):
            face = ("#f2c230", "#e05a4e", "#5aa2e0", "#f4f4f0", "#79c267")[(x // 15 * x + row * 11) % 5]
            canvas.circle(x, 94 + row * 17, 5, face)
    canvas.rect(0, 190, 960, 16, "#f4f4f0")
    canvas.rect(0, 206, 960, 44, "#4fa048")
    canvas.rect(0, 246, 960, 114, "#b5482f")
    for y in (246, 282, 318, 354):
        canvas.rect(0, y, 960, 4, "#f8efe4")
    for x in range(60, 960, 160):
        canvas.line([(x, 206), (x, 134)], "#f4f4f0", 3)
        canvas.polygon([(x, 134), (x + 34, 144), (x, 156)], ("#f2c230", "#2459c9")[(x // 160) % 2])


def beach(canvas: Canvas) -> None:
    """Turquoise sea, pale sand, palms and parasols."""
    canvas.gradient(0, 150, "#5fc3ee", "#d9f3fb")
    canvas.circle(250, 58, 28, "#fff2a8")
    canvas.gradient(150, 236, "#17a3b0", "#5fd0cf")
    for x in range(0, 960, 96):
        canvas.ellipse(x + 48, 236, 54, 9, "#f4fbfa")
    canvas.rect(0, 238, 960, 122, "#f0dcae")
    for x, cover in ((330, "#e0524d"), (600, "#3f7fd0"), (860, "#f2b632")):
        canvas.line([(x, 290), (x, 214)], "#8a5a2b", 4)
        canvas.ellipse(x, 218, 50, 32, cover, 180, 360)
        canvas.ellipse(x, 218, 17, 32, "#ffffff", 180, 360)
    for x in (120, 740):
        canvas.line([(x, 284), (x + 10, 200), (x + 26, 120)], "#7d5530", 10)
        for dx, dy in ((-52, 14), (-40, -22), (14, -36), (56, -14), (50, 24)):
            canvas.line([(x + 26, 120), (x + 26 + dx * 0.6, 116 + dy), (x + 26 + dx, 124 + dy)], "#2f8f46", 8)


def space(canvas: Canvas) -> None:
    """Black sky with stars, a ringed planet and a cratered grey ground."""
    canvas.gradient(0, 360, "#05060f", "#141c3a")
    for index in range(160):
        canvas.circle((index * index * 61 + index * 17) % 960, (index * 83) % 280, 0.7 + (index % 3) * 0.5, "#e9ecf8")
    canvas.circle(300, 96, 40, "#c97b4a")
    canvas.ellipse(300, 90, 38, 12, "#dd9a68")
    canvas.line([(236, 118), (300, 104), (364, 76)], "#efd9a8", 4)
    canvas.circle(690, 74, 26, "#4b86c9")
    canvas.ellipse(684, 70, 12, 8, "#66b26a")
    canvas.polygon([(0, 290), (240, 276), (520, 292), (960, 272), (960, 360), (0, 360)], "#8b8e98")
    for x, y, radius in ((90, 322, 30), (340, 336, 44), (620, 318, 26), (830, 334, 38)):
        canvas.ellipse(x, y, radius, radius * 0.3, "#6d707a")
