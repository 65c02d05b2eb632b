"""Packaging of real files. A video that crashes its packaging process costs the build nothing else."""

import shutil
from pathlib import Path

import av
import pytest

from operators.build import plan_build
from operators.execution import runner
from operators.execution.rejects import group_rejects
from operators.execution.runner import run_stage
from operators.execution.stage import Context
from operators.execution.staleness import find_stale
from operators.stages import ingest
from operators.stages.package import LONGEST_SECONDS, STAGE
from operators.store.content_store import SourceUnavailable, Store, sha256_of_file
from operators.video.decode.frames import frames_at
from operators.video.decode.probe import probe
from schemas.base import digest
from schemas.config import BuildConfig, Media, QuestionConfig, ShardConfig
from schemas.run import Commit, ReleaseFile, StageKey, StageRecord
from schemas.sample import Sample
from schemas.tables import Check, PackagedVideo, Packaging, Reject, Source, Trial, Video
from tests.support.rows import make_question, make_sample, make_trial, make_video
from tests.support.videos import broadcast, counting_video, number_on, two_pictures


def ingest_file(tmp_path, path):
    """The video row of a file."""
    config = BuildConfig(source=str(tmp_path), out=str(tmp_path / "out"))
    context = Context("ingest", "film", config, {}, {}, Store(str(tmp_path / "out")), tmp_path)
    [film] = ingest.run(context, [Source(source_id="film", uri=str(path), fingerprint="1")])
    return film


def package(tmp_path, film, media=Media.ORIGINAL):
    """The only row that the stage returns for a video, or its reject."""
    config = BuildConfig(source=str(tmp_path), out=str(tmp_path / "out"), shard=ShardConfig(media=media))
    scratch = tmp_path / f"scratch-{media}"
    scratch.mkdir()
    context = Context(STAGE.name, film.video_id, config, {}, {}, Store(str(tmp_path / "out")), scratch)
    [row] = STAGE.run(context, [film])
    return row


def publish_mp4(tmp_path, path):
    """The MP4 that the stage publishes for a file."""
    row = package(tmp_path, ingest_file(tmp_path, path))
    assert row.packaging is not Packaging.KEEP
    made = tmp_path / "out" / row.media_uri
    assert (row.sha256, row.size_bytes) == (sha256_of_file(made), made.stat().st_size)
    return made


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_an_mp4_of_one_picture_is_published_byte_for_byte_whatever_its_name(tmp_path, name):
    path = counting_video(tmp_path / "film.mp4", seconds=1, beep_at=0).rename(tmp_path / name)
    row = package(tmp_path, ingest_file(tmp_path, path))
    assert (row.packaging, row.media_uri) == (Packaging.KEEP, None)
    assert (row.sha256, row.size_bytes) == (sha256_of_file(path), path.stat().st_size)


def test_without_media_nothing_is_made(tmp_path):
    film = make_video("film").model_copy(update={"packaging": Packaging.BOTH, "uri": str(tmp_path / "gone.mkv")})
    row = package(tmp_path, film, Media.NONE)
    assert (row.packaging, row.media_uri, row.sha256, row.size_bytes) == (None, None, None, None)
    assert (row.width, row.height, row.fps) == (film.width, film.height, film.fps)


def test_proxies_are_published_small_and_on_the_sources_times(tmp_path):
    """Read with the trainer's reader. At each time the proxy shows what the source shows, to within half a second."""
    pytest.importorskip("torch")
    from trainer_plugin.data.video_decode import read_frames
    from trainer_plugin.types import VideoSource

    path = counting_video(tmp_path / "film.mp4", "-vf", "scale=1280:512:flags=neighbor", seconds=6)
    row = package(tmp_path, ingest_file(tmp_path, path), Media.PROXY)
    assert (row.width, row.height, row.fps, row.packaging) == (640, 256, 2.0, None)
    proxy = tmp_path / "out" / row.media_uri
    assert row.sha256 == sha256_of_file(proxy)
    measured = probe(proxy)
    assert (measured.width, measured.height, measured.duration_us) == (640, 256, 6_000_000)
    assert measured.index.frame_times_us.tolist() == [500_000 * number for number in range(12)]
    times_us = [0, 499_999, 500_000, 3_100_000, 5_999_999]
    shown = [number_on(frame) for frame in read_frames(VideoSource("film", str(proxy)), times_us, (64, 160))]
    assert shown == [0, 0, 15, 90, 165]


def test_another_container_becomes_mp4_with_its_streams_untouched(tmp_path):
    made = probe(publish_mp4(tmp_path, counting_video(tmp_path / "film.mkv", seconds=1)))
    assert (made.frame_count, made.codec) == (30, "h264")


