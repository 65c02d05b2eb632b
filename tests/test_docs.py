"""The documents point to the right places, and name nothing that does not exist."""

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from operators.settings import load_config

ROOT = Path(__file__).resolve().parents[1]
OWN = ("dags", "operators", "schemas", "trainer_plugin")
EXTENDING = (ROOT / "docs" / "extending.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
MAP = ARCHITECTURE.partition("## Where things are")[2].partition("\n## ")[0]


def test_the_map_names_every_part_of_the_pipeline():
    parts = {
        path.name for path in (ROOT / "operators").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    own = {name for name in parts if not name.startswith("__")}
    named = {name.removeprefix("operators/").rstrip("/") for name in re.findall(r"`([\w/.]+)`", MAP)}
    assert own - named == set()


def test_every_path_in_the_map_exists():
    for row in MAP.splitlines():
        first = re.findall(r"`([\w/.-]+)`", row.split("|")[1]) if row.startswith("| `") else []
        folder = ROOT / "operators" if first and first[0].startswith("operators/") else ROOT
        for name in first:
            path = folder / name.removeprefix("operators/") if folder != ROOT else folder / name
            assert path.exists(), f"docs/architecture.md names {name}"


def test_the_trainers_map_names_all_packages_and_nothing_that_does_not_exist():
    package = ROOT / "trainer_plugin"
    section = ARCHITECTURE.partition("## The trainer\n")[2].partition("\n## ")[0]
    named = {
        name.rstrip("/") for row in section.splitlines() for name in re.findall(r"`([\w/.]+)`", row.split(" | ")[0])
    }
    assert {name for name in named - {"trainer_plugin"} if not (package / name).exists()} == set()
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    assert packages - {name.split("/")[0] for name in named} == set()


def test_every_link_between_documents_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def blocks_of(page: str) -> list[tuple[str, str, str]]:
    """Kind, file and text of each code block of a page. The file is the last one that the paragraph above names."""
    found = []
    for above, kind, text in re.findall(r"((?:[^\n]+\n)*)\n```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        files = re.findall(r"`([\w./]+\.(?:py|md|yaml))`", above)
        found.append((kind, files[-1] if files else "", text))
    return found


def commands_of(page: str, program: str) -> list[list[str]]:
    """The words of each command of a page's code blocks that runs a program, with continued lines joined."""
    blocks = "".join(text for kind, _, text in blocks_of(page) if kind == "bash").replace("\\\n", " ")
    found = [shlex.split(line, comments=True) for line in blocks.splitlines() if f"{program} " in line]
    return [words[words.index(program.split()[-1]) + 1 :] for words in found]


def apply_hunk(before: str, hunk: str) -> str:
    """The text after one hunk of a diff, whose old lines occur exactly once."""
    lines = hunk.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] != "+")
    new = "".join(line[1:] for line in lines if line[0] != "-")
    assert before.count("\n" + old) == 1, f"docs/extending.md changes what is not there, or is there twice:\n{old}"
    return before.replace("\n" + old, "\n" + new)


@pytest.fixture(scope="module")
def extended_copy(tmp_path_factory) -> Path:
    """A copy of the repository in which everything is done that docs/extending.md shows."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("operators", "prompts", "schemas", "tests", "trainer_plugin"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.mp4"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for kind, file, text in blocks_of(EXTENDING):
        path = copy / file
        if kind == "diff":
            for hunk in text.split("@@\n"):
                path.write_text(apply_hunk(path.read_text(), hunk))
        elif file:
            assert not path.exists(), f"docs/extending.md writes {file}, which exists"
            path.write_text(text)
    return copy


def test_the_examples_of_extending_pass_their_own_tests(extended_copy):
    tests = [file for _, file, _ in blocks_of(EXTENDING) if file.startswith("tests/")]
    assert len(tests) == 6
    if importlib.util.find_spec("torch") is None:
        tests = [file for file in tests if not file.startswith("tests/trainer_plugin/")]
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    ended = subprocess.run(
        command, cwd=extended_copy, env=os.environ | {"PYTHONPATH": str(extended_copy)}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_recipe_of_extending_loads(extended_copy):
    pytest.importorskip("torch")
    from trainer_plugin.recipe import load_recipe

    given = ["out=/runs/mine", "model.path=/models/qwen", "videos.release=/data/v0001"]
    recipe = load_recipe(str(extended_copy / "mine.yaml"), given)
    assert (recipe.parallel.sp, recipe.row_tokens) == (2, 32768)


PAGES = [page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]


def test_settings_of_builds_in_documents_fit():
    builds = [given for page in PAGES for given in commands_of(page, "lvr build") if "--config" not in given]
    assert len(builds) >= 4
    for given in builds:
        settings = [given[place + 1] for place, each in enumerate(given) if each == "--set"]
        load_config(None, settings, source="a", out="b")


def test_settings_of_runs_in_documents_fit():
    pytest.importorskip("torch")
    from trainer_plugin.recipe import Recipe, load_recipe, recipe_names
    from trainer_plugin.rl.recipe import GrpoRecipe, load_grpo_recipe

    for program, load, kind in (("sft", load_recipe, Recipe), ("grpo", load_grpo_recipe, GrpoRecipe)):
        runs = [given for page in PAGES for given in commands_of(page, f"-m trainer_plugin.{program}")]
        whole = [given for given in runs if "..." not in given and given[0] in recipe_names(kind)]
        assert len(whole) >= 3
        for recipe, *settings in whole:
            load(recipe, settings)


def test_every_name_that_a_document_imports_exists():
    pytest.importorskip("torch")
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for kind, file, text in blocks_of(page.read_text()):
            if kind != "python" or page.name == "extending.md":
                continue
            for node in ast.parse(text, file).body:
                own = isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OWN
                for name in node.names if own else ():
                    module = importlib.import_module(node.module)
                    assert hasattr(module, name.name), f"{page.name}: {node.module} has no {name.name}"


def test_every_reason_for_which_the_trainer_skips_a_sample_is_documented():
    raised = re.compile(r'(?:UnusableSample|BadVideo)\(\s*[^"()]+?,\s*"(\w+)"')
    sources = [path.read_text() for path in (ROOT / "trainer_plugin").rglob("*.py")]
    reasons = {reason for source in sources for reason in raised.findall(source)}
    page = (ROOT / "docs/trainer-failures.md").read_text()
    table = page.split("| reason | what is wrong")[1].split("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == sorted(reasons)
    assert len(reasons) > 10
