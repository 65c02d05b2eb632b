"""Every kernel matches a dense masked softmax in values and gradients, for any list of blocks.

On the CPU, plain kernels replace the fused ones and assert the restrictions of those, so that splitting, packing,
merging and summing are tested here. The tests marked gpu run the fused kernels themselves.
"""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.support.properties import HealthCheck, given, settings, st
from tests.trainer_plugin.ops.test_log_probs import GPU, Largest
from trainer_plugin.ops import attention_kernels as kernels
from trainer_plugin.ops.attention_kernels import Kernel, attend, attend_all, plan_calls
from trainer_plugin.types import Block

SEGMENTS = [Block((0, 3), (0, 3)), Block((3, 8), (3, 8)), Block((8, 9), (8, 9))]
CHUNKS = [Block((0, 4), (0, 4)), Block((4, 9), (2, 11)), Block((9, 10), (0, 12))]
MIXED = [Block((0, 5), (1, 7), causal=False), Block((5, 7), (7, 9)), Block((7, 8), (2, 9), causal=False)]


def rows(queries: int, keys: int, heads=(4, 2), dim=8, dtype=torch.float64, device="cpu", seed=0):
    """q, k and v that require gradients, and a gradient of the output; all [tokens, heads, dim]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(queries, heads[0]), (keys, heads[1]), (keys, heads[1]), (queries, heads[0])]
    tensors = [torch.randn(*shape, dim, generator=generator) for shape in shapes]
    q, k, v, grad = (tensor.to(device, dtype).requires_grad_() for tensor in tensors)
    return q, k, v, grad.detach()


def dense(q, k, v, blocks, scale=0.3):
    """Attention with a full score matrix, masked by the blocks; in float64 unless q is float32."""
    q, k, v = (tensor if tensor.dtype == torch.float32 else tensor.double() for tensor in (q, k, v))
    seen = torch.zeros(len(q), len(k), dtype=torch.bool, device=q.device)
    for block in blocks:
        part = torch.ones(block.queries, block.keys, dtype=torch.bool, device=q.device)
        seen[slice(*block.query), slice(*block.key)] = part.tril(block.keys - block.queries) if block.causal else part
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], 1) for tensor in (k, v))
    scores = (torch.einsum("qhd,khd->hqk", q, k) * scale).masked_fill(~seen, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def errors(found, tensors, blocks, grad, scale=0.3):
    """Relative errors in the norm of the output and of the gradients of q, k and v."""
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = dense(*exact, blocks, scale)
    pairs = [(found, expected)]
    grads = torch.autograd.grad(found, tensors, grad), torch.autograd.grad(expected, exact, grad.double())
    pairs += zip(*grads, strict=True)
    return [relative(ours.detach(), truth.detach()) for ours, truth in pairs]


def relative(found, expected):
    """Norm of the error relative to the norm of the expected tensor, or to 0.1 if that norm is smaller."""
    return float((found.double() - expected).norm() / expected.norm().clamp_min(0.1))


class FakeCudnn(kernels._Plain):
    """Stand-in for cuDNN: one segment per call, causal only if square.

    With fewer queries than keys, cuDNN would align the causal mask top-left.
    """

    @staticmethod
    def forward(q, k, v, call, scale):
        assert len(call.blocks) == 1
        assert not call.causal or len(q) == len(k)
        return kernels._Plain.forward(q, k, v, call, scale)


class FakeFlash2:
    """Stand-in for FlashAttention 2: packed segments with bottom-right aligned causal masks."""

    @staticmethod
    def forward(q, k, v, call, scale):
        parts = [kernels._Plain.forward(*part, call, scale) for part in _segments(call, [q], [k, v])]
        return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts], dim=1)

    @staticmethod
    def backward(grad, q, k, v, out, lse, call, scale):
        parts = [
            kernels._Plain.backward(grad, q, k, v, out, lse.T, call, scale)
            for grad, q, out, lse, k, v in _segments(call, [grad, q, out, lse.T], [k, v])
        ]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _segments(call, of_queries, of_keys):
    queries, keys = [block.queries for block in call.blocks], [block.keys for block in call.blocks]
    assert sum(queries) == len(of_queries[0])
    assert sum(keys) == len(of_keys[0])
    return zip(*(t.split(queries) for t in of_queries), *(t.split(keys) for t in of_keys), strict=True)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Restore the chunk size, which property tests change."""
    monkeypatch.setattr(kernels, "CHUNK_BYTES", kernels.CHUNK_BYTES)


