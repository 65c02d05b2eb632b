"""Guarantees of a build on the real pipeline: real videos and stages, and a real model server that counts requests."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import fsspec
import psutil
import pytest

from operators.build import NothingToBuild, make_partitions, plan_build, run_build, run_id_from
from operators.execution.pipeline import VIDEO_STAGES
from operators.execution.replay import forget_rejects
from operators.execution.runner import WorkResult, run_stage
from operators.execution.staleness import find_stale
from operators.models.endpoints import ModelUnavailable
from operators.preflight import PreflightFailed
from operators.process import supervise
from operators.release.publish import latest_run
from operators.release.readers import has_energon
from operators.release.validate import validate_release
from operators.settings import load_config
from operators.store.content_store import Store, object_path
from operators.store.run_folder import RunFolder, RunMissing
from schemas.run import Commit, Release, StageMetrics
from schemas.storage import StoreError
from schemas.tables import Clip, Reject, Source
from tests.support.openai_server import Fault, OpenAIServer, fill_schema, last_text
from tests.support.titled import TITLES, titled_video

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "partition_videos=2",
    "assemble.eval_fraction=0.0",
    "assemble.sft_fraction=1.0",
    "difficulty.max_frames=4",
    "difficulty.trials=2",
    "assemble.pass_rates.sft_min=0",
]


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """A folder with two short films, the smallest number above one, and a file that is not a video."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(2):
        titled_video(folder / f"film{number}.mp4", TITLES[number : number + 4], seed=number)
    (folder / "broken.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="session")
def one_film(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_film")
    shutil.copy(films / "film0.mp4", folder)
    return folder


def request_id(request):
    return {name.lower(): value for name, value in request.headers.items()}["x-request-id"].removeprefix("lvr-")


def answer_well(body):
    """Answers of a capable model: its questions have evidence inside the films, and a reader of it finds the answer.

    The target guesses.
    """
    if "response_format" not in body:
        return None
    schema, text = body["response_format"]["json_schema"], last_text(body)
    answer = fill_schema(schema["schema"], text)
    match schema["name"]:
        case "WrittenChoice" | "WrittenOpen":
            category = re.search(r"^(\w+) - ", text, re.MULTILINE)[1]
            number = body["seed"] % 10_000
            answer |= {"question": f"What {category} thing happens with number {number}?", "answer": f"seen {number}"}
        case "QuestionReview":
            flags = dict.fromkeys(("speaks_of_material", "contains_instruction", "names_one_moment"), False)
            answer |= {"category": re.search(r"What (\w+) thing happens", text)[1], **flags}
        case "WrittenChain":
            number = re.search(r"happens with number (\d+)\?", text)[1]
            chain = (
                f"I search for it and watch the picture closely. At 00:03 it happens. So what happens is seen {number}."
            )
            answer |= {"reasoning": chain, "answer": f"seen {number}"}
        case "RefinedChain":
            answer["reasoning"] = text.partition("<chain>\n")[2].partition("\n</chain>")[0]
        case "ChainCheck":
            answer = {"unsupported": [], "speaks_of_material": False}
        case "ChosenOption" | "FoundAnswer" if (
            f"is seen {re.search('with number ([0-9]+)', text)[1]}." not in text and ("<chain>" in text)
        ):
            answer["answer"] = "unknown"  # the chain of another question
        case "ChosenOption":
            answer["answer"] = re.search(r"^([A-D])\. seen", text, re.MULTILINE)[1]
        case "FoundAnswer":
            answer["answer"] = "what is seen"
        case "Verdict":
            answer["same"] = "what is seen" in text
    return answer | {"evidence": ["00:02 - 00:08"]} if "evidence" in answer else answer


@pytest.fixture
def server(monkeypatch):
    with OpenAIServer(script=answer_well) as server:
        for name, value in server.environ("reasoner", "judge", "target").items():
            monkeypatch.setenv(name, value)
        yield server


@dataclass(frozen=True)
class Built:
    """A finished build in its own folder."""

    folder: RunFolder
    out: Path
    release: Release
    request_ids: frozenset[str]
    """Hashes of the requests that its model server received."""


@pytest.fixture(scope="session")
def clean_build(films, tmp_path_factory):
    """One finished build, made once per session. Tests must not change it."""
    out = tmp_path_factory.mktemp("clean") / "out"
    with pytest.MonkeyPatch.context() as patch, OpenAIServer(script=answer_well) as server:
        for name, value in server.environ("reasoner", "judge", "target").items():
            patch.setenv(name, value)
        result = run_build(config_for(films, out))
        request_ids = frozenset(request_id(request) for request in server.requests)
    return Built(result.folder, out, result.published.release, request_ids)


@pytest.fixture
def build_copy(clean_build, tmp_path, server):
    """A copy of the `clean_build` build that a test may change, with a server of the same model."""
    out = tmp_path / "out"
    shutil.copytree(clean_build.out, out)
    return replace(clean_build, out=out, folder=RunFolder.open(f"{out}/runs/{clean_build.folder.run.run_id}"))


def config_for(films, out, *settings):
    return load_config(None, [*SETTINGS, *settings], source=str(films), out=str(out))


def tables(folder: RunFolder) -> dict[tuple[str, str], tuple[str, str]]:
    """Hashes of all tables of a run, by stage and work item."""
    return {
        (record.stage, item): (commit.rows_sha256, commit.rejects_sha256)
        for record in folder.records()
        for item, commit in record.commits.items()
    }


def count_computed(metrics: list[StageMetrics] | tuple[StageMetrics, ...]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for stage in metrics:
        counts[stage.stage] += stage.units - stage.reused
    return {name: count for name, count in counts.items() if count}


def test_a_build_makes_a_release_and_keeps_the_broken_file_as_a_reject(clean_build):
    assert clean_build.release.videos == {"sft": 2} and clean_build.release.samples["sft"] >= 6
    commits = [
        commit for partition in range(2) for commit in clean_build.folder.record("ingest", partition).commits.values()
    ]
    [reject] = [
        reject for commit in commits for reject in clean_build.folder.store.get_rows(commit.rejects_sha256, Reject)
    ]
    assert reject.reason == "not_a_video" and "broken.mp4" in reject.message
    for name in ("data/sft/longvideo-sft-000000.tar", "parquet/sft.parquet", "report.html", "README.md"):
        assert (clean_build.out / "releases/longvideo/v0001" / name).is_file()


def test_every_loader_finds_all_that_the_release_holds(clean_build):
    counts = validate_release(f"{clean_build.out}/releases/longvideo/v0001")
    samples, videos = clean_build.release.samples["sft"], clean_build.release.videos["sft"]
    assert counts.pop("files") == len(clean_build.release.files)
    assert counts == {
        "parquet": samples,
        "datasets": samples,
        "datasets streaming": samples,
        "webdataset": videos,
        "datasets webdataset": videos,
        "datasets webdataset streaming": videos,
        **({"energon": videos} if has_energon() else {}),
    }


def test_clips_tile_every_video(clean_build):
    commits = [
        commit for partition in range(2) for commit in clean_build.folder.record("split", partition).commits.values()
    ]
    cut = [commit for commit in commits if commit.rows]
    assert len(cut) == 2
    for commit in cut:
        clips = clean_build.folder.store.get_rows(commit.rows_sha256, Clip)
        assert len(clips) >= 2
        assert [clip.start_us for clip in clips[1:]] == [clip.end_us for clip in clips[:-1]]
        assert (clips[0].start_us, clips[-1].end_us) == (0, 20_000_000)


def test_a_repeat_reuses_everything_and_publishes_nothing(build_copy, films, server):
    again = run_build(config_for(films, build_copy.out))
    assert (again.computed, again.published.is_new, server.requests) == (0, False, [])
    assert tables(again.folder) == tables(build_copy.folder)


def test_other_partitions_change_nothing(build_copy, films):
    again = run_build(config_for(films, build_copy.out, "partition_videos=1"))
    assert again.folder.run.partitions == 3 and again.computed == 0
    assert again.published.release == build_copy.release


def test_a_build_works_on_an_object_store(one_film, server, s3_bucket):
    config = config_for(one_film, f"{s3_bucket}/lvr", "question.writers=[program]")
    first = run_build(config)
    assert first.published.release.videos == {"sft": 1}
    [tar] = [file.path for file in first.published.release.files if file.path.endswith(".tar")]
    with fsspec.open(f"{first.published.url}/{tar}", "rb") as file, tarfile.open(fileobj=file) as opened:
        assert sorted(Path(name).suffix for name in opened.getnames()) == [".json", ".mp4"]
    sent = len(server.requests)
    again = run_build(config)
    assert (again.computed, again.published.is_new, len(server.requests)) == (0, False, sent)


@pytest.fixture
def edit_prompt(tmp_path, monkeypatch):
    """Adds a line to one prompt, in a copy of all prompts."""
    prompts = tmp_path / "prompts"
    shutil.copytree(ROOT / "prompts", prompts)
    monkeypatch.setenv("LVR_PROMPTS", str(prompts))

    def edit(name: str, line: str) -> None:
        (prompts / f"{name}.md").write_text((prompts / f"{name}.md").read_text() + f"\n{line}\n")

    return edit


def test_an_edited_prompt_runs_only_what_depends_on_it(build_copy, films, edit_prompt, server):
    edit_prompt("chain", "Mind the order of events.")
    config = config_for(films, build_copy.out)
    stale = find_stale(build_copy.folder, config)
    assert {name for name, count in stale.stale.items() if count} == {
        "reason", "difficulty", "assemble", "shard",
    }  # fmt: skip
    assert stale.reasons == ("reason: prompt chain changed (3 videos)",)
    again = run_build(config)
    written = [request for request in server.requests if "Mind the order of events." in json.dumps(request.body)]
    assert written and {request_id(request) for request in server.requests}.isdisjoint(build_copy.request_ids)
    assert count_computed(again.metrics).keys() == {"reason", "difficulty", "assemble", "shard"}
    assert again.published.release.version == 2
    assert not any(find_stale(again.folder, config).stale.values())


def test_a_stage_stops_on_a_full_disk_and_resumes_when_there_is_room(clean_build, films, small_disk, server):
    folder = plan_build(config_for(films, small_disk / "out"), "run")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 100_000))
    with pytest.raises(StoreError, match="the disk is full; free some space and run again, finished work is kept"):
        for name in VIDEO_STAGES:
            run_stage(folder, name, 1)
    done = {record.stage: record.commits for record in folder.records()}
    assert done.keys() < set(VIDEO_STAGES)
    ballast.unlink()
    for name in VIDEO_STAGES:
        metrics = run_stage(folder, name, 1)
        assert name not in done or metrics.reused == metrics.units
    assert tables(folder).items() <= tables(clean_build.folder).items()


@pytest.fixture
def shelf(films, tmp_path):
    """The films folder. A test may change the first film and add a third; both changes are undone afterwards."""
    (films / "film0.mp4").rename(tmp_path / "film0.mp4")
    shutil.copy2(tmp_path / "film0.mp4", films)
    yield films
    (films / "film2.mp4").unlink(missing_ok=True)
    (tmp_path / "film0.mp4").replace(films / "film0.mp4")


def test_a_new_and_a_changed_video_run_alone(build_copy, shelf):
    config = config_for(shelf, build_copy.out)
    titled_video(shelf / "film0.mp4", TITLES[3:5], seed=7)
    titled_video(shelf / "film2.mp4", TITLES[2:4], seed=2)
    stale = find_stale(build_copy.folder, config)
    assert stale.stale["ingest"] == 2
    assert set(stale.reasons) == {"a new video", "ingest: source file changed"}
    folder = plan_build(config, "changed")
    metrics = [run_stage(folder, name, partition) for partition in range(2) for name in ("ingest", "split")]
    assert count_computed(metrics) == {"ingest": 2, "split": 2}


def test_a_licence_is_corrected_without_opening_a_video_again(build_copy, films, tmp_path, server):
    rows = [f"{path.name},CC0" for path in sorted(films.iterdir())]
    (tmp_path / "list.csv").write_text("\n".join(["uri,licence", *rows]))
    config = config_for(tmp_path / "list.csv", build_copy.out, f"media_root={films}")
    stale = find_stale(build_copy.folder, config)
    assert {name: count for name, count in stale.stale.items() if count} == {"shard": 1}
    assert stale.reasons == ("shard: metadata in the source list changed",)
    again = run_build(config)
    assert count_computed(again.metrics) == {"shard": 1}
    [path] = Path(again.published.url).glob("data/*/*.tar")
    with tarfile.open(path) as tar:
        records = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json")]
    assert [record["licence"] for record in records] == ["CC0"] * 2


def test_a_title_is_corrected_with_one_request_for_each_video_of_unknown_category(build_copy, films, tmp_path, server):
    rows = [f"{path.name},A title" for path in sorted(films.iterdir())]
    (tmp_path / "list.csv").write_text("\n".join(["uri,title", *rows]))
    sent = len(server.requests)
    again = run_build(config_for(tmp_path / "list.csv", build_copy.out, f"media_root={films}"))
    assert not count_computed(again.metrics).keys() & {"ingest", "split", "caption", "package"}
    schemas = [seen.body["response_format"]["json_schema"]["name"] for seen in server.requests[sent:]]
    assert schemas == ["VideoDescription"] * 2  # the third has no captions
    [path] = Path(again.published.url).glob("data/*/*.tar")
    with tarfile.open(path) as tar:
        records = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json")]
    assert [record["title"] for record in records] == ["A title"] * 2


def is_about_space(body):
    """Whether a request is one to write a spatial question."""
    return any("category:\nspatial - where" in str(message["content"]) for message in body["messages"])


def test_replay_requests_again_only_what_was_rejected(build_copy, films, edit_prompt, server):
    edit_prompt("question_spatial", "Write another.")
    config = config_for(films, build_copy.out, "question.mix.spatial=1", "question.rounds=1")
    server.script = lambda body: "no JSON" if is_about_space(body) else answer_well(body)
    first = run_build(config)
    sent = len(server.requests)
    [group] = forget_rejects(first.folder, stage="question", reason="schema")
    assert (group.stage, group.reason, group.count > 0) == ("question", "schema", True)
    server.script = answer_well
    again = run_build(config)
    rewritten = [request for request in server.requests[sent:] if is_about_space(request.body)]
    assert len(rewritten) == group.count
    assert not any("schema" in stage.rejects for stage in again.metrics if stage.stage == "question")


def test_an_outage_stops_the_stage_and_keeps_what_was_answered(build_copy, films, server):
    folder = plan_build(
        config_for(films, build_copy.out, "question.writers=[model]", "question.min_questions=12"), "another-run"
    )
    for name in ("ingest", "split", "caption", "outline"):
        run_stage(folder, name, 0)
    server.fail(Fault(), Fault(), Fault(status=401))
    with pytest.raises(ModelUnavailable, match="LVR_REASONER_API_KEY"):
        run_stage(folder, "question", 0)
    metrics = run_stage(folder, "question", 0)
    assert metrics.units == 2 and metrics.rows > 0 and metrics.journal_hits["reasoner"] > 0


def test_an_unreachable_model_server_is_reported_before_any_work(films, tmp_path, monkeypatch):
    monkeypatch.setenv("LVR_MODEL_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("LVR_MODEL_NAME", "qwen")
    with pytest.raises(PreflightFailed) as failed:
        run_build(config_for(films, tmp_path / "out"))
    for role in ("captioner", "reasoner", "judge", "target"):
        assert f"{role} http://127.0.0.1:9/v1 (model 'qwen') cannot be reached" in str(failed.value)
    assert not (tmp_path / "out" / "runs").exists()


def test_a_wrong_model_name_is_reported_with_the_known_ones(films, tmp_path, server, monkeypatch):
    monkeypatch.setenv("LVR_JUDGE_MODEL", "gpt-9")
    with pytest.raises(PreflightFailed, match="has no model 'gpt-9'; it lists fake-model"):
        run_build(config_for(films, tmp_path / "out"))


def test_no_partition_begins_another_video_after_a_failure_in_one(tmp_path, monkeypatch):
    """The failure is reported while the other partition is still working, whichever partition starts first."""
    for number in range(4):
        (tmp_path / f"film{number}.mp4").write_bytes(b"never read")
    begun, reported = [], threading.Event()
    both = threading.Barrier(2, timeout=200)
    done = WorkResult(SimpleNamespace(rows=0, rejects=0), reused=False)

    def run_item(store, config, stage, item, cores):
        film = Path(item.sources[0].uri).stem
        begun.append(film)
        both.wait()
        if film == "film2":
            raise ModelUnavailable("the model server does not answer")
        reported.wait(timeout=200)
        return done

    monkeypatch.setattr("operators.build.preflight", lambda config: [])
    monkeypatch.setattr("operators.execution.runner.run_work_item", run_item)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    others = set(threading.enumerate())
    with pytest.raises(ModelUnavailable, match="the model server does not answer"):
        run_build(config_for(tmp_path, tmp_path / "out"))
    at_work = set(threading.enumerate()) - others
    reported.set()
    assert at_work
    for thread in at_work:
        thread.join(timeout=60)
    assert sorted(begun) == ["film0", "film2"]


def test_a_source_without_a_usable_video_is_refused_with_the_reasons(tmp_path, server):
    (tmp_path / "list.csv").write_text("uri\ngone.mp4\n")
    with pytest.raises(NothingToBuild, match=r"none of its 1 videos .*missing_file.*gone\.mp4"):
        run_build(config_for(tmp_path / "list.csv", tmp_path / "out"))


def test_a_run_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunMissing, match="no release of 'longvideo'"):
        latest_run(Store(str(tmp_path)), "longvideo")
    with pytest.raises(RunMissing, match="not a run"):
        RunFolder.open(str(tmp_path))


def test_partitions_hold_all_sources_in_order():
    sources = tuple(Source(source_id=f"v{number}", uri="x", fingerprint="1") for number in range(5))
    partitions = make_partitions(sources, 2)
    assert [len(partition.sources) for partition in partitions] == [2, 2, 1]
    assert sum((partition.sources for partition in partitions), ()) == sources
    assert [partition.label for partition in partitions] == ["v0 +1", "v2 +1", "v4"]


def test_airflow_run_ids_become_legal():
    assert run_id_from("manual__2026-11-22T10:00:00.5+00:00") == "manual__2026-11-22T10-00-00-5-00-00"
    long, other = (run_id_from("x" * 200 + end) for end in "ab")
    assert len(long) == len(other) == 96
    assert long != other


def start(films, out, environ):
    command = [sys.executable, "-m", "operators.cli", "build", "--source", str(films), "--out", str(out)]
    for setting in [*SETTINGS, "partition_videos=1"]:
        command += ["--set", setting]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def journaled_requests(out: Path) -> set[str]:
    """Hashes of all requests whose answers are in the journals."""
    found = set()
    for segment in out.glob("journal/*/*/*.jsonl"):
        for line in segment.read_bytes().split(b"\n"):
            if line.endswith(b"}"):
                record = json.loads(line)
                found |= {record["entry"]["request_sha256"]} if record.get("entry") else set()
    return found


def count_traces(out: Path) -> int:
    """Progress of a build: the number of its files plus the number of lines in its journals."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return len(files) + sum(path.read_bytes().count(b"\n") for path in files if path.suffix == ".jsonl")


def kill_at(build: subprocess.Popen, out: Path, point: int, delay: float) -> bool:
    """Sends SIGKILL `delay` seconds after the build has left `point` traces. Returns False if it ended before."""
    while build.poll() is None:
        if count_traces(out) >= point:
            time.sleep(delay)  # into the middle of the next operation
            build.kill()
            return True
        time.sleep(0.02)
    return False


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [3, pytest.param(16, marks=pytest.mark.slow)])
def test_a_build_killed_again_and_again_ends_as_if_it_never_was(clean_build, films, tmp_path, kills):
    """kill -9 at random points of all stages: same tables, nothing twice, no second request for a journaled answer."""
    out = tmp_path / "killed"
    rng = random.Random(20261122)
    points = sorted(rng.sample(range(count_traces(clean_build.out)), kills))
    killed_builds = 0
    with OpenAIServer(script=answer_well, delay_seconds=0.02) as server:
        environ = server.environ("reasoner", "judge", "target")
        while True:
            held, sent_before = journaled_requests(out), len(server.requests)
            point = next((point for point in points if point > count_traces(out)), sys.maxsize)
            build = start(films, out, environ)
            killed = kill_at(build, out, point, rng.uniform(0.0, 0.1))
            printed, _ = build.communicate()
            request_ids = {request_id(request) for request in server.requests[sent_before:]}
            assert not request_ids & held
            if not killed:
                break
            killed_builds += 1
    assert build.returncode == 0, printed
    assert killed_builds >= kills * 2 // 3  # some points are passed between two polls
    killed_run = latest_run(Store(str(out)), "longvideo")
    assert tables(killed_run) == tables(clean_build.folder)


@pytest.mark.timeout(900)
def test_two_workers_on_the_same_build_leave_one_result(one_film, tmp_path):
    """The model answers differently each time, so the two workers compute different rows. Only one version may stay."""
    out = tmp_path / "shared"
    turns = itertools.count()

    def answer_differently(body):
        if "response_format" not in body:
            return None
        schema = body["response_format"]["json_schema"]["schema"]
        answer = fill_schema(schema, f"{next(turns)}")
        return answer | {"evidence": ["00:02 - 00:08"]} if "evidence" in answer else answer

    with OpenAIServer(script=answer_differently) as server:
        builds = [start(one_film, out, server.environ("reasoner", "judge", "target")) for _ in range(2)]
        printed = [build.communicate()[0] for build in builds]
    assert [build.returncode for build in builds] == [0, 0], printed
    for lines in printed:  # a pipe receives the same lines as a file
        assert all(f"{name} partition 0: 1/1 videos" in lines for name in VIDEO_STAGES) and "\nreport  " in lines
    one, other = [RunFolder.open(str(path)) for path in (out / "runs").iterdir()]
    assert tables(one) == tables(other)
    commits = [json.loads(path.read_text())["key"] for path in out.glob("commits/*/*.json")]
    assert len({(commit["stage"], commit["unit"]) for commit in commits}) == len(commits)


def is_isolated(process):
    """Whether it is a child of a fork server."""
    try:
        return "fork_server" in " ".join(process.parent().cmdline())
    except (psutil.NoSuchProcess, AttributeError):
        return False


def test_ending_a_stage_as_airflow_does_rejects_nothing(films, tmp_path):
    """SIGTERM to every process of the task: the videos in progress are neither finished nor rejected."""
    folder = plan_build(config_for(films, tmp_path / "out"), "run")
    run_stage(folder, "ingest", 0)
    clips = tmp_path / "out" / "commits" / "split"
    command = [sys.executable, "-m", "operators.cli", "stage", folder.url, "split", "--partition", "0"]
    watcher = supervise.start_supervised(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not [child for child in psutil.Process(watcher.pid).children(recursive=True) if is_isolated(child)]:
        assert time.monotonic() < deadline and watcher.poll() is None
        time.sleep(0.05)
    supervise.stop_supervised(watcher)
    commits = [Commit.model_validate_json(path.read_text()) for path in clips.glob("*.json")]
    assert not [commit for commit in commits if commit.rejects and not commit.key.unit.startswith("broken")]
    assert run_stage(folder, "split", 0).rows > 0


def test_a_new_run_removes_what_killed_writers_left(films, tmp_path, server):
    left = tmp_path / "out/tmp" / f"{uuid.uuid4().hex}-left.tar"
    left.parent.mkdir(parents=True)
    left.touch()
    os.utime(left, (0, 0))
    plan_build(config_for(films, tmp_path / "out"), "run")
    assert not left.exists()


def test_a_source_that_vanishes_is_a_reject_and_no_failed_build(films, tmp_path, server):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in ("film0.mp4", "film1.mp4"):
        shutil.copy(films / name, shelf)
    folder = plan_build(config_for(shelf, tmp_path / "out"), "run")
    run_stage(folder, "ingest", 0)
    (shelf / "film0.mp4").unlink()
    titled_video(shelf / "film1.mp4", TITLES[4:8], seed=5)
    metrics = run_stage(folder, "split", 0)
    assert metrics.rejects == {"missing_file": 1, "source_changed": 1}
    shutil.copy2(films / "film0.mp4", shelf)
    shutil.copy2(films / "film1.mp4", shelf)
    folder = plan_build(config_for(shelf, tmp_path / "out"), "restored")
    run_stage(folder, "ingest", 0)
    metrics = run_stage(folder, "split", 0)
    assert (metrics.rejects, metrics.reused) == ({}, 0)


def test_a_table_that_was_deleted_is_made_again(build_copy, films):
    commit = next(iter(build_copy.folder.record("ingest", 0).commits.values()))
    (build_copy.out / object_path(commit.rows_sha256, ".parquet")).unlink()
    again = run_build(config_for(films, build_copy.out))
    assert count_computed(again.metrics)["ingest"] >= 1
    assert tables(again.folder) == tables(build_copy.folder)


def test_interrupting_leaves_no_process_behind(films, tmp_path):
    with OpenAIServer() as server:
        build = start(films, tmp_path / "out", server.environ("reasoner", "judge", "target"))
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob("runs/*/partitions/*")):
            assert time.monotonic() < deadline and build.poll() is None
            time.sleep(0.1)
        time.sleep(1.0)
        family = psutil.Process(build.pid).children(recursive=True)
        build.send_signal(signal.SIGINT)
        printed, _ = build.communicate(timeout=60)
    assert build.returncode == 130 and "run the same command again" in printed
    assert not [process for process in family if process.is_running() and process.status() != "zombie"]


def test_the_journal_holds_every_answer_of_a_build(clean_build):
    assert journaled_requests(clean_build.out) == clean_build.request_ids
