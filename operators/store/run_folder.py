"""The folder of one run, `runs/{run_id}/` in the store: its plan, the commits it uses, its metrics and its report.

    run.json                      the resolved configuration
    partitions/00000.json              the source videos of each partition
    records/{stage}-00000.json    the commits of each (stage, partition); `{stage}.json` for stages over the build
    metrics/{stage}-00000.json    one JSON line for each attempt
    prompts/{id}-{sha256}.md      each prompt that was used, with the files that it includes
    findings.json                 what the figures mean for the data, with severities
    report.html                   the report page

`RunFolder` reads and writes these files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TypeVar

from operators.store.content_store import Store
from schemas.base import parse_json
from schemas.errors import BadInput
from schemas.findings import Findings
from schemas.run import Partition, PromptIdentity, Run, StageMetrics, StageRecord
from schemas.tables import Source
from schemas.uri import shown_uri

M = TypeVar("M", StageRecord, Partition, Findings)
N = TypeVar("N", int, float)


class RunMissing(BadInput):
    """A run or one of its files does not exist. The message says what to do, such as which stage to run first."""


class RunFolder:
    """Reads and writes the files of one run as typed values."""

    def __init__(self, store: Store, run: Run) -> None:
        self.store = store
        self.run = run
        self.address = f"runs/{run.run_id}"

    @classmethod
    def create(cls, store: Store, run: Run, partitions: list[Partition]) -> RunFolder:
        """Write a new run's plan. `run.json` is written last, so that a run that can be opened is complete."""
        folder = cls(store, run)
        for partition in partitions:
            store.write(
                f"{folder.address}/partitions/{partition.index:05d}.json", partition.model_dump_json(indent=1).encode()
            )
        store.write(f"{folder.address}/run.json", run.model_dump_json(indent=1).encode())
        return folder

    @classmethod
    def open(cls, url: str) -> RunFolder:
        """Open the run at `{out}/runs/{run_id}`.

        Raises:
            RunMissing: there is no planned run at that address.
        """
        out, separator, run_id = url.rstrip("/").rpartition("/runs/")
        if not separator or "/" in run_id:
            raise RunMissing(f"{shown_uri(url)}: not a run; a run's address ends in /runs/<run id>")
        store = Store(out)
        try:
            return cls(store, parse_json(store.read(f"runs/{run_id}/run.json"), Run, f"{url}/run.json"))
        except FileNotFoundError:
            raise RunMissing(f"{url}: no run there; list the folder {out}/runs for those there are") from None

    @property
    def url(self) -> str:
        """The run's address, `{out}/runs/{run_id}`."""
        return f"{self.store.url}/{self.address}"

    def partition(self, index: int) -> Partition:
        """The partition with this index.

        Raises:
            RunMissing: the run has no such partition.
        """
        for name in ("partitions", "lanes"):  # the name in earlier versions
            with suppress(FileNotFoundError):
                return self._read(f"{name}/{index:05d}.json", Partition)
        raise RunMissing(f"{self.url}: no partition {index}; the run has {self.run.partitions}")

    def partitions(self) -> Iterator[Partition]:
        """All partitions of the run, in order."""
        return (self.partition(index) for index in range(self.run.partitions))

    def sources(self) -> tuple[Source, ...]:
        """All source videos of the run, sorted by id, so that later stages do not depend on the partitions."""
        found = [source for partition in self.partitions() for source in partition.sources]
        return tuple(sorted(found, key=lambda source: source.source_id))

    def record(self, stage: str, partition: int | None) -> StageRecord:
        """The commits of a finished stage, for one partition or for the whole build (`partition` is None).

        Raises:
            RunMissing: the stage has not finished.
        """
        try:
            return self._read(f"records/{_name(stage, partition)}", StageRecord)
        except FileNotFoundError:
            place = "" if partition is None else f" of partition {partition}"
            raise RunMissing(f"{self.url}: stage {stage}{place} has not finished; run it first") from None

    def records(self) -> list[StageRecord]:
        """All records written so far, for the partitions of the current plan."""
        return [self._read(f"records/{name}", StageRecord) for name in self._file_names("records")]

    def write_record(self, record: StageRecord) -> None:
        """Write the commits of a finished stage, which replaces an earlier record of the same stage and partition."""
        self.store.write(
            f"{self.address}/records/{_name(record.stage, record.partition)}", record.model_dump_json().encode()
        )

    def write_prompt(self, prompt: PromptIdentity, source: str) -> None:
        """Write the source of a prompt that the run uses."""
        self.store.write(self._prompt_address(prompt), source.encode())

    def read_prompt(self, prompt: PromptIdentity) -> str | None:
        """The source of a prompt that the run used, or None for a run of an earlier version, which did not write it."""
        try:
            return self.store.read(self._prompt_address(prompt)).decode()
        except FileNotFoundError:
            return None

    def _prompt_address(self, prompt: PromptIdentity) -> str:
        return f"{self.address}/prompts/{prompt.prompt_id}-{prompt.sha256[:16]}.md"

    def write_findings(self, findings: Findings) -> None:
        """Write the findings about the run, which replaces earlier ones."""
        self.store.write(f"{self.address}/findings.json", findings.model_dump_json(indent=1).encode())

    def findings(self) -> Findings:
        """The findings about the run, as its last report wrote them.

        Raises:
            RunMissing: the run has no report yet.
        """
        try:
            return self._read("findings.json", Findings)
        except FileNotFoundError:
            raise RunMissing(f"{self.url}: no findings; run `lvr report` first") from None

    def metrics(self) -> list[StageMetrics]:
        """Metrics of every (stage, partition) that is running or finished, summed over its attempts."""
        return [_sum_attempts(self._attempts(name)) for name in self._file_names("metrics")]

    def attempts(self, stage: str, partition: int | None) -> list[StageMetrics]:
        """Metrics of each attempt at a (stage, partition), in order. A killed attempt counts as far as it got."""
        try:
            return self._attempts(_name(stage, partition))
        except FileNotFoundError:
            return []

    def write_metrics(self, metrics: StageMetrics, earlier: Sequence[StageMetrics] = ()) -> None:
        """Write the metrics of an attempt so far, after those of the `earlier` attempts."""
        lines = [each.model_dump_json() + "\n" for each in (*earlier, metrics)]
        name = _name(metrics.stage, metrics.partition)
        self.store.write(f"{self.address}/metrics/{name}", "".join(lines).encode())

    def _attempts(self, name: str) -> list[StageMetrics]:
        address = f"{self.address}/metrics/{name}"
        lines = self.store.read(address).splitlines()
        return [parse_json(line, StageMetrics, f"{self.store.url}/{address}") for line in lines]

    def _read(self, name: str, model: type[M]) -> M:
        return parse_json(self.store.read(f"{self.address}/{name}"), model, f"{self.url}/{name}")

    def _file_names(self, kind: str) -> list[str]:
        """Names of the files of one kind, for the partitions of the current plan.

        A run that was planned again with fewer partitions may still have files of the others, which are skipped.
        """
        names = [PurePosixPath(address).name for address in self.store.list(f"{self.address}/{kind}")]
        partitions = {f"{index:05d}" for index in range(self.run.partitions)}
        return [
            name for name in names if "-" not in name or name.rpartition("-")[2].removesuffix(".json") in partitions
        ]


