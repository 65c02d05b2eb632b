"""Films are rendered for real, in one process and in two, and read back with another decoder."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from operators.demo.films.canvas import OBJECT_COLOURS, bgr
from operators.demo.films.film import FilmRenderError
from operators.demo.films.grammar.rendering import parse_minutes, parse_texts, render_films
from operators.demo.films.script import FRAME_HEIGHT, FRAME_US, FRAME_WIDTH, FilmTruth
from schemas.errors import BadInput
from schemas.facts import TrackFact, VideoFacts
from schemas.manifest import FactsFile, ManifestRow

SEED, COUNT, MINUTES = 4, 2, (0.5, 0.6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("films")
    render_films(directory, count=COUNT, minutes=MINUTES, seed=SEED, workers=2)
    return directory


@pytest.fixture(scope="module", params=range(COUNT))
def video(request, folder) -> Path:
    return folder / f"story_{SEED}_{request.param:04d}.mp4"


def read_facts(video: Path) -> VideoFacts:
    facts = FactsFile.model_validate_json(video.with_suffix(".facts.json").read_bytes()).facts
    assert facts is not None
    return facts


def colour_share(frame: np.ndarray, entity: str, track: TrackFact, time_us: int) -> float:
    """The share of the entity's box, at a time, that has the entity's colour."""
    index = int(np.abs(np.array(track.times_us) - time_us).argmin())
    box = track.boxes[index]
    rows = slice(int(box.y0 * FRAME_HEIGHT), max(int(box.y1 * FRAME_HEIGHT), 1))
    columns = slice(int(box.x0 * FRAME_WIDTH), max(int(box.x1 * FRAME_WIDTH), 1))
    colour = bgr(OBJECT_COLOURS[entity.split("_")[0]])
    return float((np.abs(frame[rows, columns].astype(int) - colour).max(axis=2) < 48).mean())


def test_what_acts_and_what_is_moved_is_seen_in_its_box(video):
    facts = read_facts(video)
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    kinds = {entity.entity_id: entity.kind for entity in facts.entities}
    checked = 0
    for event in facts.events:
        for entity in {event.actor, event.object} - {None}:
            tracks = [
                track
                for track in facts.tracks
                if track.entity == entity and track.times_us[0] < event.end_us and track.times_us[-1] >= event.start_us
            ]
            if not tracks and entity != event.actor:
                continue  # a lost pet is searched for elsewhere
            times = [time for track in tracks for time in track.times_us if event.start_us <= time < event.end_us] or [
                tracks[0].times_us[-1]
            ]
            shares = [
                max(colour_share(frames[time // FRAME_US], entity, track, time) for track in tracks) for time in times
            ]
            assert max(shares) > 0.08, (event, kinds[entity], shares)
            checked += 1
    assert checked > 8


def test_what_is_given_or_taken_moves(video):
    facts = read_facts(video)
    moved = [event for event in facts.events if event.action in ("take", "give", "put")]
    assert moved
    for event in moved:
        track = next(
            track
            for track in facts.tracks
            if track.entity == event.object and track.times_us[0] <= event.start_us <= track.times_us[-1]
        )
        first = np.abs(np.array(track.times_us) - event.start_us).argmin()
        last = np.abs(np.array(track.times_us) - event.end_us).argmin()
        before, after = track.boxes[first], track.boxes[last]
        assert abs(before.x0 - after.x0) * FRAME_WIDTH + abs(before.y0 - after.y0) * FRAME_HEIGHT > 12


def test_every_shot_has_a_caption_that_names_everybody_in_it(video):
    read = FactsFile.model_validate_json(video.with_suffix(".facts.json").read_bytes())
    assert read.facts is not None
    truth = FilmTruth.model_validate_json(video.with_suffix(".truth.json").read_bytes())
    assert [(each.start_us, each.end_us) for each in read.annotations] == [
        (shot.start_us, shot.end_us) for shot in truth.shots
    ]
    for event in read.facts.events:
        (caption,) = [each for each in read.annotations if each.start_us <= event.start_us < each.end_us]
        assert event.phrase in caption.text


def test_the_manifest_lists_the_films_with_their_facts(folder):
    rows = [ManifestRow.model_validate(row) for row in json.loads((folder / "manifest.json").read_text())]
    assert [row.uri for row in rows] == [f"story_{SEED}_{index:04d}.mp4" for index in range(COUNT)]
    assert all(row.title and row.licence and (folder / str(row.facts)).is_file() for row in rows)


def test_a_killed_run_is_resumed_by_one_process_and_gives_the_same_bytes(folder, tmp_path):
    command = [sys.executable, "-m", "operators.cli", "films", str(tmp_path), "--seed", str(SEED), "--workers", "1"]
    command += ["--count", str(COUNT), "--minutes", f"{MINUTES[0]}..{MINUTES[1]}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True) as run:
        assert run.stderr is not None
        assert "story_4_0000" in run.stderr.readline()
        os.killpg(run.pid, signal.SIGKILL)
    (tmp_path / ".story_4_0001.leftover").mkdir(exist_ok=True)
    kept = (tmp_path / "story_4_0000.mp4").stat().st_mtime_ns
    lines: list[str] = []
    render_films(tmp_path, count=COUNT, minutes=MINUTES, seed=SEED, workers=1, progress=lines.append)
    assert (tmp_path / "story_4_0000.mp4").stat().st_mtime_ns == kept
    assert sorted(", reused" in line for line in lines) == [False, True]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FilmRenderError, match=r"films cannot be written into .*file/films: .*; choose another folder"):
        render_films(tmp_path / "file" / "films", count=1, minutes=MINUTES, seed=1)


@pytest.mark.parametrize(("text", "bounds"), [("4", (4.0, 4.0)), ("3..5", (3.0, 5.0)), ("0.5..0.75", (0.5, 0.75))])
def test_minutes_are_one_number_or_two_bounds(text, bounds):
    assert parse_minutes(text) == bounds


def test_unknown_options_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"'3-5' is not a length in minutes; write `4`, or bounds such as `3..5`"):
        parse_minutes("3-5")
    with pytest.raises(BadInput, match=r"'some' is no amount of on-screen text; choose one of none, few, many"):
        parse_texts("some")
    with pytest.raises(BadInput, match=r"0 films cannot be rendered"):
        render_films(tmp_path, count=0, minutes=MINUTES, seed=1)
