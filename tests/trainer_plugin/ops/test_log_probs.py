"""The chunked head matches log_softmax over all logits in values and gradients, and never materializes them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.properties import given, settings, st
from trainer_plugin.ops import log_probs as head
from trainer_plugin.ops.log_probs import full_log_probs, token_log_probs

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def make(count: int, vocabulary: int, width: int = 6, dtype=torch.float32, seed: int = 0, device: str = "cpu"):
    """Hidden states [count, width], weight, bias and targets; the logits make the softmax far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"hidden": (count, width), "weight": (vocabulary, width), "bias": (vocabulary,)}
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    tensors = {name: tensor.to(device, dtype).requires_grad_() for name, tensor in tensors.items()}
    return tensors, torch.randint(vocabulary, (count,), generator=generator).to(device)


def gradients(function, tensors, targets, **options):
    """Outputs, and gradients of a sum in which every output has a different weight."""
    found = function(tensors["hidden"], tensors["weight"], targets, bias=tensors["bias"], **options)
    outputs = [output for output in found if output is not None]
    weights = [torch.linspace(-1, 2 + number, len(targets)).to(output) for number, output in enumerate(outputs)]
    loss = sum((weight * output).sum() for weight, output in zip(weights, outputs, strict=True))
    return outputs, torch.autograd.grad(loss, list(tensors.values()))


@settings(deadline=None)
@given(
    count=st.integers(0, 9),
    vocabulary=st.integers(1, 20),
    rows=st.integers(1, 10),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    entropy=st.booleans(),
    seed=st.integers(0, 99),
)
def test_chunks_give_what_all_logits_give(count, vocabulary, rows, temperature, entropy, seed):
    tensors, targets = make(count, vocabulary, dtype=torch.float64, seed=seed)
    options = {"temperature": temperature, "entropy": entropy}
    outputs, grads = gradients(token_log_probs, tensors, targets, rows=rows, **options)
    expected_outputs, expected_grads = gradients(full_log_probs, tensors, targets, **options)
    assert len(outputs) == 1 + entropy
    assert (outputs[0] <= 0).all()
    for found, expected in zip([*outputs, *grads], [*expected_outputs, *expected_grads], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_values_are_exact_to_a_millionth():
    tensors, targets = make(40, 50)
    found = token_log_probs(tensors["hidden"], tensors["weight"], targets, entropy=True, rows=7)
    log_softmax = (tensors["hidden"].double() @ tensors["weight"].double().T).log_softmax(-1)
    chosen = log_softmax.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.log_probs.double(), chosen, rtol=0, atol=2e-6)
    torch.testing.assert_close(
        found.entropies.double(), torch.distributions.Categorical(logits=log_softmax).entropy(), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("entropy", [False, True])
def test_gradients_are_the_derivatives(entropy):
    tensors, targets = make(5, 7, width=3, dtype=torch.float64)

    def run(hidden, weight, bias):
        found = token_log_probs(hidden, weight, targets, temperature=1.7, entropy=entropy, rows=2, bias=bias)
        return found.log_probs if found.entropies is None else tuple(found)

    assert torch.autograd.gradcheck(run, tuple(tensors.values()))


def test_no_rows_give_zero_gradients():
    tensors, targets = make(0, 11)
    outputs, grads = gradients(token_log_probs, tensors, targets, entropy=True)
    assert [tuple(output.shape) for output in outputs] == [(0,), (0,)]
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in tensors.values()]
    assert not any(grad.any() for grad in grads)


def test_bfloat16_weights_keep_float32_log_probs_and_weight_sums():
    tensors, targets = make(300, 12, dtype=torch.bfloat16)
    double = {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}
    outputs, grads = gradients(token_log_probs, tensors, targets, rows=1, entropy=True)
    expected_outputs, expected_grads = gradients(full_log_probs, double, targets, entropy=True)
    for found, expected in zip(outputs, expected_outputs, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    for found, expected in zip(grads, expected_grads, strict=True):
        # Rounded twice: the gradient of the logits and the sum. 300 additions in bfloat16 would be far less exact.
        assert found.dtype == torch.bfloat16
        assert (found.double() - expected).norm() < 4e-3 * expected.norm()


def test_the_weight_costs_nothing_when_it_is_frozen():
    tensors, targets = make(6, 11)
    weight = tensors["weight"].detach()
    with Largest() as largest:
        token_log_probs(tensors["hidden"], weight, targets, rows=1).log_probs.sum().backward()
    assert tensors["hidden"].grad is not None
    assert largest.elements < weight.numel()


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an operation returns in newly allocated memory."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        taken = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for output in tree_leaves(result):
            if isinstance(output, torch.Tensor) and output.untyped_storage().data_ptr() not in taken:
                self.elements = max(self.elements, output.numel())
        return result


@pytest.mark.parametrize(("function", "whole"), [(token_log_probs, False), (full_log_probs, True)])
def test_only_the_full_head_holds_all_logits(function, whole, monkeypatch):
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * 8 * 100)
    tensors, targets = make(200, 100, width=4)
    with Largest() as largest:
        found = function(tensors["hidden"], tensors["weight"], targets, entropy=True)
        (found.log_probs.sum() + found.entropies.sum()).backward()
    assert (largest.elements >= 200 * 100) is whole
    assert whole or largest.elements <= 8 * 100


@pytest.mark.parametrize("target", [-100, -1, 11])
def test_a_target_outside_the_vocabulary_is_named(target):
    tensors, targets = make(3, 11)
    targets[1] = target
    with pytest.raises(ValueError, match=r"outside \[0, 11\)"):
        token_log_probs(tensors["hidden"], tensors["weight"], targets)


def test_a_temperature_of_zero_is_refused():
    tensors, targets = make(3, 11)
    with pytest.raises(ValueError, match="temperature 0: must be above 0"):
        token_log_probs(tensors["hidden"], tensors["weight"], targets, temperature=0)


class TestOnGpu:
    pytestmark = GPU

    def test_bfloat16_agrees_with_float64(self):
        tensors, targets = make(1000, 5003 * 8, width=256, dtype=torch.bfloat16, device="cuda")
        for tensor in tensors.values():
            tensor.data *= 0.2
        double = {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}
        outputs, grads = gradients(token_log_probs, tensors, targets, rows=333, entropy=True, temperature=0.8)
        expected_outputs, expected_grads = gradients(full_log_probs, double, targets, entropy=True, temperature=0.8)
        for found, expected in zip(outputs, expected_outputs, strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
        for found, expected in zip(grads, expected_grads, strict=True):
            assert (found.double() - expected).norm() < 1e-2 * expected.norm()

    def test_memory_stays_that_of_a_chunk(self):
        tensors, targets = make(16384, 152_064, width=64, dtype=torch.bfloat16, device="cuda")
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        token_log_probs(tensors["hidden"], tensors["weight"], targets).log_probs.sum().backward()
        assert torch.cuda.max_memory_allocated() - before < 1.5 * 2**30