def _name(stage: str, partition: int | None) -> str:
    return f"{stage}.json" if partition is None else f"{stage}-{partition:05d}.json"


def _sum_attempts(attempts: Sequence[StageMetrics]) -> StageMetrics:
    """Combine the metrics of all attempts.

    Costs are summed. Work items, rows and rejects are those of the last attempt, and `reused` counts its work items
    that no attempt of this run computed.
    """
    last = attempts[-1]
    computed = sum(each.units - each.reused for each in attempts)
    phases = _sums([each.phase_seconds for each in attempts])
    worked = sum(phases.values())
    busy = sum(each.server_busy_share * sum(each.phase_seconds.values()) for each in attempts)
    return last.model_copy(
        update={
            "reused": max(0, last.units - computed),
            "wall_seconds": sum(each.wall_seconds for each in attempts),
            "cpu_seconds": sum(each.cpu_seconds for each in attempts),
            "phase_seconds": phases,
            "requests": _sums([each.requests for each in attempts]),
            "journal_hits": _sums([each.journal_hits for each in attempts]),
            "tokens_in": sum(each.tokens_in for each in attempts),
            "tokens_out": sum(each.tokens_out for each in attempts),
            "server_busy_share": busy / worked if worked else 0.0,
        }
    )


def _sums(counts: Sequence[Mapping[str, N]]) -> dict[str, N]:
    names = dict.fromkeys(name for each in counts for name in each)
    return {name: sum(each.get(name, 0) for each in counts) for name in names}
