"""The documents point to the right places, and name nothing that does not exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAP = (ROOT / "docs" / "architecture.md").read_text().partition("## Where things are")[2].partition("\n## ")[0]


def test_the_map_names_every_part_of_the_pipeline():
    parts = {
        path.name for path in (ROOT / "operators").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    own = {name for name in parts if not name.startswith("__")}
    named = {name.removeprefix("operators/").rstrip("/") for name in re.findall(r"`([\w/.]+)`", MAP)}
    assert own - named == set()


def test_what_the_map_names_exists():
    for row in MAP.splitlines():
        first = re.findall(r"`([\w/.-]+)`", row.split("|")[1]) if row.startswith("| `") else []
        folder = ROOT / "operators" if first and first[0].startswith("operators/") else ROOT
        for name in first:
            path = folder / name.removeprefix("operators/") if folder != ROOT else folder / name
            assert path.exists(), f"docs/architecture.md names {name}"


def test_every_link_between_documents_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
