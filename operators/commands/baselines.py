"""`lvr baselines`: how many choice questions of a release are answered without the video."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import BadInput

if TYPE_CHECKING:
    from operators.report.shortcuts import Shortcut


def baselines(
    release: Annotated[str, typer.Argument(help="{out}/releases/{name}/v0001")],
    as_json: Annotated[bool, typer.Option("--json", help="Every figure, as one JSON line.")] = False,
) -> None:
    """Print the accuracies of rules and of a classifier that see the questions and options alone.

    Each is given with its 95 % interval, by category. The classifier needs scikit-learn (the extra `baselines`).
    """
    from operators.report.shortcuts import choice_questions, has_classifier, measure_shortcuts
    from schemas.release import open_release, read_table
    from schemas.uri import shown_uri

    files = [file for file in open_release(release).files if file.path.endswith(".parquet")]
    questions = choice_questions(sample for file in files for sample in read_table(release, file))
    try:
        found = measure_shortcuts(questions)
    except ValueError as error:
        raise BadInput(f"{shown_uri(release)}: {error}") from error
    if as_json:
        typer.echo(json.dumps([{**asdict(each), "interval": each.interval} for each in found]))
        return
    typer.echo(format_table(found))
    if not has_classifier():
        typer.echo("classifier of words: not measured, scikit-learn is missing; pip install -e .[baselines]", err=True)


def format_table(shortcuts: list[Shortcut]) -> str:
    """A Markdown table with a row for each rule, a column for each group, and the number of questions in the head."""
    groups = {each.group: each for each in shortcuts}
    cells = {(each.name, each.group): _cell(each) for each in shortcuts}
    rows = [["", *(f"{group} ({each.questions})" for group, each in groups.items())]]
    rows.append(["---"] * len(rows[0]))
    rows += [[name, *(cells[name, group] for group in groups)] for name in dict.fromkeys(name for name, _ in cells)]
    rows.append(["guessing", *(f"{100 * each.guessing:.1f}" for each in groups.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(shortcut: Shortcut) -> str:
    low, high = shortcut.interval
    return f"{100 * shortcut.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
