"""Tests that the video tokens of SmolVLM match the text that its processor writes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
from transformers.models.smolvlm.video_processing_smolvlm import get_resize_output_image_size

from tests.support.properties import given, st
from tests.support.videos import counting_video
from tests.trainer_plugin.parity import VIDEO_ID, tiny_config, tiny_family
from trainer_plugin.data.video_decode import read_frames
from trainer_plugin.families.smolvlm import SmolVLM
from trainer_plugin.types import Grid, VideoSource

family = tiny_family("smolvlm")


class Letters:
    """Tokenizer with one token per character; no character maps to the video token."""

    def encode(self, text, add_special_tokens=False):
        return [ord(character) + 1000 for character in text]


@pytest.mark.parametrize(
    ("times", "duration"),
    [
        ([0], 1_999_999),
        ([0, 61_500_000, 3_725_900_000], 3_799_000_000),
        (range(0, 123_000_000, 1_000_000), 123_400_000),
        (range(0, 100_000_000_000, 80_000_000), 100_000_000_000),
    ],
)
def test_a_video_is_written_as_the_processor_writes_it(times, duration):
    grid = family.grid(32, 32, len(times))
    tokens = family.tokens_per_temporal_patch(grid)
    words = SimpleNamespace(
        image_seq_len=tokens,
        image_token="@",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
    )
    metadata = SimpleNamespace(fps=1.0, timestamps=[time / 1e6 for time in times], duration=duration / 1e6)
    inputs = {"pixel_values": np.zeros((1, len(times))), "video_metadata": [metadata]}
    expected = SmolVLMProcessor.replace_video_token(words, inputs, 0)
    found = family.video_ids(Letters(), grid, times, duration)
    assert "".join("@" if id == VIDEO_ID else chr(id - 1000) for id in found) == expected


@given(
    st.integers(2, 4096),
    st.integers(2, 4096),
    st.sampled_from(
        [
            ({}, 32),
            ({"size": {"longest_edge": 2048}, "video_sampling": {"video_size": {"longest_edge": 512}}}, 2048),
            ({"video_sampling": {"video_size": {"longest_edge": 512}}}, 512),
            ({"size": {"longest_edge": 8192}}, 8192),
        ]
    ),
)
def test_frames_are_as_large_as_the_processor_makes_them(height, width, given):
    processor, longest = given
    frames = torch.empty(1, 3, height, width, device="meta")
    found = SmolVLM(tiny_config("smolvlm"), processor).frame_size(height, width, 1)
    assert found == get_resize_output_image_size(frames, resolution_max_side=longest)


def test_frames_are_made_square_as_in_the_processor():
    assert SmolVLM(tiny_config("smolvlm"), {"max_image_size": {"longest_edge": 16}}).grid(9, 9, 3) == Grid(3, 4, 4)


def test_frames_that_are_made_square_where_they_are_decoded_give_the_same_pixels(tmp_path):
    film = VideoSource("film", str(counting_video(tmp_path / "film.mp4", seconds=1)))
    large = SmolVLM(tiny_config("smolvlm"), {"size": {"longest_edge": 256}})
    request = film, [0, 500_000], large.frame_size(64, 160, 2), large.resample
    square = torch.from_numpy(read_frames(*request, large.square))
    assert square.shape == (2, 32, 32, 3)
    assert torch.equal(large.patches(square), large.patches(torch.from_numpy(read_frames(*request))))


def test_positions_are_one_row():
    assert family.positions(np.arange(5), ()).tolist() == [[0, 1, 2, 3, 4]]
