"""The command line: exit statuses that show whether to retry, and messages that name the fix.

The work behind the commands is tested with the modules they call, and with the DAGs, which run the same commands.
"""

import http.server
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import s3fs
from rich.console import Console

from operators.build import BuildResult
from operators.cli import _Lines
from operators.execution.progress import StageProgress
from operators.process.exit_status import EXIT_STATUSES, INTERRUPTED_STATUS
from operators.release.publish import publish
from operators.report import write_report
from schemas.config import BuildConfig, ModelsConfig
from schemas.errors import BAD_INPUT_STATUS, FAULT_STATUS, OUTAGE_STATUS
from schemas.tables import Reject
from tests.support.openai_server import OpenAIServer
from tests.support.synthetic_run import synthetic_run

ROOT = Path(__file__).resolve().parents[2]


BAD_SOURCES = {
    "empty": "source '{0}' holds no video: no file ends in .3g2",
    "nowhere": "source '{0}' does not exist; give a folder of videos or a manifest",
    "text.csv": "manifest '{0}': unknown column 'sauce'; known are uri, source_id",
    "half.json": "list '{0}' cannot be read: Expecting",
    "gone.csv": "none of its 1 videos can be used; the first: missing_file: {1}/gone.mp4: no such file; restore it",
    "notes.txt": "source '{0}': not a folder, and not a .csv, .json or .jsonl manifest",
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_a_source_that_cannot_be_built_from_is_named_before_any_work(lvr, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.csv").write_text("uri,sauce\na.mp4,b\n")
    (tmp_path / "half.json").write_text('[{"uri": ')
    (tmp_path / "gone.csv").write_text("uri\ngone.mp4\n")
    (tmp_path / "notes.txt").write_text("a.mp4\n")
    status, _, stderr = lvr("build", "--source", tmp_path / name, "--out", tmp_path / "out")
    assert status == BAD_INPUT_STATUS
    assert BAD_SOURCES[name].format(tmp_path / name, tmp_path) in stderr
    assert not list((tmp_path / "out").glob("runs/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "spilt.mode=fixed"], "spilt: no such field; did you mean 'split'?"),
        (
            ["--set", "split.min_seconds=11"],
            "min_seconds (11.0) <= clip_seconds (10.0) <= max_seconds (12.0) must hold",
        ),
        (["--set", "verify.blind_share=2"], "verify.blind_share: Input should be less than or equal to 0.99, got 2"),
        (["--config", "none.yaml"], "config file none.yaml: [Errno 2] No such file"),
        (["--sauce", "x"], "No such option: --sauce"),
        (["--concurrent-partitions", "0"], "Invalid value for '--concurrent-partitions'"),
    ],
)
def test_an_invalid_setting_is_named_before_any_work(lvr, tmp_path, arguments, message):
    status, _, stderr = lvr("build", "--source", tmp_path, "--out", tmp_path / "out", *arguments)
    assert (status, message in stderr) == (BAD_INPUT_STATUS, True), stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'"),
        (["stage", "out/runs/r", "ingest", "--partition", "0"], "out/runs/r: no run there; list the folder out/runs"),
        (["publish", "out"], "out: not a run; a run's address ends in /runs/<run id>"),
        (["stale", "--out", "out"], "out: no release there; build and publish one first"),
        (["validate", "out"], "no manifest.json; a release's address ends in /releases/<name>/v<number>"),
        (["schema", "Sampel"], "no model named 'Sampel'; known are Annotation"),
        (["preflight", "--config-json", "{"], "--config-json is not JSON"),
    ],
)
def test_a_wrong_argument_is_named(lvr, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, stderr = lvr(*arguments)
    assert (status, message in stderr) == (BAD_INPUT_STATUS, True), stderr


def test_an_outage_has_a_status_of_its_own(lvr, tmp_path, monkeypatch):
    """A new run resumes where this one stopped. Airflow retries its tasks on this exit status only."""
    folder = synthetic_run(tmp_path, videos=1, until="outline")
    with OpenAIServer(models=("reasoner-120b",), api_key="right") as server:
        environ = server.environ("reasoner") | server.environ("judge") | {"LVR_REASONER_API_KEY": "wrong"}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        status, _, stderr = lvr("stage", folder.url, "question", "--partition", "0")
    assert status == OUTAGE_STATUS
    assert "refused the key (HTTP 401); set LVR_REASONER_API_KEY" in stderr


def test_a_replay_of_a_run_with_a_secret_in_its_source_takes_nothing_back(lvr, tmp_path):
    folder = synthetic_run(tmp_path, videos=1)
    requested = folder.run.requested.model_copy(update={"source": "https://me:PASSWORD@host/list.csv"})
    run = folder.run.model_copy(update={"requested": requested})
    folder.store.write(f"{folder.address}/run.json", run.model_dump_json().encode())
    status, _, stderr = lvr("replay", folder.url)
    assert (status, "source: https://host/list.csv was given with a user" in stderr) == (2, True), stderr
    assert "PASSWORD" not in stderr
    commits = [commit for record in folder.records() for commit in record.commits.values()]
    assert all(folder.store.find_commit(commit.key.stage, commit.key_sha256) == commit for commit in commits)


def test_a_replay_with_other_models_takes_nothing_back(lvr, tmp_path):
    folder = synthetic_run(tmp_path, videos=4)
    open_request = folder.run.requested.model_copy(update={"models": ModelsConfig()})
    run = folder.run.model_copy(update={"requested": open_request})
    folder.store.write(f"{folder.address}/run.json", run.model_dump_json().encode())
    status, _, stderr = lvr("replay", folder.url)
    assert (status, "captioner: it was built with 'vlm-8b', here it would be 'measured'" in stderr) == (2, True), stderr
    commits = [commit for record in folder.records() for commit in record.commits.values()]
    assert all(folder.store.find_commit(commit.key.stage, commit.key_sha256) == commit for commit in commits)


def test_ctrl_c_ends_the_program_though_nobody_reads_its_output(tmp_path):
    """`lvr build 2>&1 | tee log`: the same Ctrl-C has ended `tee`, while a thread of this process is busy."""
    code = """if True:
        import os, signal, sys, threading, time
        from operators import cli

        @cli.app.command()
        def busy():
            threading.Thread(target=time.sleep, args=(600,)).start()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(600)

        sys.argv = ["lvr", "busy"]
        cli.main()
    """
    unread, stderr = os.pipe()
    os.close(unread)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, stderr=stderr, timeout=60)
    finally:
        os.close(stderr)
    assert ended.returncode == INTERRUPTED_STATUS