@pytest.fixture
def fakes(monkeypatch):
    """Replace the fused kernels by stand-ins; segments of four rows or more count as long."""
    monkeypatch.setattr(kernels, "KERNELS", {**kernels.KERNELS, Kernel.CUDNN: FakeCudnn, Kernel.FLASH2: FakeFlash2})
    monkeypatch.setattr(kernels, "CUDNN_MIN_ROWS", 4)
    monkeypatch.setattr(kernels, "resolve", lambda kernel, q: kernel)


@st.composite
def block_lists(draw):
    """Blocks that cover all query rows, and the number of key rows.

    They include segments, chunks with a prefix, shared keys and gaps, and blocks that add keys to covered rows.
    """
    queries = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    starts = [sum(queries[:number]) for number in range(len(queries))]
    blocks = []
    for start, count in zip(starts, queries, strict=True):
        causal = draw(st.booleans())
        keys = draw(st.integers(count if causal else 1, 12))
        begin = draw(st.integers(0, 12 - keys + 8))
        blocks.append(Block((start, start + count), (begin, begin + keys), causal))
    keys = max(block.key[1] for block in blocks)
    for _ in range(draw(st.integers(0, 2))):
        first = draw(st.integers(0, len(queries) - 1))
        query = (blocks[first].query[0], blocks[draw(st.integers(first, len(queries) - 1))].query[1])
        count = draw(st.integers(1, 5))
        blocks.append(Block(query, (keys, keys + count), causal=False))
        keys += count
    return blocks, keys + draw(st.integers(0, 2))


@pytest.mark.parametrize("kernel", [Kernel.PLAIN, Kernel.CUDNN, Kernel.FLASH2, Kernel.AUTO])
@given(case=block_lists(), heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]), chunk=st.sampled_from([1, 300, 64 << 20]))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_blocks_give_what_a_masked_softmax_gives(fakes, kernel, case, heads, chunk):
    blocks, keys = case
    kernels.CHUNK_BYTES = chunk
    *tensors, grad = rows(max(block.query[1] for block in blocks), keys, heads)
    assert max(errors(attend(*tensors, blocks, 0.3, kernel), tensors, blocks, grad)) < 1e-12


@pytest.mark.parametrize("kernel", [Kernel.PLAIN, Kernel.CUDNN, Kernel.FLASH2, Kernel.AUTO])
@pytest.mark.parametrize("shape", [(3, 7), (1, 9), (8, 1)])
def test_attention_to_all_keys_comes_with_its_log_sum_exp(fakes, kernel, shape):
    q, k, v, _ = (tensor.detach() for tensor in rows(*shape))
    out, lse = attend_all(q, k, v, 0.3, kernel)
    expected = dense(q, k, v, [Block((0, shape[0]), (0, shape[1]), causal=False)])
    assert relative(out, expected) < 1e-12
    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, 1)) * 0.3
    torch.testing.assert_close(lse, scores.logsumexp(-1))


@pytest.mark.parametrize("shape", [(3, 0), (0, 5)])
def test_attention_without_keys_or_queries_runs_no_kernel(shape):
    q, k, v, _ = (tensor.detach().bfloat16() for tensor in rows(*shape))
    out, lse = attend_all(q, k, v, 0.3)
    assert out.shape == q.shape and out.dtype == q.dtype and not out.any()
    assert lse.shape == (4, shape[0]) and lse.dtype == torch.float32 and bool((lse == float("-inf")).all())


@pytest.mark.parametrize("blocks", [SEGMENTS, CHUNKS, MIXED], ids=["segments", "chunks", "mixed"])
@pytest.mark.parametrize("kernel", [Kernel.PLAIN, Kernel.AUTO])
def test_gradients_are_the_derivatives(fakes, kernel, blocks):
    *tensors, _ = rows(blocks[-1].query[1], 12, dim=2)
    # Checked along random directions; the test above compares every entry.
    assert torch.autograd.gradcheck(lambda *qkv: attend(*qkv, blocks, 0.3, kernel), tensors, fast_mode=True)


def test_no_query_rows_give_no_output_and_zero_gradients():
    *tensors, grad = rows(0, 5)
    out = attend(*tensors, [], 0.3)
    assert out.shape == (0, 4, 8)
    assert not any(part.any() for part in torch.autograd.grad(out, tensors, grad))


