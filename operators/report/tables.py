"""Reads columns of a run's tables over all partitions and work items, in several threads.

A build of 18,000 videos has about 130,000 small tables and millions of clips. A report only counts, so it reads the few
columns that it needs. It validates whole rows only where it shows them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pyarrow as pa

from operators.store.content_store import object_path
from operators.store.run_folder import RunFolder
from schemas.arrow import arrow_schema, open_parquet, validate_row
from schemas.base import Row
from schemas.errors import SchemaError
from schemas.run import Commit, PromptIdentity
from schemas.sample import Sample
from schemas.tables import Reject

_THREADS = 16
"""Number of concurrent reads. A remote store takes tens of milliseconds for each small read."""

_REJECT_COLUMNS = ("stage", "unit", "key", "reason", "message")


class Tables:
    """The tables of a run so far. A stage that has not run has no commits and empty tables."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.partitions_done: dict[str, int] = defaultdict(int)
        self._commits: dict[str, list[Commit]] = defaultdict(list)
        for record in folder.records():
            self.partitions_done[record.stage] += 1
            self._commits[record.stage] += [record.commits[unit] for unit in sorted(record.commits)]

    def rows(self, stage: str) -> int:
        """Number of rows of a stage, which its commits record."""
        return sum(commit.rows for commit in self._commits[stage])

    def prompts(self) -> tuple[PromptIdentity, ...]:
        """Every prompt that was used, sorted by id.

        An id with two hashes means that the prompt changed between the commits that the run uses.
        """
        found = {
            (each.prompt_id, each.sha256): each
            for stage in self._commits.values()
            for commit in stage
            for each in commit.key.prompts
        }
        return tuple(found[key] for key in sorted(found))

    def columns(self, stage: str, row: type[Row], names: Sequence[str]) -> pa.Table:
        """Some columns of all rows of a stage, ordered by partition and work item.

        Raises:
            SchemaError: the stage was run by an earlier version, which did not write one of the columns.
        """
        return self._read(stage, [commit.rows_sha256 for commit in self._commits[stage] if commit.rows], row, names)

    def frame(self, stage: str, row: type[Row], names: Sequence[str]) -> pd.DataFrame:
        """The same as `columns`, as a data frame."""
        return self.columns(stage, row, names).to_pandas()

    def rejects(self) -> pd.DataFrame:
        """All rejects, starting with those of planning. Columns: stage, unit, key, reason, message."""
        objects = [self.folder.run.plan_rejects_sha256]
        objects += [each.rejects_sha256 for found in self._commits.values() for each in found if each.rejects]
        return self._read("plan", objects, Reject, _REJECT_COLUMNS).to_pandas()

    def samples_at(self, positions: Sequence[int]) -> list[Sample]:
        """Complete, validated samples at these positions of the assembled table."""
        chosen = self.columns("assemble", Sample, list(Sample.model_fields)).take(pa.array(positions, pa.int64()))
        return [validate_row(row, Sample, "assemble") for row in chosen.to_pylist()]

    def _read(self, stage: str, objects: Sequence[str], row: type[Row], names: Sequence[str]) -> pa.Table:
        schema = arrow_schema(row)
        empty = pa.schema([schema.field(name) for name in names]).empty_table()
        with ThreadPoolExecutor(max_workers=_THREADS) as pool:
            return pa.concat_tables([empty, *pool.map(lambda sha256: self._read_one(stage, sha256, names), objects)])

    def _read_one(self, stage: str, sha256: str, names: Sequence[str]) -> pa.Table:
        data = self.folder.store.read(object_path(sha256, ".parquet"))
        table = open_parquet(data).read(columns=list(names), use_threads=False)
        if missing := sorted(set(names) - set(table.column_names)):
            raise SchemaError(
                f"{self.folder.url}: {stage} was run by an earlier version, whose rows have no {', '.join(missing)}; "
                f"run `lvr build` again with the run's settings"
            )
        return table.select(names).replace_schema_metadata()