def test_schemas_and_help_are_printed(lvr):
    assert json.loads(lvr("schema", "BuildConfig")[1]) == BuildConfig.model_json_schema()
    status, output, _ = lvr()
    assert status == 0 and all(command in output for command in ("build", "demo-films", "replay", "validate"))


def test_a_plan_is_one_json_line_on_standard_output(lvr, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"not read yet")
    (tmp_path / "list.csv").write_text("uri,source_id\nfilm.mp4,a\nfilm.mp4,a\n")
    config = BuildConfig(source=str(tmp_path / "list.csv"), out=str(tmp_path / "out"))
    status, output, stderr = lvr(
        "plan", "--config-json", config.model_dump_json(), "--run-id", "manual__2026-11-22T10:00"
    )
    assert (status, json.loads(output)) == (
        0,
        {
            "run": f"{tmp_path}/out/runs/manual__2026-11-22T10-00",
            "partitions": [{"partition": 0, "label": "a"}],
            "videos": 1,
            "rejects": 1,
        },
    )
    assert "rejected: duplicate_id:" in stderr and "Give one of them another source_id" in stderr


def test_a_plan_reports_what_it_skipped_in_the_source(lvr, tmp_path):
    (tmp_path / "films").mkdir()
    for name in ("a.mp4", "a.srt", "b.srt", "c.mp4.part", ".d.mp4"):
        (tmp_path / "films" / name).write_bytes(b"not read yet")
    config = BuildConfig(source=str(tmp_path / "films"), out=str(tmp_path / "out"))
    _, _, stderr = lvr("plan", "--config-json", config.model_dump_json(), "--run-id", "one")
    skipped = "2 .srt files, 1 hidden files and folders, 1 unfinished downloads"
    assert f"skipped in the source (not videos): {skipped}" in stderr


