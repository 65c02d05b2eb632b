"""Publish a run's files as a release: a folder that any loader reads, versioned and written manifest last.

    releases/{name}/v0001/data/{split}/*.tar  parquet/{split}.parquet  README.md  report.html  manifest.json
    releases/{name}/latest.json               which version is the newest
    releases/{name}/v0001.claim               which content the version number was given to

Equal content is never published twice: the digest over all paths and hashes decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from operators.losses import faults, why_empty
from operators.runs import RunFolder, RunMissing
from operators.store import Store
from schemas.base import parse_json
from schemas.errors import BadInput, Outage
from schemas.run import LatestRelease, Release, ReleaseFile, content_digest
from schemas.storage import outages


class EmptyRelease(BadInput):
    """No sample came through verification; there is nothing to publish. The message says where they went."""


class SeveralDatasets(BadInput):
    """Which dataset is meant must be said."""


@dataclass(frozen=True)
class Published:
    """A release and where it is. `is_new` is False when another run has published this very content before."""

    release: Release
    url: str
    is_new: bool


def publish(folder: RunFolder) -> Published:
    """Publish the files that the run's shard stage made.

    Raises:
        EmptyRelease: there are none.
        Outage: there are none, and faults of the machine had a part in it.
    """
    store = folder.store
    name = folder.run.config.name
    [commit] = folder.record("shard", None).commits.values()
    files = store.get_rows(commit.rows_sha256, ReleaseFile)
    if not files and (met := faults(folder)):
        raise Outage(
            f"run {folder.run.run_id}: nothing to publish yet, as the machine failed on {len(met)} videos; fix its "
            f"disk, mount or memory and run again. The first: {met[0].message}"
        )
    if not files:
        raise EmptyRelease(
            f"run {folder.run.run_id}: nothing to publish: {why_empty(folder)}. {folder.url}/report.html shows them all"
        )
    content = content_digest(files)
    release = newest_release(store, name)
    if release is None or release.content_sha256 != content:
        release = _write(store, folder, _new_release(folder, files, content, _next_version(store, name)))
    _point_to(store, name, LatestRelease(version=release.version, run_id=folder.run.run_id))
    made_by_this_run = release.run_id == folder.run.run_id  # now, or before it ended without saying so
    return Published(release, f"{store.url}/{_address(name, release.version)}", is_new=made_by_this_run)


def newest_release(store: Store, name: str) -> Release | None:
    """The newest published release of a dataset; None when there is none, or when its folder has been deleted."""
    latest = _latest(store, name)
    return None if latest is None else _release(store, name, latest.version)


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
    with outages(store.url):
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


def _release(store: Store, name: str, version: int) -> Release | None:
    address = f"{_address(name, version)}/manifest.json"
    try:
        return parse_json(store.read(address), Release, f"{store.url}/{address}")
    except FileNotFoundError:
        return None


def _point_to(store: Store, name: str, latest: LatestRelease) -> None:
    """Let `latest.json` name a version, unless it names a later one, or one has been published meanwhile.

    Whoever writes looks afterwards for a later manifest: of publishers at once, the last to write finds them all.
    """
    before = _latest(store, name)
    if before is not None and before.version > latest.version:
        return
    store.write(f"releases/{name}/latest.json", latest.model_dump_json(indent=1).encode())
    if later := _release_after(store, name, latest.version):
        _point_to(store, name, LatestRelease(version=later.version, run_id=later.run_id))


def _release_after(store: Store, name: str, version: int) -> Release | None:
    """The first published release after a version. Numbers may be claimed by who has not published yet, or never."""
    while store.exists(_claim(name, version := version + 1)):
        if release := _release(store, name, version):
            return release
    return None


def _next_version(store: Store, name: str) -> int:
    """The version after the newest, or the newest itself where its folder has been deleted."""
    latest = _latest(store, name)
    if latest is None:
        return 1
    return latest.version + 1 if _release(store, name, latest.version) else latest.version


def _claim_version(store: Store, name: str, content: str, version: int) -> int:
    """The first version from `version` on that is free, or that was claimed for this very content.

    Two contents that are published at once get two versions. Who was killed while publishing gets its own again, unless
    another has published since: it is then the newest once more, with the next number.
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
    """Write a release's files and return it as it stands: another run with the same content may have been first."""
    from operators.release.card import dataset_card  # pandas: nobody who only looks for a release waits for it

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
