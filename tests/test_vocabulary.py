"""The code and the documents use the terms of docs/glossary.md, and none of its table "Not used".

`data/vocabulary_allowed.txt` lists the exceptions: an ordinary use of an ambiguous word, or a name that is stored.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = Path(__file__).parent / "data" / "vocabulary_allowed.txt"
SUFFIXES = {".py", ".md", ".jinja", ".toml", ".yml", ".yaml", ".example", ""}
EXEMPT = (
    "schemas/answers.py",  # hashed into request keys
    "prompts/*",  # hashed into request keys
    "benchmarks/LOG.md",  # a log is not rewritten
    "CHANGELOG.md",  # names what earlier versions called things
    "LICENSE",
    "docs/examples-of-questions.md",  # questions about stories, and what a person thinks of them
    "tests/data/*",
    "docs/glossary.md",
    "tests/test_vocabulary.py",
)


def read_not_used() -> dict[tuple[str, ...], str]:
    """Map the words of each form that is not used to what to say instead."""
    table = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").partition("\n## Not used\n")[2]
    rows = (line.strip("| ").split(" | ") for line in table.partition("\n## ")[0].splitlines() if line.startswith("| "))
    pairs = [(forms, instead) for forms, instead in rows if forms != "not used"]
    return {tuple(form.split()): instead for forms, instead in pairs for form in forms.split(",")}


NOT_USED = read_not_used()
BY_FIRST_WORD = {words[0]: [each for each in NOT_USED if each[0] == words[0]] for words in NOT_USED}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
GAP = re.compile(r"[\s_#]*")


def find_words(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line number and the form of each use: as words, in a snake_case or CamelCase name, across line ends."""
    text = path.read_text(encoding="utf-8")
    found = list(WORD.finditer(text))
    words = [match.group().lower() for match in found]
    for first, word in enumerate(words):
        for form in BY_FIRST_WORD.get(word, ()):
            pairs = pairwise(found[first : first + len(form)])
            if tuple(words[first : first + len(form)]) == form and all(
                GAP.fullmatch(text, one.end(), two.start()) for one, two in pairs
            ):
                yield text.count("\n", 0, found[first].start()) + 1, " ".join(form)


def read_allowed(path: Path) -> list[tuple[str, str, float]]:
    """Lines of a file pattern, a form, and a count or `*`."""
    lines = [line.partition("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [(line[0], " ".join(line[1:-1]), float(line[-1].replace("*", "inf"))) for line in lines if line]


def report_words(root: Path, names: list[str], allowed: list[tuple[str, str, float]]) -> list[str]:
    """One line for each file and form that occurs more often than allowed."""
    reported = []
    for name in names:
        found = list(find_words(root / name))
        for form, count in Counter(form for _, form in found).items():
            limit = max((most for files, word, most in allowed if word == form and fnmatch(name, files)), default=0)
            if count > limit:
                places = ", ".join(f"{name}:{line}" for line, each in found if each == form)
                spare = f" (allowed {limit:.0f} times, found {count})" if limit else ""
                reported.append(f"{places}: {form!r}{spare}; say {NOT_USED[tuple(form.split())]}")
    return reported


def list_files() -> list[str]:
    run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"the files of the project are not known: {run.stderr.strip()}")
    names = (name for name in run.stdout.splitlines() if Path(name).suffix in SUFFIXES and (ROOT / name).is_file())
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in EXEMPT)]


def test_only_words_of_the_glossary_are_used():
    reported = report_words(ROOT, list_files(), read_allowed(ALLOWED))
    assert not reported, "\n" + "\n".join(reported) + f"\nAn ordinary use of a word: count it in {ALLOWED.name}."


@pytest.mark.parametrize(
    ("source", "line", "word"),
    [
        ("class Lane:\n    pass\n", 1, "lane"),
        ("x = 1\nfirst_lane = x\n", 2, "lane"),
        ("class FirstLane:\n    pass\n", 1, "lane"),
        ("# a row that is left\n# out of the loss\n", 1, "left out"),
        ('raise ValueError("rows were left_out")\n', 1, "left out"),
    ],
)
def test_a_word_is_found_in_names_comments_and_strings(tmp_path, source, line, word):
    (tmp_path / "new.py").write_text(source)
    [message] = report_words(tmp_path, ["new.py"], [])
    assert message == f"new.py:{line}: {word!r}; say {NOT_USED[tuple(word.split())]}"


def test_a_part_of_another_word_is_not_found(tmp_path):
    (tmp_path / "new.py").write_text("planes, lookup, LookupError, task, basks = range(5)\n")
    assert report_words(tmp_path, ["new.py"], []) == []


def test_an_exception_allows_as_many_as_it_counts(tmp_path):
    (tmp_path / "new.py").write_text("lane = 1\nother_lane = 2\n")
    assert report_words(tmp_path, ["new.py"], [("new.py", "lane", 2)]) == []
    [message] = report_words(tmp_path, ["new.py"], [("new.py", "lane", 1)])
    assert message.startswith("new.py:1, new.py:2: 'lane' (allowed 1 times, found 2); say ")