@pytest.mark.parametrize(
    "path, languages",
    [("film.ts", ["fin", "eng"]), ("film.mp4", ["und"])],
    ids=["of two programmes", "of two pictures"],
)
def test_the_picture_that_was_watched_is_published_with_all_its_sound(tmp_path, path, languages):
    make = broadcast if path.endswith(".ts") else two_pictures
    options = () if path.endswith(".ts") else ("-disposition:v:0", "default", "-disposition:v:1", "0")
    media = probe(publish_mp4(tmp_path, make(tmp_path / path, *options)))
    times_us = media.index.frame_times_us.tolist()
    assert [number_on(frame.rgb) for frame in frames_at(media.path, times_us)] == list(range(60))
    assert (media.width, media.height, media.other_pictures) == (160, 64, 0)
    assert [track.language for track in media.audio_tracks] == languages


@pytest.mark.parametrize("inside", ["ts", "mkv", "webm"])
def test_a_file_named_mp4_in_another_format_becomes_an_mp4(tmp_path, inside):
    codec = ("-c:v", "libvpx", "-c:a", "libvorbis") if inside == "webm" else ()
    path = counting_video(tmp_path / f"film.{inside}", *codec, seconds=1, beep_at=0).rename(tmp_path / "film.mp4")
    media = publish_mp4(tmp_path, path)
    with av.open(str(media)) as container:
        assert container.format.name.startswith("mov")
    times_us = probe(media).index.frame_times_us.tolist()
    assert [number_on(frame.rgb) for frame in frames_at(media, times_us)] == list(range(30))


def test_a_source_that_has_changed_since_it_was_ingested_is_not_packaged(tmp_path):
    film = ingest_file(tmp_path, counting_video(tmp_path / "film.mkv", seconds=1))
    counting_video(tmp_path / "film.mkv", seconds=0.5)
    with pytest.raises(SourceUnavailable, match="has changed since it was ingested; run the build again") as gone:
        package(tmp_path, film)
    assert gone.value.reason == "source_changed"


def test_an_unreadable_container_is_a_reject(tmp_path):
    path = tmp_path / "film.webm"
    path.write_bytes(b"not a video")
    unreadable = {"packaging": Packaging.COPY, "uri": str(path), "sha256": sha256_of_file(path)}
    reject = package(tmp_path, make_video("film").model_copy(update=unreadable))
    assert (reject.key, reject.reason, reject.raw) == ("film", "media_unavailable", str(path))
    assert reject.message.startswith("video film: film.webm")


CRASH = """
import os, signal, sys

if any("fork_server" in part for part in sys.orig_argv):
    import av

    av.open = lambda *_, **__: os.kill(os.getpid(), signal.SIGSEGV)
"""
"""Code that crashes the child process when it opens a video, as a faulty decoder would."""


@pytest.fixture
def folder(tmp_path):
    """A run after `ingest` of two films: one is published unchanged, the other must be opened to be packaged."""
    films = tmp_path / "films"
    films.mkdir()
    counting_video(films / "good.mp4", seconds=1)
    counting_video(films / "deadly.mkv", seconds=1)
    folder = plan_build(BuildConfig(source=str(films), out=str(tmp_path / "out"), partition_videos=2), "run", {})
    run_stage(folder, "ingest", 0, workers=2)
    write_difficulty(folder, questions=1)
    return folder


def commit_of(folder, stage, item, rows, row):
    """A commit of these rows, as if the stage had written it."""
    key = StageKey(stage=stage, version=1, unit=item, seed=0, section="", prompts=(), models=(), inputs=())
    return Commit(
        key_sha256=digest([key.model_dump(mode="json"), len(rows)]), key=key,
        rows_sha256=folder.store.put_rows(rows, row), rejects_sha256=folder.store.put_rows([], Reject),
        rows=len(rows), rejects=0,
    )  # fmt: skip


def write_difficulty(folder, questions):
    """Records that `difficulty` has measured this number of questions about each video."""
    commits = {}
    for source in folder.sources():
        generated = [make_question(number, source.source_id) for number in range(questions)]
        trials = [make_trial(question, Check.DIFFICULTY, 5) for question in generated]
        commits[source.source_id] = commit_of(folder, "difficulty", source.source_id, trials, Trial)
    folder.write_record(StageRecord(stage="difficulty", partition=0, commits=commits))


def write_assembled(folder):
    """Records that `assemble` has made a sample of each video."""
    tables = [commit.rows_sha256 for commit in folder.record("ingest", 0).commits.values()]
    samples = [make_sample(number, *folder.store.get_rows(table, Video)) for number, table in enumerate(tables)]
    commit = commit_of(folder, "assemble", "all", samples, Sample)
    folder.write_record(StageRecord(stage="assemble", partition=None, commits={"all": commit}))


