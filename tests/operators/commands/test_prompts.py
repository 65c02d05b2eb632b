"""`lvr prompts` shows what the stages really send, and what a changed prompt changes."""

from __future__ import annotations

import contextlib
import json
import re
import shutil

import pytest

from operators.execution.pipeline import VIDEO_STAGES, stage
from operators.execution.request_trace import NoRequest, TracedRequest, trace_request
from operators.models.prompts import OWN_FOLDER, prompt_ids
from operators.store.run_folder import RunFolder
from schemas.errors import BAD_INPUT_STATUS


@pytest.fixture
def run_copy(built, tmp_path) -> RunFolder:
    """A copy of the build that a test may change."""
    shutil.copytree(built.folder.store.url, tmp_path / "out")
    return RunFolder.open(f"{tmp_path}/out/runs/{built.folder.run.run_id}")


@pytest.fixture(autouse=True)
def endpoints(built, monkeypatch):
    for name, value in built.environ.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def video(built) -> str:
    return built.folder.sources()[0].source_id


def add_line(folder, prompt_id: str) -> None:
    path = folder / f"{prompt_id}.md"
    path.write_text(path.read_text() + "Mind the weather.\n")


def sent(built) -> dict[str, dict]:
    """Bodies of the requests that the server received, by the hash that they were sent with."""
    headers = [{name.lower(): value for name, value in seen.headers.items()} for seen in built.server.requests]
    ids = [each["x-request-id"].removeprefix("lvr-") for each in headers]
    return {sha256: seen.body for sha256, seen in zip(ids, built.server.requests, strict=True)}


@pytest.fixture(scope="session")
def traced(built, video) -> dict[str, TracedRequest]:
    """The first request about the video with each prompt that the build used."""
    found = {}
    for prompt_id in used_prompts(built.folder):
        try:
            found[prompt_id] = trace_request(built.folder, prompt_id, video, built.environ)
        except NoRequest as none:  # a prompt for a case that this small build does not have
            assert "makes none about this video" in str(none)
    return found


@pytest.fixture(scope="session")
def with_frames(traced) -> str:
    """Id of a prompt whose request has frames."""
    return next(prompt_id for prompt_id, found in traced.items() if found.request.frames)


def used_prompts(folder: RunFolder) -> list[str]:
    commits = [commit for record in folder.records() for commit in record.commits.values()]
    return sorted({prompt.prompt_id for commit in commits for prompt in commit.key.prompts})


def test_a_traced_request_is_what_the_model_was_sent(built, traced):
    bodies = sent(built)
    assert len(traced) >= 4 and any(found.request.frames for found in traced.values())
    for found in traced.values():
        body = bodies[found.exchange.sha256]
        assert found.exchange.messages() == body["messages"]
        assert found.exchange.response_format() == body.get("response_format")
        assert found.answer is not None and found.answer.request_sha256 == found.exchange.sha256


def test_tracing_sends_nothing(built, run_copy, video, traced):
    before = len(built.server.requests)
    shutil.rmtree(f"{run_copy.store.url}/journal")
    for prompt_id in traced:
        with contextlib.suppress(NoRequest):
            assert trace_request(run_copy, prompt_id, video).answer is None
    assert len(built.server.requests) == before
    assert not run_copy.store.list("journal")


def test_show_prints_the_request_of_a_video_and_its_answer(lvr, built, video, traced, with_frames):
    status, out, _ = lvr("prompts", "show", with_frames, "--video", video, "--run", built.folder.url)
    assert status == 0
    found = traced[with_frames]
    titles = [line.removeprefix("##### ") for line in out.splitlines() if line.startswith("##### ")]
    assert [title for title in titles if title != "system"] == [
        "request",
        "user",
        "response_format",
        "sampling",
        "sha256",
        "answer in the journal",
    ]
    assert found.request.text in out and found.exchange.sha256 in out and found.answer.raw in out
    assert "<image/jpeg, " in out and "base64" not in out


def test_show_uses_the_prompts_as_they_are_now(lvr, built, video, edited, with_frames):
    add_line(edited, with_frames)
    status, out, _ = lvr("prompts", "show", with_frames, "--video", video, "--run", built.folder.url)
    assert status == 0
    assert "Mind the weather." in out and "none: a build would send this request" in out


def test_a_request_that_depends_on_a_missing_answer_is_not_guessed(run_copy, video, traced):
    shutil.rmtree(f"{run_copy.store.url}/journal")
    first, later = [], []
    for prompt_id in traced:
        try:
            assert trace_request(run_copy, prompt_id, video).answer is None  # it depends on no answer
            first.append(prompt_id)
        except NoRequest as none:
            assert re.search(
                rf"prompt {prompt_id}, video {video}: .*after others that the journal has no an", str(none)
            )
            later.append(prompt_id)
    assert first and later


