import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.trainer_plugin.ranks import Ranks
from tests.trainer_plugin.support import numbered_film, release_of
from trainer_plugin.distributed.mesh import init_distributed


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> str:
    """URL of a release of four films with two questions about each."""
    folder = tmp_path_factory.mktemp("release")
    seconds = (2.0, 3.0, 1.0, 2.5)
    return release_of(folder, [numbered_film(folder, f"film{n}", length) for n, length in enumerate(seconds)])


@pytest.fixture(scope="session")
def split_release(tmp_path_factory) -> str:
    """URL of a release of five films with two questions about each: three in the split `sft`, two in `eval`."""
    folder = tmp_path_factory.mktemp("split_release")
    seconds = (2.0, 3.0, 1.0, 2.5, 1.5)
    films = [numbered_film(folder, f"film{n}", length) for n, length in enumerate(seconds)]
    return release_of(folder, films, eval_videos=2)


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """`Ranks` by world size; the processes are reused by all tests of the session."""
    running = {world: Ranks(world, tmp_path_factory.mktemp("ranks"), timeout=240) for world in (1, 2, 3)}
    yield running
    for each in running.values():
        each.stop()


@pytest.fixture(scope="module")
def ranks_of(tmp_path_factory):
    """Return `Ranks` of a world size. The processes are kept until another size is requested."""
    running: dict[int, Ranks] = {}

    def of(world: int) -> Ranks:
        if world not in running:
            stop()
            running[world] = Ranks(world, tmp_path_factory.mktemp("ranks"))
        return running[world]

    def stop() -> None:
        while running:
            running.popitem()[1].stop()

    yield of
    stop()


@pytest.fixture
def alone():
    """Single-process group that is destroyed after the test; yields the device."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield init_distributed()
    dist.destroy_process_group()
    torch.set_num_threads(before)


STRANGE = """
import os, sys, time

class Unsendable(Exception):
    def __init__(self, key, reason):
        super().__init__(key)

if any("fork_server" in part for part in sys.orig_argv):
    import trainer_plugin.data.video_decode as frames

    plain = frames._shown_pts

    def strange(source, *rest):
        if source.key == "deadly":
            os.abort()
        if source.key == "endless":
            time.sleep(100)
        if source.key == "unsendable":
            raise Unsendable("film", "")
        return plain(source, *rest)

    frames._shown_pts = strange
"""


@pytest.fixture
def strange_decoders(tmp_path, monkeypatch) -> Path:
    """Make decoder processes misbehave like broken libraries for videos with certain keys.

    The key `deadly` aborts, `endless` hangs, and `unsendable` raises an error that cannot be unpickled.
    """
    folder = tmp_path / "strange"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(STRANGE)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return folder
