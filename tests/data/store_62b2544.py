"""Writes `store_62b2544.tar.gz` with the code of commit 62b2544.

Run it from an empty folder, with a checkout of 62b2544 on PYTHONPATH:

    git worktree add ../62b2544 62b2544
    cd "$(mktemp -d)" && PYTHONPATH=<that worktree> python <this file>

The archive holds the folder `tree`:

    films     the source
    out       the store, without report pages, because they are large
    train     a training run that ended after the first of four steps
    whole     metrics of the same training, run to its end

Fingerprints of sources contain a file's modification time, so it is fixed, and tar keeps it. `run.json`, `lanes/`,
`state.json` and one table of the store contain the folder in which the script ran.

The journal of `difficulty` answers requests with frames of a proxy that PyAV 18.1.0 encoded. If another version encodes
other bytes, the requests differ, and tests that count them fail: run this script again with that version.
"""

import os
import tarfile
from pathlib import Path

from operators.build import run_build
from operators.settings import load_config
from tests.operators.test_build import SETTINGS as BUILD_SETTINGS
from tests.operators.test_build import capable
from tests.support.openai_server import OpenAIServer
from tests.support.titled import TITLES, titled_video
from tests.trainer_plugin.runs import SETTINGS as TRAINING_SETTINGS
from trainer_plugin.recipe import load_recipe
from trainer_plugin.sft import Training

MODIFIED_NS = 1_700_000_000 * 1_000_000_000
SMALL_TRAINING = [
    "steps=4",
    "step_tokens=512",
    "model.config.vision_config.hidden_size=16",
    "trained.language_model=false",
    "trained.vision_tower=false",
]


def write_films(folder: Path) -> None:
    """Write a film with four titles, and a file that is not a video."""
    folder.mkdir(parents=True)
    titled_video(folder / "film0.mp4", TITLES[:4], seed=0)
    (folder / "broken.mp4").write_text("not a video")
    for film in folder.iterdir():
        os.utime(film, ns=(MODIFIED_NS, MODIFIED_NS))


def build(films: Path, out: Path) -> str:
    """Build a release of the films, and return its URL."""
    with OpenAIServer(script=capable) as server:
        os.environ.update(server.environ("reasoner", "judge", "target"))
        config = load_config(None, [*BUILD_SETTINGS, "split.write_clips=false"], source=str(films), out=str(out))
        return run_build(config).published.url


def train(release: str, out: Path, last_step: int) -> None:
    """Train the projector of a tiny model for up to four steps, and write a checkpoint after `last_step`."""
    settings = [*TRAINING_SETTINGS, *SMALL_TRAINING, f"out={out}", f"videos.release={release}"]
    with Training(load_recipe("demo", settings)) as training:
        for metrics in training:
            if metrics.step == last_step:
                training.save()
                break


def keep(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Drop what no test reads, and the name of the user."""
    path = Path(member.name)
    if path.name in {"report.html", "tensorboard"} or path.suffix == ".lock" or path.match("whole/checkpoints"):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


if __name__ == "__main__":
    tree = Path.cwd() / "tree"
    write_films(tree / "films")
    release = build(tree / "films", tree / "out")
    train(release, tree / "train", last_step=1)
    train(release, tree / "whole", last_step=4)
    with tarfile.open("store_62b2544.tar.gz", "w:gz") as archive:
        archive.add(tree, "tree", filter=keep)
