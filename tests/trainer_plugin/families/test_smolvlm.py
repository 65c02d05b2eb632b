"""SmolVLM's videos read as its processor writes them."""

from types import SimpleNamespace

import numpy as np
import pytest
from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor

from tests.trainer_plugin.parity import VIDEO_ID, tiny_family

family = tiny_family("smolvlm")


class Letters:
    """One token per character; no video is in an alphabet."""

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


def test_positions_are_one_row():
    assert family.positions(np.arange(5), ()).tolist() == [[0, 1, 2, 3, 4]]
