"""Gradients of a shared row in bfloat16 are as exact as those of plain Hugging Face sequences."""

import statistics

import pytest
import torch
import torch.distributed as dist

from benchmarks.rl_exact import measure_gradients
from trainer_plugin.distributed.mesh import init_distributed

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.fixture
def process_group():
    init_distributed()
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_bfloat16_gradients_are_no_farther_from_float32_than_plain_ones(process_group, device):
    errors = measure_gradients(torch.device(device))
    assert errors["shared row"].keys() == errors["plain"].keys()
    assert len(errors["plain"]) > 25
    means = {way: statistics.mean(each.values()) for way, each in errors.items()}
    assert means["shared row"] < means["plain"] < 0.2
    assert max(errors["shared row"].values()) < 1.1 * max(errors["plain"].values())
