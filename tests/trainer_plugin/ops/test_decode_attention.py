"""Attention of decoded responses is that of dense attention to the prompt and the response's own tokens.

How ranks divide prompts and heads is tested with whole models, in tests/trainer_plugin/rl/test_sampler.py.
"""

import pytest
import torch

from tests.trainer_plugin.ops.test_log_probs import GPU
from trainer_plugin.distributed.sequence_plan import Layout
from trainer_plugin.ops.decode_attention import DecodeKeys

LAYERS, HEADS, KV_HEADS, DIM = 2, 4, 2, 64
RANGES = [(0, 5), (5, 5), (6, 20)]
"""The second prompt has no keys, and one row of the packed prompts belongs to none."""
RESPONSES = [2, 1, 3]


def random_rows(*shape, dtype, device):
    return torch.randn(*shape, DIM).to(device, dtype)


def dense(q, keys, values, scale):
    """Attention of one query [hq, d] to keys and values [t, hkv, d], in float64."""
    q, keys, values = (tensor.double() for tensor in (q, keys, values))
    keys, values = (tensor.repeat_interleave(HEADS // KV_HEADS, 1) for tensor in (keys, values))
    return torch.einsum("ht,thd->hd", (torch.einsum("hd,thd->ht", q, keys) * scale).softmax(-1), values)


def largest_error(dtype, device, steps=40):
    """Largest error over all steps and layers. A third of the responses end at steps 3 and 20."""
    torch.manual_seed(0)
    prompts = [tuple(random_rows(20, KV_HEADS, dtype=dtype, device=device) for _ in range(2)) for _ in range(LAYERS)]
    keys = DecodeKeys(prompts, RANGES, RESPONSES, Layout(), 0, None)
    owners = [number for number, count in enumerate(RESPONSES) for _ in range(count)]
    own = [[([], []) for _ in owners] for _ in range(LAYERS)]
    rows, error = list(range(len(owners))), 0.0
    for step in range(steps):
        for layer in range(LAYERS):
            q = random_rows(len(rows), HEADS, dtype=dtype, device=device)
            k, v = (random_rows(len(rows), KV_HEADS, dtype=dtype, device=device) for _ in range(2))
            found = keys.attend(layer, q, k, v, 0.2)
            assert found.shape == q.shape and found.dtype == dtype
            for row, response in enumerate(rows):
                own[layer][response][0].append(k[row])
                own[layer][response][1].append(v[row])
                start, end = RANGES[owners[response]]
                whole = [
                    torch.cat([prompts[layer][part][start:end], torch.stack(own[layer][response][part])])
                    for part in range(2)
                ]
                error = max(error, float((found[row].double() - dense(q[row], *whole, 0.2)).abs().max()))
        if step in (3, 20):
            kept = [0, 2, 3, 5] if step == 3 else [1, 2]
            keys.keep(torch.tensor(kept))
            rows = [rows[index] for index in kept]
    return error


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_responses_attend_to_their_prompt_and_themselves(dtype, limit):
    assert largest_error(dtype, "cpu") < limit


def test_a_batch_without_responses_attends_to_nothing():
    q, k, v = torch.ones(1, HEADS, DIM), torch.ones(1, KV_HEADS, DIM), torch.ones(1, KV_HEADS, DIM)
    keys = DecodeKeys([(k, v)], [(0, 1)], [1], Layout(), 0, None)
    assert keys.attend(0, q, k, v, 1.0).any()
    keys.keep(torch.tensor([], dtype=torch.int64))
    assert not keys.attend(0, q, k, v, 1.0).any()


class TestOnGpu:
    pytestmark = GPU

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_responses_attend_to_their_prompt_and_themselves(self, dtype):
        assert largest_error(dtype, "cuda") < (0.03 if dtype == torch.bfloat16 else 1e-5)
