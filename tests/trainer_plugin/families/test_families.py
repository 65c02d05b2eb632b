"""Tests of `family_of` and of the contract that all families fulfil."""

import pytest
import torch
from transformers import Qwen2Config

from tests.trainer_plugin.parity import FAMILIES, tiny_config, tiny_family, tiny_model
from trainer_plugin.families import family_of
from trainer_plugin.families.base import Features


def test_an_unsupported_model_is_refused_with_what_is_missing():
    with pytest.raises(ValueError) as error:
        family_of(Qwen2Config())
    message = str(error.value)
    assert "model_type 'qwen2' is not supported (supported: qwen2_5_vl, qwen3_vl, smolvlm)" in message
    for part in ("encode", "positions", "video_ids", "run_language_model", "vision_layers", "FAMILIES"):
        assert part in message


@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_come_from_the_configuration(name):
    family = family_of(tiny_config(name))
    assert (family.vocab_size, family.video_token_id) == (200, 191)
    assert family.levels == (3 if name == "qwen3_vl" else 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_are_normalized_as_in_the_models_processor(name):
    published, frames = tiny_family(name), torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8)
    as_published = {"image_mean": list(published.mean), "image_std": list(published.std), "do_normalize": True}
    as_published |= {"rescale_factor": 0.00392156862745098, "resample": 1 if name == "smolvlm" else 3}
    assert vars(family_of(tiny_config(name), as_published)) == vars(family_of(tiny_config(name)))
    other = family_of(tiny_config(name), {"image_mean": [0.0, 0.25, 0.5], "image_std": 0.2})
    assert (other.mean, other.std) == ((0.0, 0.25, 0.5), (0.2, 0.2, 0.2))
    *size, _ = frames.shape[1:]
    frames = torch.zeros(published.temporal_patch, *published.frame_size(*size, published.temporal_patch), 3).byte()
    found = other.patches(frames).unique()
    torch.testing.assert_close(found, torch.tensor([-2.5, -1.25, 0.0]))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("number", "resample"), [(1, "lanczos"), (3, "bicubic"), (None, None)])
def test_frames_are_resampled_as_in_the_models_processor(name, number, resample):
    family = family_of(tiny_config(name), {"resample": number})
    assert family.resample == (resample or tiny_family(name).resample)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"do_normalize": False}, "do_normalize: False, but frames are always resized, rescaled and normalized here"),
        ({"do_rescale": False}, "do_rescale: False, but frames are always"),
        ({"do_resize": False}, "do_resize: False, but frames are always"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0, but only 1/255 is supported"),
        ({"resample": 2}, r"resample 2, but only 1 \(lanczos\) or 3 \(bicubic\) is supported"),
        ({"image_mean": [0.5]}, r"image_mean \[0.5\]; give one number for each of three colours"),
        ({"image_std": 0}, "image_std 0; give one number"),
    ],
)
def test_pixels_that_a_family_does_not_make_are_refused(name, processor, message):
    with pytest.raises(ValueError, match=message):
        family_of(tiny_config(name), processor)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tower_encodes_pieces_of_a_video_as_it_encodes_the_whole(name):
    """No temporal patch attends to another, so distributing frames over ranks is exact."""
    model, family = tiny_model(name), tiny_family(name)
    height, width = family.frame_size(64, 96, 6)
    frames = torch.randint(0, 256, (6, height, width, 3), dtype=torch.uint8)
    grid = family.grid(height, width, 6)
    step = family.temporal_patch
    with torch.no_grad():
        whole = family.encode(model, family.patches(frames), [grid])
        pieces = [
            family.encode(model, family.patches(part), [family.grid(height, width, len(part))])
            for part in (frames[:step], frames[step:])
        ]
    assert len(whole.levels) == family.levels
    assert len(whole.levels[0]) == grid.t * family.tokens_per_temporal_patch(grid)
    for level, parts in zip(whole.levels, zip(*(piece.levels for piece in pieces), strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), level, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_blank_is_one_temporal_patch_that_the_tower_takes(name):
    model, family = tiny_model(name), tiny_family(name)
    grid, frames = family.blank_frames()
    assert (grid.t, len(frames)) == (1, family.temporal_patch)
    features = family.encode(model, family.patches(frames), [grid])
    assert len(features.levels[0]) == family.tokens_per_temporal_patch(grid) > 0


def test_features_are_packed_and_unpacked():
    levels = tuple(torch.randn(5, 4) for _ in range(3))
    packed = Features(levels).packed()
    assert packed.shape == (5, 12)
    assert all(map(torch.equal, Features.unpacked(packed, 3).levels, levels))
    assert Features(levels[:1]).packed() is levels[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_towers_and_layers_are_the_models_own(name):
    model, family = tiny_model(name), tiny_family(name)
    tower = set(family.vision_tower(model).parameters())
    decoder = set(family.language_model(model).parameters())
    head = {model.get_output_embeddings().weight}
    assert tower | decoder | head == set(model.parameters())
    assert not tower & decoder
    assert all(set(layer.parameters()) <= tower for layer in family.vision_layers(model))
    assert all(set(layer.parameters()) <= decoder for layer in family.language_model(model).layers)