def test_keys_that_no_block_names_get_zero_gradients():
    *tensors, grad = rows(3, 9)
    _, dk, dv = torch.autograd.grad(attend(*tensors, [Block((0, 3), (4, 7))], 0.3), tensors, grad)
    for part in (dk, dv):
        assert not part[:4].any()
        assert not part[7:].any()
        assert part[4:7].any()


class TestCalls:
    """Tests of which kernel runs each block; segments of 4096 rows or more count as long."""

    def test_short_neighbours_are_one_call_and_a_long_segment_is_its_own(self):
        blocks = (Block((0, 50), (0, 50)), Block((50, 90), (60, 100)), Block((90, 9090), (100, 9100)))
        calls = plan_calls(blocks, Kernel.AUTO, 9090, 9100)
        assert [(call.kernel, call.blocks) for call in calls] == [
            (Kernel.FLASH2, blocks[:2]),
            (Kernel.CUDNN, blocks[2:]),
        ]
        assert calls[0].key_ranges == ((0, 50), (60, 100))

    def test_segments_side_by_side_are_packed_without_a_copy(self):
        (call,) = plan_calls((Block((0, 50), (7, 57)), Block((50, 90), (57, 97))), Kernel.AUTO, 90, 97)
        assert call.key_ranges == ((7, 97),)

    def test_a_long_chunk_is_its_own_square_and_its_prefix(self):
        calls = plan_calls((Block((0, 5000), (10, 25010)),), Kernel.AUTO, 5000, 25010)
        assert [(call.kernel, call.blocks[0], call.merges) for call in calls] == [
            (Kernel.CUDNN, Block((0, 5000), (20010, 25010)), False),
            (Kernel.CUDNN, Block((0, 5000), (10, 20010), causal=False), True),
        ]

    def test_a_prompt_that_responses_share_is_one_call(self):
        own = (Block((0, 9000), (0, 9000)), Block((9000, 9300), (9000, 9300)), Block((9300, 13100), (9300, 13100)))
        shared = Block((9000, 13100), (0, 9000), causal=False)
        calls = plan_calls((*own, shared), Kernel.AUTO, 13100, 13100)
        assert [(call.kernel, call.blocks, call.merges) for call in calls] == [
            (Kernel.CUDNN, own[:1], False),
            (Kernel.FLASH2, own[1:], False),
            (Kernel.CUDNN, (shared,), True),
        ]

    def test_a_short_prefix_is_left_to_flash2(self):
        calls = plan_calls((Block((0, 5000), (0, 5100)),), Kernel.AUTO, 5000, 5100)
        assert [call.kernel for call in calls] == [Kernel.CUDNN, Kernel.FLASH2]

    def test_few_queries_on_many_keys_are_one_bottom_right_call(self):
        (call,) = plan_calls((Block((0, 100), (0, 90000)),), Kernel.AUTO, 100, 90000)
        assert call.kernel is Kernel.FLASH2

    def test_a_single_query_row_does_not_select_flash2s_decoding_path(self):
        (call,) = plan_calls((Block((0, 1), (0, 4)),), Kernel.FLASH2, 1, 4)
        *_, longest_query, longest_key = kernels._Flash2._lengths(call, torch.device("cpu"))
        assert (longest_query, longest_key) == (2, 4)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([Block((0, 3), (0, 3))], "cover 0 to 5 in order and once"),
        ([Block((0, 3), (0, 3)), Block((2, 5), (3, 6))], "cover 0 to 5 in order and once"),
        ([Block((3, 5), (0, 3)), Block((0, 3), (3, 6))], "cover 0 to 5 in order and once"),
        (
            [Block((0, 5), (0, 5)), Block((4, 6), (5, 6), causal=False)],
            "before further blocks add keys to covered rows",
        ),
        ([Block((0, 5), (2, 8))], "there are 6 key rows"),
        ([Block((0, 5), (-1, 6))], "there are 6 key rows"),
    ],
)
def test_blocks_that_do_not_fit_are_named(blocks, message):
    *tensors, _ = rows(5, 6)
    with pytest.raises(ValueError, match=message):
        attend(*tensors, blocks, 0.3)


def test_a_block_needs_rows_and_a_causal_one_enough_keys():
    with pytest.raises(ValueError, match="at least one query row"):
        Block((3, 3), (0, 3))
    with pytest.raises(ValueError, match="4 causal query rows need as many key rows, not 3"):
        Block((0, 4), (0, 3))


