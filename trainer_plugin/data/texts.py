"""Long rows of plain text, for extending a model's context before it is trained on videos.

Documents come from Parquet, JSON Lines or tar files. Each is closed by the end-of-text token, and all are cut into rows
of exactly `length` tokens. Attention spans the whole row (LongVILA's stage 4). Files are distributed over ranks, in an
order that depends on seed and epoch; documents keep their order in a file. The stream never ends, and resumes exactly.
A document that is not valid text is skipped, counted and named; a file that is damaged as a whole raises an error.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from schemas.errors import BadInput
from schemas.uri import shown_uri
from trainer_plugin.distributed.mesh import is_group_leader
from trainer_plugin.types import Example, PackedRow, UnusableSample

log = logging.getLogger(__name__)

Place = tuple[int, int, int]
"""Epoch, index of the file in the epoch's order, index of the document in the file."""

_BATCH_DOCUMENTS = 64

_LARGEST_BYTES = 32 << 20
"""Maximum size of a document in bytes, as it is stored. The longest novels have a few million letters. A larger
document is a whole file on one line, or was made to fill the memory."""

_DAMAGES = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, pa.ArrowException, RecursionError)
"""Exceptions raised for damaged files. RecursionError: a tar's headers may refer to each other without end."""

_MOST_UNUSABLE = 1000
"""Number of consecutive invalid documents at which the column or the files are taken to be wrong."""


class TextRowStream(Iterator[PackedRow]):
    """Rows of exactly `length` tokens, with one example in each."""

    def __init__(
        self,
        files: str,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        positions: Callable[[Tensor], Tensor],
        *,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        column: str = "text",
    ) -> None:
        """
        Args:
            files: path or URL, with wildcards, of `.parquet`, `.jsonl` or `.tar` files. Gzipped JSON Lines end in
                `.jsonl.gz`; tars hold one `.txt` member per document.
            positions: returns the model's position ids, shape [n, S], for the token ids [S] of a text.
            rank, ranks: data-parallel rank, and number of data-parallel ranks; there must be a file for each rank.
            column: the column (Parquet) or field (JSON Lines) that holds the text.

        Raises:
            BadInput: no file matches, there are fewer files than ranks, a file is of another type, the tokenizer has no
                end-of-text token, or the first documents cannot be read.
        """
        filesystem, pattern = fsspec.core.url_to_fs(files)
        paths = sorted(filesystem.glob(pattern))
        self.files = [filesystem.unstrip_protocol(path) for path in paths]
        if not self.files:
            raise BadInput(f"{shown_uri(files)}: no file matches; check the path and its wildcards")
        if len(self.files) < ranks:
            raise BadInput(
                f"{shown_uri(files)}: {len(self.files)} files for {ranks} data-parallel ranks; split them further"
            )
        if unknown := [name for name in self.files if not name.endswith((".parquet", ".jsonl", ".jsonl.gz", ".tar"))]:
            raise BadInput(f"{shown_uri(unknown[0])}: texts come from .parquet, .jsonl, .jsonl.gz or .tar files")
        if tokenizer.eos_token_id is None:
            raise BadInput(
                "the tokenizer has no end-of-text token to put between documents; name one in model.tokenizer"
            )
        self.tokenizer = tokenizer
        self.facts = {
            "texts.files": {name: filesystem.size(path) for name, path in zip(self.files, paths, strict=True)},
            "texts.column": column,
            "tokens of a text": self._ids("A boat goes by."),
        }
        """Everything that determines the rows, as JSON values.

        Keys are the names of recipe fields where there is one. Files are listed with their sizes in bytes.
        """
        self.length = length
        self.positions = positions
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.column = column
        self._place: Place
        self._rest: list[int]
        self._used: int
        self._skipped: dict[str, str]
        self._begin((0, 0, 0), 0)

    def __next__(self) -> PackedRow:
        """The next row of this rank.

        Raises:
            BadInput: a file is damaged, or a thousand consecutive documents are not valid text.
        """
        self._fetch()
        epoch, file, document = self._place
        ids: list[int] = []
        while len(ids) < self.length:
            self._fetch()
            taken = self._rest[: self.length - len(ids)]
            ids += taken
            self._used += len(taken)
            self._rest = self._rest[len(taken) :]
        input_ids = torch.tensor(ids)
        key = f"{self._order(epoch)[file]}:{document}"
        skipped, self._skipped = self._skipped, {}
        return PackedRow((Example(key, input_ids, input_ids, self.positions(input_ids)),), epoch, skipped)

    def state_dict(self) -> dict[str, Any]:
        """Where the next row begins, as JSON values. Each rank has its own state."""
        return {"files": self.files, "seed": self.seed, "place": list(self._place), "used": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of a stream of the same rank.

        Raises:
            BadInput: the state belongs to other files or another seed.
        """
        if state["seed"] != self.seed:
            raise BadInput(f"seed is {self.seed}, but the saved position is of seed {state['seed']}; set seed to that")
        if state["files"] != self.files:
            raise BadInput(
                f"the saved position is in {len(state['files'])} files, the first {shown_uri(state['files'][0])}, not "
                f"in these {len(self.files)}, the first {shown_uri(self.files[0])}; use those, or start a new "
                f"run"
            )
        epoch, file, document = state["place"]
        self._begin((epoch, file, document), state["used"])

    def _fetch(self) -> None:
        """Read the next document if the last one is used up."""
        if not self._rest:
            self._place, self._rest = next(self._documents)
            self._used = 0

    def _begin(self, place: Place, used: int) -> None:
        self._skipped = {}
        self._documents = self._documents_from(place)
        self._place, tokens = next(self._documents)
        self._used, self._rest = used, tokens[used:]

    def _documents_from(self, place: Place) -> Iterator[tuple[Place, list[int]]]:
        epoch, first_file, first_document = place
        unusable = 0
        while True:
            empty = True
            for file, name in list(enumerate(self._order(epoch)))[first_file:]:
                for document, stored in enumerate(_read_documents(name, self.column)):
                    if document < first_document:
                        continue
                    try:
                        ids = self._ids(_parse_text(f"{name}:{document}", name, stored, self.column))
                    except UnusableSample as problem:
                        unusable += 1
                        self._skip(problem, unusable)
                        continue
                    empty, unusable = False, 0
                    yield (epoch, file, document), ids
                first_document = 0
            if empty and first_file == 0:
                raise BadInput(f"{self._order(epoch)}: not one document in these files that is a text")
            epoch, first_file = epoch + 1, 0

    def _skip(self, problem: UnusableSample, in_a_row: int) -> None:
        if in_a_row == _MOST_UNUSABLE:
            raise BadInput(f"{in_a_row} documents one after the other are no texts, the last: {problem}")
        if is_group_leader(self.ranks):
            log.warning("%s; skipping it", problem)
        self._skipped[problem.key] = problem.reason

    def _ids(self, text: str) -> list[int]:
        """Token ids of a document, with the token that closes it. Special tokens in the text become plain text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id]

    def _order(self, epoch: int) -> list[str]:
        """This rank's files of an epoch, in their order."""

        def rank(name: str) -> bytes:
            return hashlib.blake2b(f"{self.seed}/{epoch}/{name}".encode(), digest_size=16).digest()

        return sorted(self.files, key=rank)[self.rank :: self.ranks]


