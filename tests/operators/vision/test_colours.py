"""Colour names of images whose colours are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.vision.colours import MAX_COLOURS, dominant_colours


def plain(colour: str, height: int = 90, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), list(bytes.fromhex(colour)), np.uint8)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ("000000", "black"),
        ("0a0c14", "black"),
        ("fafafa", "white"),
        ("8a8f98", "grey"),
        ("d62f2f", "red"),
        ("f07c1b", "orange"),
        ("f5c518", "yellow"),
        ("2f9e44", "green"),
        ("00d0e0", "cyan"),
        ("2459c9", "blue"),
        ("87c5f0", "blue"),
        ("7b3fb5", "purple"),
        ("f08cb4", "pink"),
        ("7a4b26", "brown"),
        ("f2e3c0", "beige"),
    ],
)
def test_a_plain_picture_has_its_one_colour(colour, name):
    assert dominant_colours([plain(colour)]) == (name,)


def test_the_largest_area_comes_first_over_all_frames():
    blue_and_red = plain("2459c9")
    blue_and_red[:, :60] = (214, 47, 47)
    assert dominant_colours([blue_and_red]) == ("blue", "red")
    assert dominant_colours([blue_and_red, plain("d62f2f")]) == ("red", "blue")


def test_fine_stripes_do_not_mix_into_a_third_colour():
    striped = plain("ff0000")
    striped[:, ::2] = (0, 160, 0)
    assert set(dominant_colours([striped])) == {"red", "green"}


def test_details_are_not_dominant():
    dotted = plain("ffffff")
    dotted[:20, :20] = 0
    assert dominant_colours([dotted]) == ("white",)


def test_no_frames_is_an_error():
    with pytest.raises(ValueError, match="no frames"):
        dominant_colours([])


@given(st.integers(0, 2**32 - 1))
def test_any_picture_has_one_to_three_different_names(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
    names = dominant_colours([noise])
    assert 1 <= len(names) == len(set(names)) <= MAX_COLOURS