@pytest.mark.parametrize("kernel", [Kernel.CUDNN, Kernel.FLASH2])
def test_a_fused_kernel_on_the_cpu_is_refused_with_a_way_out(kernel):
    *tensors, _ = rows(5, 5)
    with pytest.raises(ValueError, match=f"kernel {kernel}: not for torch.float64 on cpu.*use auto or plain"):
        attend(*tensors, [Block((0, 5), (0, 5))], 0.3, kernel)


@pytest.mark.parametrize("kernel", [Kernel.CUDNN, Kernel.FLASH2])
def test_the_ops_take_our_arguments(kernel):
    """On meta tensors, the installed torch checks arguments and returns shapes without computing anything."""
    q, k, v, grad = (t.detach().to("meta") for t in rows(90, 120, (28, 4), 128, torch.bfloat16))
    calls = plan_calls((Block((0, 90), (30, 120)),), kernel, 90, 120)
    out, lse = kernels._forward(q, k, v, calls, 0.1)
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, (28, 90), torch.float32)
    dq, dk, dv = kernels._backward(grad, q, k, v, out, lse, calls, 0.1)
    assert (dq.shape, dk.shape, dv.shape) == (q.shape, k.shape, v.shape)
    assert {dq.dtype, dk.dtype, dv.dtype} == {torch.bfloat16}


def test_gradients_of_keys_that_many_blocks_share_are_summed_in_float32(fakes):
    blocks = [Block((row, row + 1), (0, 4), causal=False) for row in range(400)]
    *tensors, grad = rows(400, 4, dtype=torch.bfloat16)
    found = attend(*tensors, blocks, 0.3, Kernel.CUDNN)
    # 400 additions in bfloat16 would have an error of several percent.
    assert max(errors(found, tensors, blocks, grad)) < 6e-3


def test_a_prefix_that_holds_all_the_weight_is_merged_without_overflow(fakes):
    q, k, v, _ = rows(4, 9)
    with torch.no_grad():
        q[:], k[:5], k[5:] = 10.0, 10.0, -10.0
    blocks = [Block((0, 4), (0, 9))]
    out = attend(q, k, v, blocks, 1.0, Kernel.CUDNN)
    torch.testing.assert_close(out, dense(q, k, v, blocks, 1.0))


