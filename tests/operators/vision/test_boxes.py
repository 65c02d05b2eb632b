"""Boxes are read in the convention that was requested, never guessed from their values."""

import pytest

from operators.vision.boxes import box_convention, read_box
from schemas.config import BoxFormat
from schemas.tables import BoxConvention


@pytest.mark.parametrize(
    ("model", "format", "convention"),
    [
        ("Qwen/Qwen2.5-VL-72B-Instruct-AWQ", "auto", "pixels"),
        ("Qwen3-VL-30B-A3B-Instruct", "auto", "thousandths"),
        ("qwen3_vl_8b", "auto", "thousandths"),
        ("OpenGVLab/InternVL3-8B", "auto", "fractions"),
        ("Qwen3-VL-8B", "pixels", "pixels"),
        ("my-finetune", "thousandths", "thousandths"),
    ],
)
def test_the_convention_is_the_familys_unless_configured(model, format, convention):
    assert box_convention(model, BoxFormat(format)) == convention


def test_pixels_of_pictures_of_unknown_size_are_not_requested():
    assert box_convention("qwen2.5-vl-7b", BoxFormat.AUTO, is_size_known=False) == "fractions"
    assert box_convention("qwen3-vl-8b", BoxFormat.AUTO, is_size_known=False) == "thousandths"


@pytest.mark.parametrize(
    ("convention", "corners"),
    [
        (BoxConvention.PIXELS, (112, 63, 336, 126)),
        (BoxConvention.THOUSANDTHS, (250, 250, 750, 500)),
        (BoxConvention.FRACTIONS, (0.25, 0.25, 0.75, 0.5)),
    ],
)
def test_one_box_in_each_convention(convention, corners):
    box = read_box(corners, convention, 448, 252)
    assert box and (box.x0, box.y0, box.x1, box.y1) == (0.25, 0.25, 0.75, 0.5)


@pytest.mark.parametrize(
    ("convention", "corners"),
    [
        (BoxConvention.FRACTIONS, (100, 100, 240, 200)),
        (BoxConvention.PIXELS, (100, 100, 900, 200)),
        (BoxConvention.THOUSANDTHS, (100, 100, 1200, 200)),
        (BoxConvention.THOUSANDTHS, (0.25, 0.25, float("nan"), 0.5)),
        (BoxConvention.FRACTIONS, (0.5, 0.5, 0.4, 0.6)),
        (BoxConvention.FRACTIONS, (1.0, 0.1, 1.01, 0.2)),
        (BoxConvention.FRACTIONS, (0.1, 0.1, float("inf"), 0.2)),
        (BoxConvention.FRACTIONS, (0.1, 0.1, 0.2)),
        (BoxConvention.FRACTIONS, ()),
    ],
)
def test_a_box_that_is_not_in_the_picture_is_none(convention, corners):
    assert read_box(corners, convention, 448, 252) is None


def test_an_edge_just_outside_is_moved_to_the_border():
    box = read_box((-5, 0, 1010, 500), BoxConvention.THOUSANDTHS, 448, 252)
    assert box and (box.x0, box.x1) == (0.0, 1.0)
