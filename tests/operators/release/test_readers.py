"""Which readers there are. That they agree is for tests of `operators.release.verify`."""

import importlib.util
import shlex

import pytest

from operators.release.readers import energon_prepare, open_readers


def test_energon_is_read_where_it_is_installed(release):
    with open_readers(release, ["eval"]) as readers:
        questions = {reader.name: reader.of_questions for reader in readers}
    assert ("energon" in questions) == (importlib.util.find_spec("megatron") is not None)
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
