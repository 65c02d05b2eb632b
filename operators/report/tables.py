"""Reads columns of a run's tables over all partitions and work items, in several threads.

A build of 18,000 videos has about 130,000 small tables and millions of clips. A report only counts, so it reads the few
columns that it needs. It validates whole rows only where it shows them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from operators.models.session import MEASURED
from operators.store.content_store import object_path
from operators.store.run_folder import RunFolder
from schemas.arrow import arrow_schema, open_parquet, validate_row
from schemas.base import Row
from schemas.config import Role
from schemas.errors import SchemaError
from schemas.run import Commit, PromptIdentity
from schemas.sample import Sample
from schemas.tables import Check, Reject

_THREADS = 16
"""Number of concurrent reads. A remote store takes tens of milliseconds for each small read."""

_PROVENANCES = (
    ("caption", "provenance", Role.CAPTIONER),
    ("question", "provenance", Role.REASONER),
    ("question", "checks", Role.JUDGE),
    ("reason", "provenance", Role.REASONER),
    ("reason", "checks", Role.JUDGE),
    ("difficulty", "provenance", Role.TARGET),
)
"""Stage, column and role of the provenance of all answers. The judge's comparisons of answers count for the target."""
_OF_VIEWER = frozenset({Check.FRAMES.value, Check.SOLVABLE.value})
_NO_MODEL = frozenset({"program", MEASURED})

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

    def served_models(self) -> Counter[tuple[Role, str, str]]:
        """Number of answers by role, the model that was requested, and the one that the server stated.

        Texts by program are not counted.
        """
        counts: Counter[tuple[Role, str, str]] = Counter()
        with ThreadPoolExecutor(max_workers=_THREADS) as pool:
            for stage, column, role in _PROVENANCES:
                objects = [commit.rows_sha256 for commit in self._commits[stage] if commit.rows]
                count = partial(self._count_models, column, role)
                for found in pool.map(count, objects):
                    counts.update(found)
        return counts

    def columns(self, stage: str, row: type[Row], names: Sequence[str]) -> pa.Table:
        """Some columns of all rows of a stage, ordered by partition and work item.

        Args:
            names: columns, or fields of columns such as `provenance.model`.

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
        empty = pa.table({name: pa.array([], _field_type(schema, name)) for name in names})
        with ThreadPoolExecutor(max_workers=_THREADS) as pool:
            return pa.concat_tables([empty, *pool.map(lambda sha256: self._read_one(stage, sha256, names), objects)])

    def _read_one(self, stage: str, sha256: str, names: Sequence[str]) -> pa.Table:
        table = self._open(sha256).read(columns=list(names), use_threads=False)
        columns = {name: _field(table, name) for name in names}
        if missing := sorted(name for name, column in columns.items() if column is None):
            raise SchemaError(
                f"{self.folder.url}: {stage} was run by an earlier version, whose rows have no {', '.join(missing)}; "
                f"run `lvr build` again with the run's settings"
            )
        return pa.table(columns)

    def _count_models(self, column: str, role: Role, sha256: str) -> Counter[tuple[Role, str, str]]:
        return _count_models(self._open(sha256), column, role)

    def _open(self, sha256: str) -> pq.ParquetFile:
        return open_parquet(self.folder.store.read(object_path(sha256, ".parquet")))


def _field_type(schema: pa.Schema, name: str) -> pa.DataType:
    column, *fields = name.split(".")
    found = schema.field(column).type
    for field in fields:
        found = found.field(field).type
    return found


def _field(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    """A column, or a field of one; None if the table has none of this name."""
    column, *fields = name.split(".")
    if column not in table.column_names:
        return None
    found = table[column]
    for field in fields:
        if found.type.get_field_index(field) < 0:
            return None
        found = pc.struct_field(found, field)
    return found


def _count_models(file: pq.ParquetFile, column: str, role: Role) -> Counter[tuple[Role, str, str]]:
    """Count the models in the provenance of rows, of rows that are trials, or of their trials (the column `checks`).

    In trials of frames, the model is the viewer's.
    """
    element = ".list.element"
    prefix = f"checks{element}." if column == "checks" else ""
    is_trial = bool(prefix) or "check" in file.schema_arrow.names
    path = f"{prefix}provenance" + (element if is_trial else "")
    leaves = [f"{path}.model", f"{path}.served_model", *([f"{prefix}check"] if is_trial else [])]
    rows = file.read(columns=leaves, use_threads=False).combine_chunks()
    if prefix:
        trials = pc.list_flatten(rows["checks"].combine_chunks())
        given, checks = pc.struct_field(trials, "provenance"), pc.struct_field(trials, "check")
    else:
        given, checks = rows["provenance"].combine_chunks(), rows["check"].combine_chunks() if is_trial else None
    roles = [role] * len(given)
    if checks is not None:
        owners = pc.take(checks, pc.list_parent_indices(given)).to_pylist()
        roles = [Role.VIEWER if check in _OF_VIEWER else role for check in owners]
        given = pc.list_flatten(given)
    models = pc.struct_field(given, "model").to_pylist()
    has_served = given.type.get_field_index("served_model") >= 0  # rows of earlier versions have none
    served = pc.struct_field(given, "served_model").to_pylist() if has_served else [""] * len(models)
    return Counter(each for each in zip(roles, models, served, strict=True) if each[1] not in _NO_MODEL)
