"""Face detection in a real portrait, and no detections where there is no face.

astronaut.jpg: Eileen Collins, NASA portrait S93-33446 as distributed with scikit-image, public domain, reduced.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from operators.vision.faces import FaceDetector
from operators.vision.ocr import overlap
from schemas.base import Box

FACE = Box(x0=0.36, y0=0.13, x1=0.52, y1=0.35)
"""The face in the portrait, from hairline to chin, measured by hand in fractions of width and height."""


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return cv2.imread(str(Path(__file__).with_name("astronaut.jpg")))[:, :, ::-1].copy()


def test_finds_the_face_of_a_portrait(detector, portrait):
    (face,) = detector.detect(portrait, 1_500_000)
    assert (face.label, face.time_us) == ("face", 1_500_000)
    assert overlap(face.box, FACE) > 0.7


def test_places_are_fractions_of_the_frame_whatever_its_size_and_shape(detector, portrait):
    wide = np.zeros((360, 640, 3), np.uint8)
    wide[52:308, 300:556] = portrait
    (face,) = detector.detect(wide, 0)
    there = Box(
        x0=(300 + 256 * FACE.x0) / 640,
        y0=(52 + 256 * FACE.y0) / 360,
        x1=(300 + 256 * FACE.x1) / 640,
        y1=(52 + 256 * FACE.y1) / 360,
    )
    assert overlap(face.box, there) > 0.6


def test_finds_each_of_two_faces_once(detector, portrait):
    faces = detector.detect(np.hstack([portrait, portrait]), 0)
    assert sorted(round(face.box.x0 + face.box.x1, 1) for face in faces) == [0.4, 1.4]


def test_a_drawn_figure_is_no_face(detector):
    drawing = np.full((360, 640, 3), (120, 190, 240), np.uint8)
    cv2.circle(drawing, (320, 150), 60, (250, 210, 170), -1)
    cv2.circle(drawing, (300, 140), 6, (20, 20, 20), -1)
    cv2.circle(drawing, (340, 140), 6, (20, 20, 20), -1)
    cv2.rectangle(drawing, (270, 210), (370, 350), (200, 40, 40), -1)
    assert detector.detect(drawing, 0) == ()


def test_noise_and_plain_surfaces_have_no_faces(detector):
    noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    assert detector.detect(noise, 0) == ()
    assert detector.detect(np.full((64, 2000, 3), 180, np.uint8), 0) == ()
