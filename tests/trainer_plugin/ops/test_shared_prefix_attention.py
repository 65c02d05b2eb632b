"""Decoded tokens attend to their prompt and their own tokens: against softmax in float64, and on a GPU the kernels."""

import pytest
import torch

from tests.support.properties import given, settings, st
from tests.trainer_plugin.ops.test_decode_kernels import GPU, randn
from trainer_plugin.ops.shared_prefix_attention import SharedKeys, shared_prefix_attention


def attend_each(q: torch.Tensor, keys: SharedKeys, scale: float) -> torch.Tensor:
    """One softmax for each slot and head, in float64."""
    slots, heads, _ = q.shape
    group = slots // keys.prompt.shape[1]
    per_kv = heads // keys.prompt.shape[2]
    out = torch.zeros_like(q, dtype=torch.float64, device="cpu")
    for slot in range(slots):
        for head in range(heads):
            region, kv_head = slot // group, head // per_kv
            prompt = keys.prompt[:, region, kv_head, : int(keys.prompt_lengths[region])]
            own = keys.own[:, slot, kv_head, : int(keys.own_lengths[slot])]
            k, v = torch.cat([prompt, own], dim=1).cpu().double()
            if len(k):
                weights = (k @ q[slot, head].cpu().double() * scale).softmax(0)
                out[slot, head] = weights @ v
    return out


def make(regions: int, group: int, heads: tuple[int, int], d: int, room: int, own_room: int, seed: int) -> tuple:
    q = randn(regions * group, heads[0], d, seed=seed)
    random = torch.Generator().manual_seed(seed)
    keys = SharedKeys(
        randn(2, regions, heads[1], room, d, seed=seed + 1),
        torch.randint(0, room + 1, (regions,), generator=random, dtype=torch.int32),
        randn(2, regions * group, heads[1], own_room, d, seed=seed + 2),
        torch.randint(0, own_room + 1, (regions * group,), generator=random, dtype=torch.int32),
    )
    for each, lengths in ((keys.prompt, keys.prompt_lengths), (keys.own, keys.own_lengths)):
        for number, length in enumerate(lengths):
            each[:, number, :, int(length) :] = torch.nan  # never written
    return q, keys


def to(keys: SharedKeys, device: str, dtype: torch.dtype) -> SharedKeys:
    return SharedKeys(
        keys.prompt.to(device, dtype),
        keys.prompt_lengths.to(device),
        keys.own.to(device, dtype),
        keys.own_lengths.to(device),
    )


@settings(deadline=None)
@given(
    regions=st.integers(1, 3),
    group=st.integers(1, 3),
    kv_heads=st.integers(1, 2),
    per_head=st.integers(1, 3),
    room=st.integers(1, 9),
    own_room=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_it_is_a_softmax_over_prompt_and_own_tokens(regions, group, kv_heads, per_head, room, own_room, seed):
    q, keys = make(regions, group, (kv_heads * per_head, kv_heads), 4, room, own_room, seed)
    torch.testing.assert_close(
        shared_prefix_attention(q, keys, 0.5).double(), attend_each(q, keys, 0.5), rtol=1e-5, atol=1e-6
    )


def test_a_slot_without_tokens_gets_zeros():
    q, keys = make(1, 2, (2, 1), 4, 3, 2, 0)
    keys.own[:, 1, :, 0] = 0.5
    keys.prompt_lengths.zero_()
    keys.own_lengths.copy_(torch.tensor([0, 1]))
    found = shared_prefix_attention(q, keys, 0.5)
    assert not found[0].any()
    torch.testing.assert_close(found[1], keys.own[1, 1, :, 0].expand(2, -1))


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-6), (torch.bfloat16, 5e-3)], ids=str)
@pytest.mark.parametrize(
    ("regions", "group", "heads", "d", "room", "own_room"),
    [
        (1, 8, (28, 4), 128, 5000, 700),
        (3, 5, (4, 2), 64, 300, 40),
        (1, 32, (32, 8), 128, 2000, 2100),
        (2, 1, (7, 1), 128, 65, 1),
        (1, 40, (28, 4), 128, 700, 33),
    ],
)
def test_the_kernels_agree_with_plain_attention(device, dtype, limit, regions, group, heads, d, room, own_room):
    q, keys = make(regions, group, heads, d, room, own_room, 3)
    on_device = to(keys, device, dtype)
    found = shared_prefix_attention(q.to(device, dtype), on_device, d**-0.5).cpu().double()
    exact = shared_prefix_attention(q.to(dtype).double(), to(on_device, "cpu", torch.float64), d**-0.5)
    assert ((found - exact).norm() / exact.norm()) < limit
    assert found.isfinite().all()