def test_the_pipeline_is_named_without_the_heavy_packages(tmp_path):
    """Each task of the DAGs starts this program once, so start-up must not import heavy packages."""
    code = (
        "import json, sys, operators.cli; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert set(json.loads(done.stdout)).isdisjoint({"airflow", "torch", "cv2", "av", "scenedetect", "openai", "pandas"})


def test_every_exit_status_is_in_the_help_and_in_the_docs(lvr):
    help_text = " ".join(re.sub("[│|]", " ", lvr("--help")[1]).split())
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    assert {int(status): what for status, what in rows} == EXIT_STATUSES
    assert all(f"{status}: {what}" in help_text for status, what in EXIT_STATUSES.items())


def test_a_fault_of_the_program_has_a_traceback_and_a_status_of_its_own(tmp_path):
    code = """if True:
        import sys
        from operators import cli

        @cli.app.command()
        def broken():
            raise KeyError("a bug")

        sys.argv = ["lvr", "broken"]
        cli.main()
    """
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (FAULT_STATUS, "KeyError: 'a bug'")


def test_progress_in_a_file_has_lines_for_each_stage_and_on_request_what_is_running():
    """Lines are written as the build proceeds, so that the log of a build of several days can be read meanwhile."""
    file = io.StringIO()
    lines = _Lines(Console(file=file))
    lines.print_running()
    for done in (0, 1):
        lines.report(StageProgress("ingest", 0, done=done, reused=0, total=2, rejects=0, seconds=30.0 * done))
    lines.print_running()
    lines.emit(logging.LogRecord("operators", logging.INFO, "", 0, "%d of %d s", (3, 7), None))
    lines.report(StageProgress("ingest", 0, done=2, reused=0, total=2, rejects=1, seconds=60.0))
    lines.print_running()
    assert [line.split(" s  ", 1)[1] for line in file.getvalue().splitlines()] == [
        "no stage is running",
        "ingest partition 0: 0/2 videos, 0 rejects",
        "ingest partition 0: 1/2 videos, 2.0 a minute, 30 s left, 0 rejects",
        "3 of 7 s",
        "ingest partition 0: 2/2 videos, 2.0 a minute, 0 s left, 1 rejects",
        "no stage is running",
    ]


@pytest.fixture
def broken_store(request, s3_bucket, monkeypatch):
    """URL of an object store that cannot be used, and the beginning of the expected error message."""
    kind = request.param
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    url, message = s3_bucket, ""
    if kind == "no credentials":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        message = "no credentials (Unable to locate credentials); set AWS_ACCESS_KEY_ID"
    elif kind == "access denied":
        monkeypatch.setenv("AWS_ENDPOINT_URL", refusing_server(request))
        message = "access denied (Forbidden); correct the address, or give credentials"
    elif kind == "refused":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
        message = "no answer (Could not connect to the endpoint URL"
    elif kind == "no endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
        message = "cannot be opened (Invalid endpoint: 127.0.0.1:9000); correct the address, that of its server"
    else:
        url = "s3://lvr-nobody-made-this"
        message = ""
    s3fs.S3FileSystem.clear_instance_cache()
    return kind, url, message


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def refusing_server(request):
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request.addfinalizer(server.server_close)
    request.addfinalizer(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}"


BROKEN_STORES = ["no credentials", "access denied", "refused", "no endpoint", "no bucket"]
NO_BUCKET = {
    "plan": "no such bucket or container; create it, or choose another `out`",
    "build": "source 's3://lvr-nobody-made-this/films' does not exist",
    "validate": "no manifest.json; a release's address ends in /releases/<name>/v<number>",
    "stale": "no release there; build and publish one first",
    "report": "no run there; list the folder",
}


@pytest.mark.parametrize("command", NO_BUCKET)
@pytest.mark.parametrize("broken_store", BROKEN_STORES, indirect=True)
def test_an_object_store_that_cannot_be_used_is_named_with_what_to_do(lvr, tmp_path, broken_store, command):
    kind, url, message = broken_store
    (tmp_path / "film.mp4").write_bytes(b"film")
    arguments = {
        "plan": ["--config-json", json.dumps({"source": str(tmp_path), "out": f"{url}/out"}), "--run-id", "one"],
        "build": ["--source", f"{url}/films", "--out", tmp_path / "out"],
        "validate": [f"{url}/releases/demo/v0001"],
        "stale": ["--out", f"{url}/out"],
        "report": [f"{url}/out/runs/one"],
    }
    status, _, stderr = lvr(command, *arguments[command])
    assert (message or NO_BUCKET[command]) in stderr
    assert f"{url}/" in stderr and stderr.count("error:") == 1 and len(stderr) < 900 and "Traceback" not in stderr
    assert status == (OUTAGE_STATUS if kind == "refused" else BAD_INPUT_STATUS)


def test_a_host_that_refuses_is_a_reject_of_its_entry_unless_it_is_the_only_one(lvr, tmp_path):
    away = f"http://127.0.0.1:{closed_port()}"
    (tmp_path / "film.mp4").write_bytes(b"film")
    for name, uris in {"some": [f"{away}/a.mp4", "film.mp4"], "none": [f"{away}/a.mp4"]}.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["uri", *uris]) + "\n")
    plan = {"out": str(tmp_path / "out"), "allowed_roots": [away]}
    status, printed, stderr = lvr(
        "plan", "--config-json", json.dumps(plan | {"source": str(tmp_path / "some.csv")}), "--run-id", "one"
    )
    assert (status, json.loads(printed)["videos"], json.loads(printed)["rejects"]) == (0, 1, 1)
    assert f"rejected: unreachable: {away}/a.mp4: no answer" in stderr
    status, _, stderr = lvr(
        "plan", "--config-json", json.dumps(plan | {"source": str(tmp_path / "none.csv")}), "--run-id", "two"
    )
    assert (status, f"none of its 1 videos answers: {away}/a.mp4: no answer" in stderr) == (OUTAGE_STATUS, True)