def test_a_video_that_crashes_its_packager_is_one_reject_and_the_build_continues(folder, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    metrics = run_stage(folder, "package", 0, workers=2)
    assert (metrics.units, metrics.rows, metrics.rejects) == (2, 1, {"crashed": 1})
    write_assembled(folder)
    run_stage(folder, "shard")
    [commit] = folder.record("shard", None).commits.values()
    files = folder.store.get_rows(commit.rows_sha256, ReleaseFile)
    assert [(file.videos, file.samples) for file in files] == [(1, 1), (1, 1)]
    [group] = group_rejects(folder)
    assert (
        str(group) == "1 × package: crashed" and "package failed: the process working on it died" in group.messages[0]
    )


def packaged_rows(folder):
    """Rows of the run's `package` stage."""
    commits = folder.record("package", 0).commits.values()
    return [row for commit in commits for row in folder.store.get_rows(commit.rows_sha256, PackagedVideo)]


def test_other_questions_reuse_what_was_packaged(folder):
    assert run_stage(folder, "package", 0, workers=2).reused == 0
    assert {row.packaging for row in packaged_rows(folder)} == {Packaging.KEEP, Packaging.COPY}
    other = folder.run.requested.model_copy(update={"question": QuestionConfig(per_template=5)})
    stale = find_stale(folder, other, {}).stale
    assert (stale["ingest"], stale["question"], stale["package"], stale["shard"]) == (0, 2, 0, 1)
    again = plan_build(other, "again", {})
    run_stage(again, "ingest", 0)
    write_difficulty(again, questions=3)
    assert run_stage(again, "package", 0, workers=2).reused == 2


def test_a_video_without_questions_is_packaged_once_it_has_some(folder, tmp_path, monkeypatch):
    """The video is not opened while it has no questions: here that would crash."""
    write_difficulty(folder, questions=0)
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    with monkeypatch.context() as crashing:
        crashing.setenv("PYTHONPATH", str(tmp_path))
        metrics = run_stage(folder, "package", 0, workers=2)
    assert (metrics.units, metrics.rows, metrics.rejects) == (2, 0, {})
    write_difficulty(folder, questions=1)
    metrics = run_stage(folder, "package", 0, workers=2)
    assert (metrics.reused, metrics.rows) == (0, 2)
    write_difficulty(folder, questions=0)
    assert run_stage(folder, "package", 0, workers=2).reused == 2


@pytest.mark.parametrize("media", [Media.NONE, Media.ORIGINAL])
def test_a_source_is_not_needed_where_it_is_not_opened(folder, tmp_path, monkeypatch, media):
    """Without media, or for a source that is published unchanged, `package` only names the file that exists.

    Without media it starts no child process either.
    """
    config = folder.run.requested.model_copy(update={"shard": ShardConfig(media=media)})
    again = plan_build(config, "again", {})
    run_stage(again, "ingest", 0)
    write_difficulty(again, questions=1)
    shutil.rmtree(tmp_path / "films")
    (tmp_path / "films").mkdir()
    (tmp_path / "films/other.txt").touch()
    monkeypatch.setattr(runner, "run_isolated", runner.run_isolated if media is Media.ORIGINAL else None)
    metrics = run_stage(again, "package", 0, workers=2)
    needs_mp4 = {"missing_file": 1} if media is Media.ORIGINAL else {}
    assert (metrics.rows, metrics.rejects) == (2 - len(needs_mp4), needs_mp4)


def test_the_time_limit_follows_from_the_video():
    """The limit for two hours of 4K is far above that for 360p, and a large file gets more time than a small one."""
    film = make_video("film").model_copy(update={"frame_count": 172_800, "width": 640, "height": 360})
    in_4k = film.model_copy(update={"width": 3840, "height": 2160})
    assert 20 * 3600 < STAGE.timeout_seconds(film) < STAGE.timeout_seconds(in_4k) <= LONGEST_SECONDS
    assert STAGE.timeout_seconds(film.model_copy(update={"size_bytes": 10**10})) > STAGE.timeout_seconds(film)
    endless = in_4k.model_copy(update={"frame_count": 10**9})
    assert STAGE.timeout_seconds(endless) == LONGEST_SECONDS


def test_a_stored_file_that_is_deleted_with_the_stages_commits_is_made_again(folder):
    run_stage(folder, "package", 0, workers=2)
    [made] = [Path(folder.store.root) / row.media_uri for row in packaged_rows(folder) if row.media_uri]
    content = made.read_bytes()
    made.unlink()
    shutil.rmtree(Path(folder.store.root) / "commits" / "package")
    assert run_stage(folder, "package", 0, workers=2).reused == 0
    assert made.read_bytes() == content
