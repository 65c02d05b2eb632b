"""The set of release readers. The tests of `operators.release.validate` check that they agree."""

import shlex

import pytest

from operators.release.energon_command import energon_prepare
from operators.release.readers import has_energon, loading_metadata, open_readers
from schemas.release import open_release
from schemas.tables import Split


def test_energon_is_read_where_it_is_installed(release):
    manifest = open_release(str(release))
    with open_readers(release, manifest, loading_metadata(["eval"], with_media=True)) as readers:
        questions = {reader.name: reader.of_questions for reader in readers}
    assert ("energon" in questions) == has_energon()
    assert {name for name, of_questions in questions.items() if of_questions} == {"datasets", "datasets streaming"}


@pytest.mark.parametrize("folder", [".", "/a folder/with 'quotes'"])
def test_the_energon_command_survives_a_shell(folder):
    words = shlex.split(energon_prepare(["sft", "rl"], folder))
    assert words[:2] == ["energon", "prepare"]
    assert words[-1] == folder
    assert [words[at + 1] for at, word in enumerate(words) if word == "--split-parts"] == [
        r"sft:data/sft/.*\.tar",
        r"rl:data/rl/.*\.tar",
    ]


def test_the_trainer_reads_what_the_pipeline_publishes(release):
    pytest.importorskip("torch")
    from trainer_plugin.data.release import index_videos, open_release, read_samples, read_videos

    url = str(release)
    manifest = open_release(url)
    for split, samples in manifest.samples.items():
        found = list(read_videos(url, Split(split)))
        assert [sample for item in found for sample in item.record.samples] == read_samples(url, Split(split))
        assert sum(len(item.record.samples) for item in found) == samples
        assert [item.record for item in index_videos(url, Split(split))] == [item.record for item in found]
        assert [item.record.video_id for item in found if not item.video] == []
