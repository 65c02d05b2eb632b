import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from operators.scratch import scratch_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_folder_is_empty_and_gone_afterwards():
    with scratch_folder("split") as folder:
        assert list(folder.iterdir()) == []
        (folder / "clip.mp4").write_bytes(b"x")
    assert not folder.exists()


def test_an_error_leaves_nothing_either():
    with pytest.raises(KeyError), scratch_folder("split") as folder:
        raise KeyError
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_not(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from operators.scratch import scratch_folder\n"
        "with scratch_folder('split') as folder:\n"
        "    (folder / 'clip.mp4').write_bytes(b'x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, check=False)
    [left] = tmp_path.glob("lvr-scratch-*/split-*/clip.mp4")
    alive = tmp_path / f"lvr-scratch-{os.getppid()}" / "split-x"
    alive.mkdir(parents=True)
    with scratch_folder("caption"):
        assert not left.exists() and alive.exists()
