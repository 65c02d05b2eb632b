from itertools import pairwise

import pytest
import torch

from tests.trainer_plugin.ops.test_attention_kernels import dense, errors, rows
from tests.trainer_plugin.ops.test_log_probs import GPU
from tests.trainer_plugin.parity import tiny_model
from trainer_plugin.ops.vision_attention import VISION_ATTENTION, register, varlen_attention
from trainer_plugin.types import Block


@pytest.mark.parametrize("lengths", [[4, 4, 4], [3, 5, 5, 1], [7]])
def test_segments_are_separate(lengths):
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    query, key, value = (t.detach().transpose(0, 1)[None] for t in rows(sum(lengths), sum(lengths), (3, 3))[:3])
    options = {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": 9, "max_length_k": 9}
    out, weights = varlen_attention(None, query, key, value, None, scaling=0.3, is_causal=False, **options)
    blocks = [Block(span, span, causal=False) for span in pairwise(borders.tolist())]
    torch.testing.assert_close(out[0], dense(*(t[0].transpose(0, 1) for t in (query, key, value)), blocks))
    assert weights is None


def test_batch_rows_are_separate_and_padding_is_not_attended_to():
    query, key, value = (torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]])
    out, _ = varlen_attention(None, query, key, value, mask, scaling=0.3)
    scores = (query @ key.mT * 0.3).masked_fill(~mask[:, None, None], float("-inf"))
    torch.testing.assert_close(out, (scores.softmax(-1) @ value).transpose(1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"is_causal": True}, "no causal attention"),
        ({"dropout": 0.1}, r"no dropout \(0.1\)"),
        ({"attention_mask": torch.zeros(1, 1, 4, 4)}, r"torch.float32 \(1, 1, 4, 4\); only \[B, S\] bool"),
        ({"attention_mask": torch.ones(1, 4, dtype=torch.bool), "cu_seq_lens_q": torch.tensor([0, 4])}, "no mask"),
    ],
)
def test_unsupported_options_are_refused(options, message):
    options = {"attention_mask": None, **options, "cu_seq_lens_k": options.get("cu_seq_lens_q")}
    with pytest.raises(ValueError, match=message):
        varlen_attention(None, *torch.randn(3, 1, 2, 4, 8), **options)


def test_a_qwen_tower_encodes_several_frames_as_with_sdpa():
    register()
    model, grid = tiny_model("qwen3_vl"), torch.tensor([[3, 4, 6]])
    patches = torch.randn(3 * 4 * 6, 3 * 2 * 16 * 16)
    found = {}
    for name in ("sdpa", VISION_ATTENTION):
        model.set_attn_implementation({"vision_config": name})
        found[name] = model.model.visual(patches, grid_thw=grid).pooler_output
    torch.testing.assert_close(found[VISION_ATTENTION], found["sdpa"])


def test_padding_reaches_the_attention_of_a_smolvlm_tower():
    register()
    model = tiny_model("smolvlm")
    tower = model.model.vision_model
    images, mask = torch.randn(2, 3, 32, 32), torch.ones(2, 8, 8, dtype=torch.bool)
    mask[1, 4:] = False
    found = {}
    for name in ("sdpa", VISION_ATTENTION):
        model.set_attn_implementation({"vision_config": name})
        found[name] = tower(images, patch_attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found[VISION_ATTENTION], found["sdpa"])
    whole = tower(images).last_hidden_state
    assert not torch.allclose(whole[1], found["sdpa"][1])


class TestOnGpu:
    """Compare attention in bfloat16 with a dense softmax in float64."""

    pytestmark = GPU

    @pytest.mark.parametrize("dim", [64, 72, 80])
    def test_segments_are_one_call(self, dim):
        borders = torch.tensor([0, 300, 600, 750], device="cuda", dtype=torch.int32)
        *tensors, grad = rows(750, 750, (4, 4), dim, torch.bfloat16, "cuda")
        options = {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": 300, "max_length_k": 300}
        heads_first = (tensor.transpose(0, 1)[None] for tensor in tensors)
        out = varlen_attention(None, *heads_first, None, scaling=dim**-0.5, **options)[0][0]
        blocks = [Block(span, span, causal=False) for span in pairwise(borders.tolist())]
        assert max(errors(out, tensors, blocks, grad, dim**-0.5)) < 1e-2
