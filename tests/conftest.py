"""Fixtures for all tests: an S3-compatible server, a disk that fills up, and no model endpoints from outside."""

import contextlib
import gc
import os
import subprocess
import uuid

import pytest

from tests.support.properties import settings

# Set before anything imports torch: its idle threads busy-wait, and next to other work take three times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every worker imports all packages before the first test. The garbage collector would search them again and again and
# find nothing, which takes a fifth of that time.
gc.disable()

# Machines are shared, so the duration of one example means nothing.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")


LONGEST = (
    "tests/e2e/test_airflow_ui.py",
    "tests/operators/test_build.py",
    "tests/trainer_plugin/rl/test_toy_world.py",
    "tests/trainer_plugin/test_sft.py",
    "tests/trainer_plugin/test_parity.py",
    "tests/trainer_plugin/test_grpo.py",
    "tests/operators/demo/local_airflow/test_standalone.py",
    "tests/trainer_plugin/rl/test_video_cache.py",
    "tests/trainer_plugin/evaluation/test_during_training.py",
    "tests/trainer_plugin/test_hf_trainer.py",
    "tests/trainer_plugin/training/test_checkpoint.py",
    "tests/trainer_plugin/data/test_row_loader.py",
    "tests/trainer_plugin/training/test_export.py",
    "tests/trainer_plugin/rl/test_update.py",
    "tests/compatibility/test_store_62b2544.py",
    "tests/operators/video/test_fuzz.py",
)
"""Test files that run first. Workers take whole files, so these would run on alone at the end if they came later."""


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def pytest_collection_finish():
    gc.freeze()  # what is imported stays, so tests need not search it either
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_endpoints_from_outside():
    """Tests and session fixtures must not use model endpoints that the developer has configured."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("LVR_", "AIRFLOW_CONN_"))]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def s3_server():
    """URL of a real HTTP server with the S3 API. Skips if moto is not installed."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server, monkeypatch):
    """URL of a new bucket, `s3://…`. The environment points fsspec's S3 to the test server. Skips without s3fs."""
    s3fs = pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"lvr-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def unprivileged():
    """Context manager in which file permissions apply: if the tests run as root, it switches to the user nobody.

    It makes the given folder and those above it accessible to all users (mode 755).
    """

    @contextlib.contextmanager
    def become_nobody(folder):
        if os.geteuid() != 0:
            yield
            return
        for each in (folder, *folder.parents[:-2]):
            each.chmod(0o755)
        nobody = 65534
        os.setresuid(nobody, nobody, 0)
        try:
            yield
        finally:
            os.setresuid(0, 0, 0)

    return become_nobody


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own with room for one megabyte. Skips if none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