def test_plain_never_holds_the_whole_matrix(monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK_BYTES", 4 * 4 * 200 * 10)
    *tensors, grad = rows(200, 200, dtype=torch.float32)
    with Largest() as largest:
        torch.autograd.grad(attend(*tensors, [Block((0, 200), (0, 200))], 0.3), tensors, grad)
    assert largest.elements <= 4 * 200 * 10


class OneStash:
    def __init__(self):
        self.kept = None

    def take(self):
        kept, self.kept = self.kept, None
        return kept

    def put(self, out, lse):
        assert out.grad_fn is None, "the stash would keep the graph alive"
        self.kept = out, lse


@pytest.mark.parametrize("kernel", [Kernel.PLAIN, Kernel.AUTO])
def test_a_stash_saves_the_kernels_in_the_recomputation_and_changes_no_bit(fakes, monkeypatch, kernel):
    runs = []
    forward = kernels._forward
    monkeypatch.setattr(kernels, "_forward", lambda *args: runs.append(1) or forward(*args))

    def gradients(stash, again):
        *tensors, grad = rows(10, 12, dtype=torch.float32)

        def layer(q, k, v):
            return attend(q * 1.5, k.sin(), v * 2, CHUNKS, 0.3, kernel, stash).cos()

        out = checkpoint(layer, *tensors, use_reentrant=False) if again else layer(*tensors)
        return [out, *torch.autograd.grad(out, tensors, grad)]

    once = gradients(None, again=False)
    recomputed, count = gradients(None, again=True), len(runs)
    stashed = gradients(OneStash(), again=True)
    assert (count, len(runs)) == (3, 4)
    for results in zip(once, recomputed, stashed, strict=True):
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


class TestOnGpu:
    """Compare the fused kernels in bfloat16 with a dense softmax in float64."""

    pytestmark = GPU

    SQUARE = (Block((0, 1000), (0, 1000)),)
    RECTANGLE = (Block((0, 700), (300, 2000)),)
    PREFIX_ALONE = (Block((0, 512), (0, 1500), causal=False),)
    PACK = tuple(Block((start, start + 130), (start, start + 130)) for start in range(0, 1300, 130))
    CHUNKS = (Block((0, 600), (0, 600)), Block((600, 900), (100, 1400)), Block((900, 964), (0, 1500)))
    SHARED_PROMPT = (
        Block((0, 1000), (0, 1000)),
        *(Block(rows, rows) for rows in ((1000, 1130), (1130, 1387), (1387, 1451))),
        Block((1000, 1451), (0, 1000), causal=False),
    )
    SINGLE_ROWS = tuple(Block((row, row + 1), (3 * row, 3 * row + 3)) for row in range(9))

    @pytest.mark.parametrize("heads", [(28, 4), (7, 1), (8, 8)], ids=str)
    @pytest.mark.parametrize("blocks", [SQUARE, RECTANGLE, PREFIX_ALONE, PACK, CHUNKS, SHARED_PROMPT, SINGLE_ROWS])
    @pytest.mark.parametrize("kernel", [Kernel.AUTO, Kernel.CUDNN, Kernel.FLASH2, Kernel.PLAIN])
    def test_values_and_gradients(self, monkeypatch, kernel, blocks, heads):
        monkeypatch.setattr(kernels, "CUDNN_MIN_ROWS", 256)
        if kernel is Kernel.CUDNN and blocks is self.SINGLE_ROWS:
            pytest.skip("cuDNN is for long segments")
        keys = max(block.key[1] for block in blocks)
        *tensors, grad = rows(blocks[-1].query[1], keys, heads, 128, torch.bfloat16, "cuda")
        found = attend(*tensors, blocks, 128**-0.5, kernel)
        assert max(errors(found, tensors, blocks, grad, 128**-0.5)) < 1e-2

    @pytest.mark.parametrize("kernel", [Kernel.AUTO, Kernel.FLASH2])
    @pytest.mark.parametrize("dim", [16, 64, 72, 80, 96, 128, 256])
    def test_head_dims(self, monkeypatch, kernel, dim):
        monkeypatch.setattr(kernels, "CUDNN_MIN_ROWS", 256)
        *tensors, grad = rows(964, 1500, (4, 2), dim, torch.bfloat16, "cuda")
        found = attend(*tensors, self.CHUNKS, dim**-0.5, kernel)
        assert max(errors(found, tensors, self.CHUNKS, grad, dim**-0.5)) < 1e-2

    @pytest.mark.parametrize("kernel", [Kernel.AUTO, Kernel.CUDNN, Kernel.FLASH2])
    def test_rows_with_gaps_between_them(self, kernel):
        """q, k and v are slices of one tensor, as after an exchange of heads."""
        blocks = (Block((0, 5000), (0, 5000)),)
        packed = torch.randn(5000, 4, 64, device="cuda", dtype=torch.bfloat16).requires_grad_()
        q, k, v = packed.split([2, 1, 1], dim=1)
        out = attend(q, k, v, blocks, 0.125, kernel)
        grad = torch.randn_like(out)
        (found,) = torch.autograd.grad(out, packed, grad)
        exact = packed.detach().double().requires_grad_()
        truth = dense(*exact.split([2, 1, 1], dim=1), blocks, 0.125)
        (expected,) = torch.autograd.grad(truth, exact, grad.double())
        assert relative(out.detach(), truth.detach()) < 1e-2
        assert relative(found, expected) < 1e-2

    def test_the_kernels_agree_on_the_log_sum_exp(self):
        q, k, v, _ = (t.detach() for t in rows(700, 2000, (7, 1), 128, torch.bfloat16, "cuda"))
        found = {
            kernel: kernels._forward(q, k, v, plan_calls(self.RECTANGLE, kernel, 700, 2000), 0.1)[1]
            for kernel in (Kernel.CUDNN, Kernel.FLASH2, Kernel.PLAIN)
        }
        torch.testing.assert_close(found[Kernel.CUDNN], found[Kernel.PLAIN], rtol=0, atol=1e-4)
        torch.testing.assert_close(found[Kernel.FLASH2], found[Kernel.PLAIN], rtol=0, atol=1e-4)

    def test_float32_and_odd_head_dims_run_plain(self):
        assert kernels.resolve(Kernel.AUTO, torch.zeros(1, 1, 64, device="cuda")) is Kernel.PLAIN
        half = torch.zeros(1, 1, 20, device="cuda", dtype=torch.bfloat16)
        assert kernels.resolve(Kernel.AUTO, half) is Kernel.PLAIN
