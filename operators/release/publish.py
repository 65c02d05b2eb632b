"""Publishes a run's files as a release: a versioned folder that any loader reads, with the manifest written last.

    releases/{name}/v0001/data/{split}/*.tar  parquet/{split}.parquet  README.md  report.html  manifest.json
    releases/{name}/latest.json               the newest version
    releases/{name}/v0001.claim               the content that claims the version number

Equal content is never published twice: the digest over all paths and hashes decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from operators.execution.rejects import explain_empty_release, temporary_rejects
from operators.store.content_store import Store
from operators.store.run_folder import RunFolder, RunMissing
from schemas.base import parse_json
from schemas.errors import BadInput, Outage
from schemas.run import LatestRelease, Release, ReleaseFile, content_digest
from schemas.storage import outages


class EmptyRelease(BadInput):
    """No sample passed verification, so there is nothing to publish. The message says where they were rejected."""


class AmbiguousDataset(BadInput):
    """A store holds several datasets, and none of them was named."""


@dataclass(frozen=True)
class Published:
    """A release and its address.

    `is_new` is False if another run had published the same content before.
    """

    release: Release
    url: str
    is_new: bool


def publish(folder: RunFolder) -> Published:
    """Publish the files that the run's shard stage made.

    Raises:
        EmptyRelease: there are no files.
        Outage: there are no files, and failures of the machine contributed to that.
    """
    store = folder.store
    name = folder.run.config.name
    [commit] = folder.record("shard", None).commits.values()
    files = store.get_rows(commit.rows_sha256, ReleaseFile)
    if not files and (met := temporary_rejects(folder)):
        raise Outage(
            f"run {folder.run.run_id}: nothing to publish yet, as the machine failed on {len(met)} videos; fix its "
            f"disk, mount or memory and run again. The first: {met[0].message}"
        )
    if not files:
        raise EmptyRelease(
            f"run {folder.run.run_id}: nothing to publish: {explain_empty_release(folder)}. {folder.url}/report.html "
            f"shows them all"
        )
    content = content_digest(files)
    release = newest_release(store, name)
    if release is None or release.content_sha256 != content:
        release = _write(store, folder, _new_release(folder, files, content, _next_version(store, name)))
    _point_to(store, name, LatestRelease(version=release.version, run_id=folder.run.run_id))
    made_by_this_run = release.run_id == folder.run.run_id  # now, or before it was interrupted
    return Published(release, f"{store.url}/{_address(name, release.version)}", is_new=made_by_this_run)


def newest_release(store: Store, name: str) -> Release | None:
    """The newest published release of a dataset. None if there is none, or if its folder was deleted."""
    latest = _latest(store, name)
    return None if latest is None else _release(store, name, latest.version)


def latest_run(store: Store, name: str) -> RunFolder:
    """The run that published last, or that found its content already published.

    Raises:
        RunMissing: nothing has been published under this name.
    """
    latest = _latest(store, name)
    if latest is None:
        raise RunMissing(f"{store.url}: no release of {name!r} there; build and publish it first")
    return RunFolder.open(f"{store.url}/runs/{latest.run_id}")


def only_name(store: Store) -> str:
    """The name of the one dataset that has been published in a store.

    Raises:
        RunMissing: there is no release.
        AmbiguousDataset: there are several datasets, which the message names.
    """
    folder = f"{store.root}/releases"
    with outages(store.url):
        entries = store.fs.ls(folder, detail=False) if store.fs.exists(folder) else []
    found = sorted(name for entry in entries if _latest(store, name := entry.rstrip("/").rpartition("/")[2]))
    if not found:
        raise RunMissing(f"{store.url}: no release there; build and publish one first")
    if len(found) > 1:
        raise AmbiguousDataset(f"{store.url}: holds the datasets {', '.join(found)}; name one of them")
    return found[0]


def _latest(store: Store, name: str) -> LatestRelease | None:
    try:
        address = f"releases/{name}/latest.json"
        return parse_json(store.read(address), LatestRelease, f"{store.url}/{address}")
    except FileNotFoundError:
        return None


def _release(store: Store, name: str, version: int) -> Release | None:
    address = f"{_address(name, version)}/manifest.json"
    try:
        return parse_json(store.read(address), Release, f"{store.url}/{address}")
    except FileNotFoundError:
        return None


def _point_to(store: Store, name: str, latest: LatestRelease) -> None:
    """Write a version to `latest.json`, unless it names a later one or a later one is published meanwhile.

    Every publisher searches for a later manifest after it has written. Of several concurrent publishers, the last to
    write finds all of them.
    """
    before = _latest(store, name)
    if before is not None and before.version > latest.version:
        return
    store.write(f"releases/{name}/latest.json", latest.model_dump_json(indent=1).encode())
    if later := _release_after(store, name, latest.version):
        _point_to(store, name, LatestRelease(version=later.version, run_id=later.run_id))


def _release_after(store: Store, name: str, version: int) -> Release | None:
    """The first published release after a version, or None.

    Version numbers may be claimed by processes that have not published yet, or never will.
    """
    while store.exists(_claim(name, version := version + 1)):
        if release := _release(store, name, version):
            return release
    return None


def _next_version(store: Store, name: str) -> int:
    """The version after the newest, or the newest itself if its folder was deleted."""
    latest = _latest(store, name)
    if latest is None:
        return 1
    return latest.version + 1 if _release(store, name, latest.version) else latest.version


def _claim_version(store: Store, name: str, content: str, version: int) -> int:
    """The first version from `version` on that is free, or that is already claimed for this content.

    Two contents that are published concurrently get two versions. A process that was killed while publishing gets its
    own version again, unless another has published since. Its release then gets the next number, as the newest.
    """
    while True:
        store.write(_claim(name, version), content.encode(), replace=False)
        if store.read(_claim(name, version)).decode() == content:
            return version
        version += 1


def _new_release(folder: RunFolder, files: list[ReleaseFile], content: str, version: int) -> Release:
    name = folder.run.config.name
    tars = [file for file in files if file.path.startswith("data/")]
    return Release(
        name=name,
        version=_claim_version(folder.store, name, content, version),
        run_id=folder.run.run_id,
        content_sha256=content,
        samples=_by_split(tars, "samples"),
        videos=_by_split(tars, "videos"),
        files=tuple(files),
    )


def _write(store: Store, folder: RunFolder, release: Release) -> Release:
    """Write a release's files. Returns the stored release, which another run with equal content may have written."""
    from operators.release.card import dataset_card  # imports pandas, which finding a release does not need

    address = _address(release.name, release.version)
    for file in release.files:
        store.name_object(file.sha256, f"{address}/{file.path}")
    store.write(f"{address}/README.md", dataset_card(release, folder).encode())
    store.write(f"{address}/report.html", store.read(f"{folder.address}/report.html"))
    manifest = f"{address}/manifest.json"
    store.write(manifest, release.model_dump_json(indent=1).encode(), replace=False)
    return parse_json(store.read(manifest), Release, f"{store.url}/{manifest}")


def _by_split(files: list[ReleaseFile], count: str) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for file in files:
        totals[file.split] += getattr(file, count)
    return dict(totals)


def _address(name: str, version: int) -> str:
    return f"releases/{name}/v{version:04d}"


def _claim(name: str, version: int) -> str:
    return f"{_address(name, version)}.claim"