def test_a_report_prints_the_findings_and_counts_them(lvr, tmp_path):
    folder = synthetic_run(tmp_path / "out", videos=2)
    status, output, stderr = lvr("report", folder.url)
    found = folder.findings()
    assert (status, json.loads(output)) == (0, {"report": f"{folder.url}/report.html", "findings": found.counts()})
    assert stderr.split() == " ".join(map(str, found.problems)).split()


def test_a_build_that_left_videos_to_the_next_run_names_them_and_has_the_status_of_an_outage(
    lvr, tmp_path, monkeypatch
):
    """The build still publishes the other videos."""
    folder = synthetic_run(tmp_path / "out", videos=4, until="shard", media=True)
    write_report(folder)
    published = publish(folder)
    record = folder.record("split", 0)
    video, commit = next(iter(record.commits.items()))
    met = Reject(stage="split", unit=video, key=video, reason="system_error", message=f"{video}: a bad sector")
    commit = commit.model_copy(update={"rejects": 1, "rejects_sha256": folder.store.put_rows([met], Reject)})
    folder.write_record(record.model_copy(update={"commits": {**record.commits, video: commit}}))
    monkeypatch.setattr("operators.build.run_build", lambda *_, **__: BuildResult(folder, published, ()))
    status, output, stderr = lvr("build", "--source", tmp_path, "--out", tmp_path / "out")
    assert (status, "shards  " in output) == (OUTAGE_STATUS, True)
    assert "videos skipped because of faults of the machine: 1; fix its disk" in stderr
    assert f"{video}: a bad sector" in stderr
    status, _, stderr = lvr("publish", folder.url)
    assert (status, f"{video}: a bad sector" in stderr) == (0, True)