def _read_documents(name: str, column: str) -> Iterator[Any]:
    """The stored documents of a file: values (Parquet), lines (JSON Lines) or bytes of members (tar).

    Raises:
        BadInput: the file is damaged, or a document is too large.
    """
    try:
        if name.endswith(".parquet"):
            yield from _parquet_values(name, column)
        else:
            yield from _tar_members(name) if name.endswith(".tar") else _lines(name)
    except _DAMAGES as error:
        raise BadInput(f"{shown_uri(name)}: it is damaged ({error!r}); copy it again, or remove it") from error


def _parse_text(key: str, name: str, stored: Any, column: str) -> str:
    """The text of a stored document.

    Raises:
        UnusableSample: `not_a_text` if it is not valid UTF-8, or not JSON with the field `column`.
    """
    try:
        if name.endswith(".tar"):
            stored = stored.decode()
        elif not name.endswith(".parquet"):
            stored = json.loads(stored)[column]
        if not isinstance(stored, str):
            raise TypeError(f"{type(stored).__name__} is no text")
        stored.encode()  # fails for lone surrogates, which no tokenizer accepts
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UnusableSample(
            key, "not_a_text", f"it is no text in UTF-8, or no JSON with {column!r} ({what})"
        ) from error
    return stored


def _parquet_values(name: str, column: str) -> Iterator[Any]:
    with fsspec.open(name, "rb") as file:
        # Read one row group at a time, in this thread: Arrow's own threads would call Python while the interpreter
        # shuts down, which then aborts (apache/arrow#34314).
        table = pq.ParquetFile(file, pre_buffer=False)
        if column not in table.schema_arrow.names:
            raise BadInput(f"{shown_uri(name)}: no column {column!r}; it has {table.schema_arrow.names}")
        for batch in table.iter_batches(columns=[column], batch_size=_batch_documents(table), use_threads=False):
            yield from batch.column(0).to_pylist()


def _batch_documents(table: pq.ParquetFile) -> int:
    """Number of documents in a batch, so that it certainly takes little memory.

    With dictionary encoding, each document may be as long as the longest value of its row group.
    """
    groups = (table.metadata.row_group(index) for index in range(table.metadata.num_row_groups))
    longest = max((group.total_byte_size for group in groups), default=0)
    return max(1, min(_BATCH_DOCUMENTS, _LARGEST_BYTES // max(longest, 1)))


def _lines(name: str) -> Iterator[bytes]:
    with fsspec.open(name, "rb", compression="infer") as file:
        buffered = io.BufferedReader(file)  # remote files search line ends block by block, again for each line
        while line := buffered.readline(_LARGEST_BYTES + 1):
            _refuse_large(f"{shown_uri(name)}: a line", len(line))
            yield line


def _tar_members(name: str) -> Iterator[bytes]:
    with fsspec.open(name, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            if not member.isreg() or not member.name.endswith(".txt"):
                continue
            if member.issparse():
                raise BadInput(
                    f"{shown_uri(name)}: {member.name} is a sparse file, which is mostly holes; write the tar without"
                )
            _refuse_large(f"{shown_uri(name)}: {member.name}", member.size)
            content = tar.extractfile(member)
            assert content is not None  # regular files have content
            yield content.read()


def _refuse_large(what: str, size: int) -> None:
    if size > _LARGEST_BYTES:
        raise BadInput(
            f"{what} has {size} bytes or more, a document {_LARGEST_BYTES} at most; split it, or leave it out"
        )
