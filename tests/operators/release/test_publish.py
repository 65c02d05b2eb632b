"""Finding a published dataset again without its name."""

import pytest

from operators.release.publish import SeveralDatasets, only_name
from operators.runs import RunMissing
from operators.store import Store
from schemas.run import LatestRelease


def publish_as(store: Store, name: str) -> None:
    latest = LatestRelease(version=1, run_id=f"{name}-run")
    store.write(f"releases/{name}/latest.json", latest.model_dump_json().encode())


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    return Store(str(tmp_path / "a [b]") if request.param == "local" else f"{request.getfixturevalue('s3_bucket')}/lvr")


def test_the_only_dataset_needs_no_name_and_of_several_one_must_be_named(store):
    with pytest.raises(RunMissing, match="no release there"):
        only_name(store)
    publish_as(store, "films")
    store.write("releases/unfinished/v0001.claim", b"0")
    assert only_name(store) == "films"
    publish_as(store, "cartoons")
    with pytest.raises(SeveralDatasets, match="holds the datasets cartoons, films; name one of them"):
        only_name(store)