def test_show_prints_source_includes_schema_and_variables(lvr):
    status, out, _ = lvr("prompts", "show", "question_goal")
    assert status == 0
    assert (OWN_FOLDER / "question_goal.md").read_text() in out
    assert f"=== _question_rules.md ===\n{(OWN_FOLDER / '_question_rules.md').read_text()}" in out
    assert "JSON schema of the answer for open questions (WrittenOpen)" in out
    assert "around, asked, category, complete, duration, entities, kind, reach, story" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing"], "prompt file nothing.md cannot be read"),
        (["show", "judge", "--video", "v"], "--video needs --run, and --run needs --video"),
        (["show", "judge", "--video", "v", "--run", "{run}"], "no video 'v'; it has 1, such as film"),
        (["show", "same_prompt", "--video", "{video}", "--run", "{run}"], "same_prompt.md cannot be read"),
        (["diff", "none", "none"], "none: no prompts there; name a folder with files <id>.md"),
        (["diff", "none", "out/runs/none"], "none: no prompts there"),
    ],
)
def test_a_wrong_argument_is_named(lvr, built, video, arguments, message):
    filled = [each.format(run=built.folder.url, video=video) for each in arguments]
    status, _, err = lvr("prompts", *filled)
    assert (status, message in err) == (BAD_INPUT_STATUS, True), err


def test_list_names_every_prompt_and_marks_those_that_differ_from_the_projects(lvr, edited):
    (edited / "judge.md").write_text((edited / "judge.md").read_text() + "Be strict.\n")
    (edited / "my_prompt.md").write_text((edited / "judge.md").read_text().replace("id: judge", "id: my_prompt"))
    (edited / "refine.md").unlink()
    status, out, err = lvr("prompts", "list")
    assert status == 0
    listed = [*sorted({*prompt_ids(OWN_FOLDER), "my_prompt"} - {"refine"}), "refine (missing)"]
    marks = {"judge": "judge (changed)", "my_prompt": "my_prompt (added)"}
    assert [line.split("  ")[0] for line in out.splitlines()[1:]] == [marks.get(each, each) for each in listed]
    assert f"read from {edited} (LVR_PROMPTS)" in err


def test_diff_of_folders_shows_the_change_and_the_rows_of_a_run_that_become_stale(lvr, built, edited, with_frames):
    add_line(edited, with_frames)
    (edited / "judge.md").write_text((edited / "judge.md").read_text().replace("purpose: ", "purpose: Soon, "))
    status, out, _ = lvr("prompts", "diff", OWN_FOLDER, edited, "--run", built.folder.url)
    assert status == 0
    assert out.startswith(f"{with_frames}: changed\n--- {OWN_FOLDER}/{with_frames}.md\n+++ {edited}/{with_frames}.md\n")
    assert [line for line in out.splitlines() if line.startswith("+") and "+++" not in line] == ["+Mind the weather."]
    name = next(name for name in VIDEO_STAGES if with_frames in stage(name).prompts)
    rows = built.folder.record(name, 0).commits.popitem()[1].rows
    assert f"\nstale: {name}: {rows} rows of 1 work items (uses {with_frames})\n" in out
    assert "stale if the rows that it reads change: assemble: " in out
    assert "ingest" not in out


def test_diff_of_equal_prompts_is_empty(lvr, built):
    assert lvr("prompts", "diff", OWN_FOLDER, OWN_FOLDER)[:2] == (0, "no prompt differs\n")
    assert lvr("prompts", "diff", built.folder.url, built.folder.url)[:2] == (0, "no prompt differs\n")


def test_diff_of_a_run_with_a_folder_uses_the_texts_that_the_run_was_built_with(lvr, built, edited):
    prompt_id = used_prompts(built.folder)[-1]
    text = (edited / f"{prompt_id}.md").read_text()
    (edited / f"{prompt_id}.md").write_text(text + "One more line.\n")
    status, out, _ = lvr("prompts", "diff", built.folder.url, edited)
    assert status == 0
    assert f"{prompt_id}: changed\n" in out and "+One more line.\n" in out
    assert f"(uses {prompt_id})" in out


def test_diff_of_a_run_only_names_prompts_that_the_run_did_not_use(lvr, built, edited):
    status, out, _ = lvr("prompts", "diff", built.folder.url, edited)
    assert status == 0
    [line] = [line for line in out.splitlines() if line.startswith("not compared, because a run did not use them: ")]
    unused = line.partition(": ")[2].split(", ")
    assert unused == sorted(set(prompt_ids(edited)) - set(used_prompts(built.folder)))
    assert not any(f"{prompt_id}.md" in out for prompt_id in unused)


def test_diff_of_a_run_without_texts_reports_it(lvr, run_copy, edited):
    shutil.rmtree(f"{run_copy.store.url}/{run_copy.address}/prompts")
    prompt_id = used_prompts(run_copy)[0]
    (edited / f"{prompt_id}.md").write_text((edited / f"{prompt_id}.md").read_text() + "One more line.\n")
    status, out, _ = lvr("prompts", "diff", run_copy.url, edited)
    assert status == 0
    assert f"{prompt_id}: changed\n(a run of an earlier version did not write its text)" in out


def test_show_prints_json_that_can_be_read(lvr):
    _, out, _ = lvr("prompts", "show", "judge")
    schema = out.partition("(Verdict)\n")[2].partition("\n\n#####")[0]
    assert json.loads(schema)["required"] == ["same"]
