"""Ranks of a host share a folder, and nothing of it remains, however its owner ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from trainer_plugin.rl import host_folder
from trainer_plugin.rl.host_folder import HostFolder, remove_leftovers

SCRIPT = """
import sys
from pathlib import Path
from trainer_plugin.distributed.mesh import init_distributed
from trainer_plugin.rl.host_folder import HostFolder

init_distributed()
folder = HostFolder(0, Path(sys.argv[1]))
(folder.path / "video").write_bytes(b"features")
assert len(list(Path(sys.argv[1]).iterdir())) == 2
"""


def share(parents: list[Path | None]) -> tuple[Path, tuple[int, ...], bool]:
    """The folder of this rank, the ranks that share it, and whether this rank owns it."""
    folder = HostFolder(0, parents[dist.get_rank()])
    assert folder.path.is_dir()
    dist.barrier()
    folder.close()
    return folder.path, folder.ranks, folder.is_owner


def test_ranks_of_a_host_share_a_folder(ranks, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    found = ranks[3].run(share, [one, other, one])
    assert [shared for _, shared, _ in found] == [(0, 2), (1,), (0, 2)]
    assert [owned for *_, owned in found] == [True, True, False]
    assert [path.parent for path, *_ in found] == [one, other, one]
    assert found[0][0] == found[2][0]
    assert list(one.iterdir()) == list(other.iterdir()) == []
    assert {shared for _, shared, _ in ranks[3].run(share, [None] * 3)} == {(0, 1, 2)}


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise ValueError"])
def test_nothing_remains_at_exit(tmp_path, ending):
    subprocess.run([sys.executable, "-c", SCRIPT + ending, str(tmp_path)], capture_output=True, check=not ending)
    assert list(tmp_path.iterdir()) == []


def leave(parent: Path) -> None:
    folder = HostFolder(0, parent)
    (folder.path / "video").write_bytes(b"features")
    os.kill(os.getpid(), signal.SIGKILL)


def find_others(parent: Path) -> int:
    """Number of folders of others that remain when a run creates its own."""
    folder = HostFolder(0, parent)
    found = sum(path.is_dir() for path in parent.iterdir()) - 1
    folder.close()
    return found


def test_the_next_run_removes_what_a_killed_run_left_and_not_what_a_living_one_uses(ranks, tmp_path):
    ranks[1].outcomes(leave, tmp_path)
    assert ranks[1].died == {0: -signal.SIGKILL}
    (left,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (left / "video").exists()
    remove_leftovers(tmp_path / "other")
    assert left.exists()

    living = subprocess.Popen(
        [
            sys.executable,
            "-c",
            SCRIPT.replace("assert", "print('ready', flush=True); sys.stdin.read() #"),
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with living:
        assert living.stdout.readline() == b"ready\n"
        assert not left.exists()
        assert ranks[1].run(find_others, tmp_path) == [1]
        living.kill()
    assert ranks[1].run(find_others, tmp_path) == [0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_in_memory_only_if_there_is_room(monkeypatch, tmp_path, small_disk):
    monkeypatch.setattr(host_folder, "_MEMORY", small_disk)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert host_folder._choose_parent(2**19) == small_disk
    assert host_folder._choose_parent(2**21) == tmp_path
    monkeypatch.setattr(host_folder, "_MEMORY", tmp_path / "missing")
    assert host_folder._choose_parent(2**19) == tmp_path
