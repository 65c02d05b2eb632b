"""Videos of known colours."""

from pathlib import Path

from tests.support.videos import make

COLOURS = [
    (220, 40, 40),
    (40, 200, 60),
    (50, 60, 220),
    (230, 220, 40),
    (200, 60, 200),
    (128, 128, 128),
    (255, 255, 255),
]
PATCH = 32
"""Width of a colour's patch in pixels."""

HDR_BANDS = (
    "nullsrc=s=320x96:d=0.2:r=10,format=yuv420p10,"
    "geq=lum='64+640*X/W':cb='512+X/W*if(gt(Y,32),if(gt(Y,64),-50,45),0)':cr='512+X/W*if(gt(Y,32),if(gt(Y,64),35,-35),0)'"
    ",setparams=colorspace=bt2020nc:color_primaries=bt2020:range=tv:color_trc="
)
"""A brightness ramp from black at the left, in three bands: grey, blue and orange.

Blue and orange become more saturated to the right. The name of a transfer function completes the filter graph.
"""


def painted(target: Path, filters: str, patch: int = PATCH, seconds: float = 0.1) -> Path:
    """Write a video of coloured patches side by side, painted in RGB and converted to YUV by these filters."""
    inputs = [f"color=0x{r:02x}{g:02x}{b:02x}:s={patch}x32:d={seconds}:r=10" for r, g, b in COLOURS]
    graph = "".join(f"{colour}[c{i}];" for i, colour in enumerate(inputs))
    graph += "".join(f"[c{i}]" for i in range(len(COLOURS))) + f"hstack=inputs={len(COLOURS)},format=gbrp,{filters}"
    return make(target, "-filter_complex", graph, "-preset", "ultrafast", "-c:v", "libx264", "-qp", "4")
