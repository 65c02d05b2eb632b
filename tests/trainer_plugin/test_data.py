import subprocess
import sys
from pathlib import Path

import pytest

from operators.store import Store, object_path
from schemas.errors import BadInput, SchemaError
from schemas.run import Release
from schemas.tables import Split
from tests.operators.stages.test_shard import make_source, shard
from tests.support.rows import make_sample
from trainer_plugin.data import open_release, read_samples, read_videos


@pytest.fixture
def release(tmp_path):
    """A release of five videos with two questions each, in two tars, without media in none."""
    films = [make_source(tmp_path / f"film{number}.mp4", bytes([number]) * 1000) for number in range(5)]
    samples = [make_sample(2 * number + turn, film) for number, film in enumerate(films) for turn in (0, 1)]
    files, store = shard(tmp_path, samples, films, videos_per_tar=3)
    return publish_by_hand(store, files), samples


def publish_by_hand(store: Store, files) -> str:
    folder = Path(store.root) / "release"
    for file in files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(store.read(object_path(file.sha256, Path(file.path).suffix)))
    manifest = Release(
        name="demo",
        version=1,
        run_id="run",
        content_sha256="0" * 64,
        samples={"sft": 10},
        videos={"sft": 5},
        files=tuple(files),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return str(folder)


def test_samples_come_whole(release):
    url, samples = release
    assert sorted(read_samples(url, Split.SFT), key=lambda sample: sample.question_id) == samples


def test_videos_come_with_their_own_samples_and_bytes(release):
    url, _ = release
    found = list(read_videos(url, Split.SFT))
    assert [sample for item in found for sample in item.record.samples] == read_samples(url, Split.SFT)
    for item in found:
        number = int(item.record.video_id.removeprefix("film"))
        assert item.video == bytes([number]) * 1000
        assert {sample.video_id for sample in item.record.samples} == {item.record.video_id}


def test_shares_cover_everything_once(release):
    url, _ = release
    shares = [[item.record.video_id for item in read_videos(url, Split.SFT, part=part, parts=3)] for part in range(3)]
    assert sorted(map(len, shares)) == [1, 2, 2]
    assert sorted(name for share in shares for name in share) == [f"film{number}" for number in range(5)]


def test_what_is_not_there_is_named(release, tmp_path):
    url, _ = release
    with pytest.raises(BadInput, match=r"no split .*eval.*it has \['sft'\]"):
        read_samples(url, Split.EVAL)
    with pytest.raises(BadInput, match=r"manifest\.json: no such file"):
        open_release(str(tmp_path))
    (Path(url) / "manifest.json").write_text("{}")
    with pytest.raises(SchemaError, match="not a release manifest"):
        open_release(url)


def test_a_shortened_tar_is_an_error_not_a_short_epoch(release):
    url, _ = release
    tar = sorted(Path(url).glob("data/sft/*.tar"))[0]
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SchemaError, match=tar.name):
        list(read_videos(url, Split.SFT))


def test_the_plugin_needs_nothing_of_the_pipeline():
    code = (
        "import sys, trainer_plugin.data\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('operators', 'airflow')])"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
