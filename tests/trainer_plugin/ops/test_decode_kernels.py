"""The operations of a token step: against plain formulas in float64, and on a GPU the Triton kernels."""

import pytest
import torch
from torch.nn.functional import silu

from tests.support.properties import given, settings, st
from trainer_plugin.ops.decode_kernels import add_rms_norm, gated, rotate_and_store

GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU")])
DTYPES = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.fixture(params=["cpu", GPU])
def device(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = (found.cpu().double() - expected).norm() / expected.norm()
    assert error < DTYPES[found.dtype]


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("width", [64, 3584])
def test_the_norm_is_that_of_the_sum(device, dtype, width, adds):
    hidden, other, weight = (
        each.to(device, dtype) for each in (randn(5, width), randn(5, width, seed=1), randn(width))
    )
    total, normed = add_rms_norm(hidden, weight, 1e-5, other if adds else None)
    exact = hidden.cpu().double() + (other.cpu().double() if adds else 0)
    assert_near(total, exact)
    root = (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert_near(normed, exact / root * weight.cpu().double())


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(4, 2, 16), (28, 4, 128), (3, 3, 64)])
def test_queries_are_rotated_and_keys_are_stored_at_their_place(device, dtype, heads, kv_heads, d, norms):
    slots, room = 3, 6
    projected = randn(slots, (heads + 2 * kv_heads) * d).to(device, dtype)
    angles = randn(slots, d // 2, seed=1) * 10
    cos, sin = (torch.cat([each, each], dim=1).to(device, dtype) for each in (angles.cos(), angles.sin()))
    weights = (randn(d, seed=2).to(device, dtype), randn(d, seed=3).to(device, dtype)) if norms else None
    before = randn(2, slots, kv_heads, room, d, seed=4).to(device, dtype)
    own, lengths = before.clone(), torch.tensor([1, 0, room], dtype=torch.int32, device=device)
    q = rotate_and_store(projected, heads, weights, 1e-5, cos, sin, own, lengths)
    exact = projected.cpu().double().unflatten(1, (-1, d))
    queries, keys, values = exact.split([heads, kv_heads, kv_heads], dim=1)
    if weights is not None:
        queries, keys = (
            rows / (rows.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.cpu().double()
            for rows, weight in zip((queries, keys), weights, strict=True)
        )
    turn = torch.complex(cos.cpu().double()[:, None, : d // 2], sin.cpu().double()[:, None, : d // 2])
    rotated = [torch.complex(*rows.unflatten(-1, (2, -1)).unbind(-2)) * turn for rows in (queries, keys)]
    queries, keys = (torch.cat([rows.real, rows.imag], dim=-1) for rows in rotated)
    assert_near(q, queries)
    for slot, place in ((0, 0), (2, room - 1)):
        assert_near(own[0, slot, :, place], keys[slot])
        assert_near(own[1, slot, :, place], values[slot])
        own[:, slot, :, place] = before[:, slot, :, place]
    assert torch.equal(own, before)  # nothing else was changed


@pytest.mark.parametrize("width", [96, 18944])
def test_the_gate_is_a_silu(device, dtype, width):
    gate_up = randn(3, 2 * width).to(device, dtype)
    gate, up = gate_up.cpu().double().chunk(2, dim=1)
    assert_near(gated(gate_up), silu(gate) * up)


@settings(deadline=None)
@given(slots=st.integers(1, 6), kv_heads=st.integers(1, 3), per_head=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_rotation_keeps_lengths(slots, kv_heads, per_head, seed):
    d, heads = 8, kv_heads * per_head
    projected = randn(slots, (heads + 2 * kv_heads) * d, seed=seed)
    angles = randn(slots, d // 2, seed=seed + 1)
    cos, sin = (torch.cat([each, each], dim=1) for each in (angles.cos(), angles.sin()))
    own = torch.zeros(2, slots, kv_heads, 1, d)
    q = rotate_and_store(projected, heads, None, 1e-5, cos, sin, own, torch.ones(slots, dtype=torch.int32))
    rows = projected.unflatten(1, (-1, d))
    torch.testing.assert_close(q.norm(dim=-1), rows[:, :heads].norm(dim=-1))
    torch.testing.assert_close(own[0, :, :, 0].norm(dim=-1), rows[:, heads : heads + kv_heads].norm(dim=-1))
    assert torch.equal(own[1, :, :, 0], rows[:, heads + kv_heads :])
