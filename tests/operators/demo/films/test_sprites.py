"""Every object and scene that a script may name can be drawn."""

from typing import get_args

import numpy as np
import pytest

from operators.demo.films.canvas import OBJECT_COLOURS, Canvas, bgr
from operators.demo.films.scenes import PAINTERS, SCENE_WIDTH, background
from operators.demo.films.script import FRAME_HEIGHT, Colour, ObjectKind, PixelBox, Scene
from operators.demo.films.sprites import DRAWINGS, paste, sprite


def test_every_name_that_a_script_may_use_is_drawn_somewhere():
    assert sorted(DRAWINGS) == sorted(get_args(ObjectKind))
    assert sorted(PAINTERS) == sorted(get_args(Scene))
    assert sorted(OBJECT_COLOURS) == sorted(get_args(Colour))


@pytest.mark.parametrize("kind", get_args(ObjectKind))
def test_a_sprite_shows_its_colour_and_has_no_empty_border(kind):
    drawn = sprite(kind, "purple", 1.0, facing_left=False)
    for picture in drawn.pictures:
        assert picture.shape == (drawn.height, drawn.width, 4)
        assert (picture[:, :, :3] <= picture[:, :, 3:]).all(), "premultiplied"
        painted = np.abs(picture[:, :, :3].astype(int) - bgr(OBJECT_COLOURS["purple"])).max(axis=2) < 12
        assert painted.sum() > 40
    inked = np.maximum(*(picture[:, :, 3] for picture in drawn.pictures)) > 0
    assert inked[0].any() and inked[-1].any() and inked[:, 0].any() and inked[:, -1].any()


@pytest.mark.parametrize("scene", get_args(Scene))
def test_a_scene_covers_its_whole_canvas_and_darkens_at_night(scene):
    canvas = Canvas(SCENE_WIDTH, FRAME_HEIGHT)
    PAINTERS[scene](canvas)
    assert (canvas.finish()[:, :, 3] == 255).all()
    assert background(scene, "night").mean() < background(scene, "day").mean()


def test_scenes_differ_in_colour():
    pictures = [background(scene, "day").mean(axis=(0, 1)) for scene in get_args(Scene)]
    distances = [np.abs(one - other).max() for i, one in enumerate(pictures) for other in pictures[:i]]
    assert min(distances) > 3


def test_pasting_blends_and_cuts_off_at_the_frame():
    frame = np.full((10, 10, 3), 100, np.uint8)
    half_white = np.full((4, 4, 4), 128, np.uint8)
    paste(frame, half_white, PixelBox(8, -2, 12, 2))
    assert (frame[:2, 8:] == 178).all()
    frame[:2, 8:] = 100
    assert (frame == 100).all()
    paste(frame, half_white, PixelBox(20, 0, 24, 4))
    assert (frame == 100).all()
