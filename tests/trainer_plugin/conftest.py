import pytest
import torch
import torch.distributed as dist

from tests.trainer_plugin.ranks import Ranks
from tests.trainer_plugin.support import numbered_film, release_of
from trainer_plugin.parallel import start


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> str:
    """Four films, two questions about each."""
    folder = tmp_path_factory.mktemp("release")
    seconds = (2.0, 3.0, 1.0, 2.5)
    return release_of(folder, [numbered_film(folder, f"film{n}", length) for n, length in enumerate(seconds)])


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """Ranks by their number; they stay for all tests."""
    running = {world: Ranks(world, tmp_path_factory.mktemp("ranks"), timeout=240) for world in (1, 2, 3)}
    yield running
    for each in running.values():
        each.stop()


@pytest.fixture
def alone():
    """A process group of this process alone, gone after the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield start()
    dist.destroy_process_group()
    torch.set_num_threads(before)
