"""Fixtures for all tests: an S3-compatible server, a disk that fills up, and no model endpoints from the outside."""

import contextlib
import os
import subprocess
import uuid

import pytest

from tests.support.properties import settings

# Before anything imports torch: its threads wait by spinning, and beside other work take three times what they need.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines are shared: how long one example takes says nothing.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")


LONGEST = (
    "tests/e2e/test_airflow_ui.py",
    "tests/operators/test_build.py",
    "tests/trainer_plugin/test_parity.py",
    "tests/operators/local_airflow/test_standalone.py",
    "tests/trainer_plugin/test_sft.py",
    "tests/operators/video/test_fuzz.py",
)
"""What would run on alone at the end if it did not come first: workers take whole files."""


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(scope="session", autouse=True)
def no_endpoints_from_outside():
    """Tests, and what is built once for many of them, must not talk to whatever models the developer has configured."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("LVR_", "AIRFLOW_CONN_"))]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def s3_server():
    """The address of a real HTTP server that speaks S3. Skips where moto is not installed."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server, monkeypatch):
    """The URL of a fresh bucket, `s3://…`; the environment points fsspec's S3 to the server. Skips without s3fs."""
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
    """A context in which folders and files have to allow what is done: where tests run as root, it is left for nobody.

    It makes the folders above the given one open to all.
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
    """A folder on a disk of its own with room for one megabyte. Skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
