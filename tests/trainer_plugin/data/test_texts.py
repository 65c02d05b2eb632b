import gzip
import io
import json
import re
import tarfile
import threading
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from fsspec.implementations.local import LocalFileOpener

from schemas.errors import BadInput
from tests.support.properties import given, st
from tests.trainer_plugin.runs import collect_log
from tests.trainer_plugin.support import byte_tokenizer
from trainer_plugin.data.texts import TextRowStream, _read_documents

TOKENIZER = byte_tokenizer()
DOCUMENTS = [f"document {number} says " + "so much " * (number % 7) for number in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with thirty documents: ten each in a Parquet file, a gzipped JSON Lines file and a tar."""
    folder = tmp_path_factory.mktemp("texts")
    pq.write_table(pa.table({"text": DOCUMENTS[:10]}), folder / "a.parquet")
    lines = "".join(json.dumps({"text": text, "more": 1}) + "\n" for text in DOCUMENTS[10:20])
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        file.write(lines)
    with tarfile.open(folder / "c.tar", "w") as tar:
        for number, text in enumerate(DOCUMENTS[20:]):
            for suffix, content in (("txt", text.encode()), ("json", b"{}")):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


def rows(folder, length=64, **options) -> TextRowStream:
    return TextRowStream(
        str(folder / "*"), TOKENIZER, length, lambda ids: torch.arange(len(ids))[None], seed=1, **options
    )


def tokens(stream, count):
    return [row.examples[0].input_ids.tolist() for row in islice(stream, count)]


def test_rows_are_full_and_hold_all_documents_in_order_with_end_tokens(folder):
    stream = rows(folder)
    read = [row.examples[0] for row in islice(stream, 20)]
    assert {len(example.input_ids) for example in read} == {64}
    assert all(torch.equal(example.labels, example.input_ids) for example in read)
    assert read[0].positions.shape == (1, 64)
    found = TOKENIZER.decode([token for example in read for token in example.input_ids.tolist()])
    documents = found.split("<|endoftext|>")[:-1]
    groups = {tuple(documents[first : first + 10]) for first in (0, 10, 20)}
    assert groups == {tuple(DOCUMENTS[first : first + 10]) for first in (0, 10, 20)}


def test_a_special_token_spelled_in_a_document_is_plain_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a <|video|> is one token"}) + "\n")
    ids = next(rows(tmp_path, 26)).examples[0].input_ids
    assert len(ids) == 26 and TOKENIZER.decode(ids) == "a <|video|> is one token<|endoftext|>a"
    special = [id for id in ids.tolist() if id in TOKENIZER.all_special_ids]
    assert special == [TOKENIZER.eos_token_id]


LINES = [b'{"text": "good"}', b'{"text": "cut', b'{"text": null}', b"[1]", b'{"words": "x"}', b"\xff", b"",
         b'{"text": "\\ud800"}', b'{"text": "fine"}']  # fmt: skip


def test_lines_without_text_are_skipped_and_named(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(LINES))
    stream = rows(tmp_path, 5)
    read = [next(stream) for _ in range(4)]
    assert [TOKENIZER.decode(row.examples[0].input_ids) for row in read] == [
        "good<|endoftext|>", "fine<|endoftext|>", "good<|endoftext|>", "fine<|endoftext|>",
    ]  # fmt: skip
    named = {f"{stream.files[0]}:{line}": "not_a_text" for line in range(1, 8)}
    assert [dict(row.skipped) for row in read] == [{}, named, {}, named]
    assert f"sample {stream.files[0]}:1: it is no text in UTF-8, or no JSON with 'text' (JSONDecodeError" in caplog.text
    again = rows(tmp_path, 5)
    next(again)
    resumed = rows(tmp_path, 5)
    resumed.load_state_dict(again.state_dict())
    assert [dict(next(resumed).skipped) for _ in range(2)] == [named, {}]


def names_logged(folder, groups: int) -> list[str]:
    """Names of the documents that this rank logs as not being text."""
    rank = dist.get_rank() * groups // dist.get_world_size()
    with collect_log("trainer_plugin.data.texts") as messages:
        tokens(rows(folder, 5, rank=rank, ranks=groups), 2)
    return [re.sub(r"^sample .*/(.*): it is.*", r"\1", message) for message in messages]


def test_a_document_that_is_no_text_is_logged_by_one_of_the_ranks_that_read_it(ranks, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "good"}\nno JSON\n{"text": "fine"}\n')
    one, other = ranks[2].run(names_logged, tmp_path, 2)
    assert sorted(one + other) == ["a.jsonl:1", "b.jsonl:1"] and len(one) == 1
    shared, silent = ranks[2].run(names_logged, tmp_path, 1)
    assert len(shared) == 1 and silent == []


def test_tar_members_that_are_not_utf8_are_skipped(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, content in enumerate((b"\xe9t\xe9", b"good")):
            member = tarfile.TarInfo(f"{number}.txt")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    row = next(rows(tmp_path, 5))
    assert TOKENIZER.decode(row.examples[0].input_ids) == "good<|endoftext|>"
    assert [key.rpartition("/")[2] for key in row.skipped] == ["a.tar:0"]


def test_files_in_which_no_line_has_text_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' + '{"words": "good"}\n' * 1000)
    stream = rows(tmp_path, 5)
    next(stream)
    with pytest.raises(BadInput, match=r"1000 documents one after the other are no texts, the last: .*a\.jsonl:1000"):
        next(stream)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.jsonl.gz", gzip.compress(b'{"text": "good"}\n' * 99)[:-9], id="cut-off-gzip"),
        pytest.param("a.jsonl.gz", b"not gzip", id="no-gzip"),
        pytest.param("a.tar", b"no tar" * 999, id="no-tar"),
        pytest.param("a.parquet", b"PAR1" + bytes(99), id="no-parquet"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=rf"{name}: it is damaged .*; copy it again"):
        tokens(rows(tmp_path, 5), 200)


def test_epochs_follow_each_other_in_different_orders(folder):
    keys = [row.examples[0].key for row in islice(rows(folder), 80)]
    epochs = [row.epoch for row in islice(rows(folder), 80)]
    assert epochs == sorted(epochs)
    assert max(epochs) >= 2
    assert keys[0].endswith(":0")


def test_a_row_is_named_after_its_first_document(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("abc", "def", "ghijk")))
    keys = [row.examples[0].key for row in islice(rows(tmp_path, 4), 4)]
    assert [key.rpartition("a.jsonl:")[2] for key in keys] == ["0", "1", "2", "2"]


@given(st.integers(0, 50), st.integers(3, 200))
def test_a_stream_resumes_exactly_where_another_stopped(folder, before, length):
    stream = rows(folder, length)
    tokens(stream, before)
    state = json.loads(json.dumps(stream.state_dict()))
    again = rows(folder, length)
    again.load_state_dict(state)
    assert tokens(again, 3) == tokens(stream, 3)


def test_ranks_read_different_files(folder):
    found = [
        {row.examples[0].key.split(":")[1] for row in islice(rows(folder, rank=rank, ranks=3), 3)} for rank in range(3)
    ]
    assert len(set.union(*found)) == sum(len(names) for names in found) == 3


def test_files_on_s3(folder, s3_bucket):
    import s3fs

    s3fs.S3FileSystem().put(str(folder), f"{s3_bucket}/texts", recursive=True)
    remote = TextRowStream(f"{s3_bucket}/texts/*.parquet", TOKENIZER, 64, lambda ids: ids[None], seed=1)
    local = TextRowStream(str(folder / "*.parquet"), TOKENIZER, 64, lambda ids: ids[None], seed=1)
    assert tokens(remote, 5) == tokens(local, 5)


def test_unusable_files_and_columns_are_refused_by_name(folder, tmp_path):
    with pytest.raises(BadInput, match=r"/none\*: no file matches; check the path and its wildcards"):
        TextRowStream(str(folder / "none*"), TOKENIZER, 64, torch.clone, seed=1)
    with pytest.raises(BadInput, match=r"^memory://bucket/none\*: no file matches"):
        TextRowStream("memory://key:hunter2@bucket/none*", TOKENIZER, 64, torch.clone, seed=1)
    with pytest.raises(BadInput, match="3 files for 4 data-parallel ranks"):
        rows(folder, ranks=4)
    with pytest.raises(BadInput, match=r"a\.parquet: no column 'content'; it has \['text'\]"):
        TextRowStream(str(folder / "a*"), TOKENIZER, 64, torch.clone, seed=1, column="content")
    (tmp_path / "x.doc").write_text("")
    with pytest.raises(BadInput, match=r"x\.doc: texts come from"):
        rows(tmp_path)
    (tmp_path / "x.doc").rename(tmp_path / "x.jsonl")
    with pytest.raises(BadInput, match="not one document"):
        tokens(rows(tmp_path), 1)
    saved = TextRowStream(str(folder / "a*"), TOKENIZER, 64, torch.clone, seed=1).state_dict()
    with pytest.raises(BadInput, match=r"saved position is in 1 files, the first .*a\.parquet, not in these 3"):
        rows(folder).load_state_dict(saved)
    with pytest.raises(BadInput, match=r"^seed is 7, but the saved position is of seed 1; set seed to that$"):
        TextRowStream(str(folder / "a*"), TOKENIZER, 64, torch.clone, seed=7).load_state_dict(saved)


def test_only_the_readers_own_thread_reads_a_parquet_file(folder, monkeypatch):
    """Threads of Arrow could call Python while the interpreter shuts down."""
    readers = set()

    class Watched(io.FileIO):
        def read(self, size=-1):
            readers.add(threading.current_thread())
            return super().read(size)

    monkeypatch.setattr(LocalFileOpener, "_open", lambda self: setattr(self, "f", Watched(self.path)))
    stream = TextRowStream(str(folder / "*.parquet"), TOKENIZER, 64, lambda ids: ids[None], seed=1)
    tokens(stream, 5)
    assert readers == {threading.current_thread()}


def sparse_tar(path):
    """Write a tar with a sparse member of 64 GiB that has a 512-byte header and no content."""
    member = tarfile.TarInfo("a.txt")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"\x80" + (64 << 30).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(header + bytes(1024))


def pax_tar(path, headers, repeated=1):
    """Write a tar with an empty member whose extended (pax) headers contradict it."""
    member = tarfile.TarInfo("a.txt")
    plain = member.tobuf(tarfile.USTAR_FORMAT)
    member.pax_headers = headers
    extended = member.tobuf(tarfile.PAX_FORMAT).removesuffix(plain)
    path.write_bytes(extended * repeated + plain + bytes(1024))


PAX_SPARSE = {"GNU.sparse.size": str(64 << 30), "GNU.sparse.map": "0,0", "GNU.sparse.name": "a.txt"}

BOMBS = {
    "sparse.tar": (sparse_tar, r"a\.txt is a sparse file"),
    "pax_sparse.tar": (lambda path: pax_tar(path, PAX_SPARSE), r"a\.txt is a sparse file"),
    "large.tar": (lambda path: pax_tar(path, {"size": str(64 << 30)}), r"a\.txt has 68719476736 bytes or more"),
    "nested.tar": (lambda path: pax_tar(path, {"comment": "x"}, 2000), "it is damaged .*recursion"),
    "line.jsonl.gz": (
        lambda path: path.write_bytes(gzip.compress(b"a" * (33 << 20), mtime=0)),
        "a line has 33554433 bytes or more, a document 33554432 at most; split it",
    ),
    "deep.jsonl": (lambda path: path.write_text(("[" * 9000 + "\n") * 1000), r"1000 documents .*deep\.jsonl:999"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_made_to_fill_the_memory_is_refused(tmp_path, name):
    make, message = BOMBS[name]
    make(tmp_path / name)
    with pytest.raises(BadInput, match=message):
        tokens(rows(tmp_path, 5), 1)


def test_one_long_value_in_every_row_of_a_table_is_read_a_few_rows_at_a_time(tmp_path):
    once = pa.array(["x" * (16 << 20)])
    equal = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), once)
    pq.write_table(pa.table({"text": equal}), tmp_path / "a.parquet", compression="zstd", store_schema=False)
    before = pa.default_memory_pool().max_memory()
    assert len(next(_read_documents(str(tmp_path / "a.parquet"), "text"))) == 16 << 20
    assert pa.default_memory_pool().max_memory() < max(before, 512 << 20)
