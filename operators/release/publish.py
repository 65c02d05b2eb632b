"""Publish a run's files as a release: a folder that any loader reads, versioned, verified and written manifest last.

    releases/{name}/v0001/data/{split}/*.tar  parquet/{split}.parquet  README.md  report.html  manifest.json
    releases/{name}/latest.json               which version is the newest
    releases/{name}/v0001.claim               which content the version number was given to

Equal content is never published twice: the digest over all paths and hashes decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from operators.losses import why_empty
from operators.runs import RunFolder, RunMissing
from operators.store import Store
from schemas.base import digest, parse_json
from schemas.errors import BadInput
from schemas.run import LatestRelease, Release, ReleaseFile


class EmptyRelease(BadInput):
    """No sample came through verification; there is nothing to publish. The message says where they went."""


class SeveralDatasets(BadInput):
    """Which dataset is meant must be said."""


@dataclass(frozen=True)
class Published:
    """A release and where it is. `is_new` is False when the newest release has this very content already."""

    release: Release
    url: str
    is_new: bool


def publish(folder: RunFolder) -> Published:
    """Publish the files that the run's shard stage made.

    Raises:
        EmptyRelease: there are none.
    """
    store = folder.store
    name = folder.run.config.name
    [commit] = folder.record("shard", None).commits.values()
    files = store.get_rows(commit.rows_sha256, ReleaseFile)
    if not files:
        raise EmptyRelease(
            f"run {folder.run.run_id}: nothing to publish: {why_empty(folder)}. {folder.url}/report.html shows them all"
        )
    content = digest([[file.path, file.sha256] for file in files])
    newest = newest_release(store, name)
    if newest is not None and newest.content_sha256 == content:
        _point_to(store, folder, newest.version)
        made_by_this_run = newest.run_id == folder.run.run_id  # which ended before it could say so
        return Published(newest, _url(store, name, newest.version), is_new=made_by_this_run)
    tars = [file for file in files if file.path.startswith("data/")]
    release = Release(
        name=name,
        version=_claim_version(store, name, content, newest.version + 1 if newest else 1),
        run_id=folder.run.run_id,
        content_sha256=content,
        samples=_by_split(tars, "samples"),
        videos=_by_split(tars, "videos"),
        files=tuple(files),
    )
    _write(store, folder, release)
    return Published(release, _url(store, name, release.version), is_new=True)


def newest_release(store: Store, name: str) -> Release | None:
    """The newest published release of a dataset, or None."""
    latest = _latest(store, name)
    if latest is None:
        return None
    address = f"{_address(name, latest.version)}/manifest.json"
    return parse_json(store.read(address), Release, f"{store.url}/{address}")


def latest_run(store: Store, name: str) -> RunFolder:
    """The run that published last, or found that its content had been published already.

    Raises:
        RunMissing: nothing has been published under that name.
    """
    latest = _latest(store, name)
    if latest is None:
        raise RunMissing(f"{store.url}: no release of {name!r} there; build and publish it first")
    return RunFolder.open(f"{store.url}/runs/{latest.run_id}")


def only_name(store: Store) -> str:
    """The name of the one dataset that has been published there.

    Raises:
        RunMissing: there is none.
        SeveralDatasets: there are several, which the message names.
    """
    folder = f"{store.root}/releases"
    entries = store.fs.ls(folder, detail=False) if store.fs.exists(folder) else []
    found = sorted(name for entry in entries if _latest(store, name := entry.rstrip("/").rpartition("/")[2]))
    if not found:
        raise RunMissing(f"{store.url}: no release there; build and publish one first")
    if len(found) > 1:
        raise SeveralDatasets(f"{store.url}: holds the datasets {', '.join(found)}; name one of them")
    return found[0]


def _latest(store: Store, name: str) -> LatestRelease | None:
    try:
        address = f"releases/{name}/latest.json"
        return parse_json(store.read(address), LatestRelease, f"{store.url}/{address}")
    except FileNotFoundError:
        return None


def _point_to(store: Store, folder: RunFolder, version: int) -> None:
    before = _latest(store, folder.run.config.name)
    if before is not None and before.version > version:
        return  # a run that published meanwhile was given a later version
    latest = LatestRelease(version=version, run_id=folder.run.run_id)
    store.write(f"releases/{folder.run.config.name}/latest.json", latest.model_dump_json(indent=1).encode())


def _claim_version(store: Store, name: str, content: str, version: int) -> int:
    """The first version from `version` on that is free, or that was claimed for this very content.

    Two runs that publish at once get two versions, and one that was killed while publishing gets its own again.
    """
    while True:
        claim = f"{_address(name, version)}.claim"
        store.write(claim, content.encode(), replace=False)
        if store.read(claim).decode() == content:
            return version
        version += 1


def _write(store: Store, folder: RunFolder, release: Release) -> None:
    from operators.release.card import dataset_card  # pandas: nobody who only looks for a release waits for it

    address = _address(release.name, release.version)
    for file in release.files:
        store.name_object(file.sha256, f"{address}/{file.path}")
    store.write(f"{address}/README.md", dataset_card(release, folder.run).encode())
    store.write(f"{address}/report.html", store.read(f"{folder.address}/report.html"))
    store.write(f"{address}/manifest.json", release.model_dump_json(indent=1).encode())
    _point_to(store, folder, release.version)


def _by_split(files: list[ReleaseFile], count: str) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for file in files:
        totals[file.split] += getattr(file, count)
    return dict(totals)


def _address(name: str, version: int) -> str:
    return f"releases/{name}/v{version:04d}"


def _url(store: Store, name: str, version: int) -> str:
    return f"{store.url}/{_address(name, version)}"
