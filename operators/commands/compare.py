"""`lvr compare`: what differs between two runs, question by question."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from operators.report.compare import Change, Comparison


def compare(
    before: Annotated[str, typer.Argument(help="{out}/runs/{run id}")],
    after: Annotated[str, typer.Argument(help="Another run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON line.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Questions to print of each kind of change.")] = 20,
) -> None:
    """Print what a changed prompt, model or setting did: the questions of two runs that differ, and counts."""
    from operators.report.compare import compare_runs
    from operators.store.run_folder import RunFolder

    comparison = compare_runs(RunFolder.open(before), RunFolder.open(after))
    if as_json:
        typer.echo(json.dumps(comparison.as_json(), ensure_ascii=False))
        return
    for line in _describe(comparison, limit):
        typer.echo(line)


def _describe(comparison: Comparison, limit: int) -> Iterator[str]:
    yield f"before  {comparison.before}"
    yield f"after   {comparison.after}"
    yield f"prompts that differ: {', '.join(comparison.prompts) or 'none'}"
    yield f"questions with the same words and verdict: {comparison.same}"
    yield from _describe_changes("rewritten", comparison.rewritten, limit)
    yield from _describe_changes("another verdict", comparison.verdict_changed, limit)
    yield from _describe_changes("only before", comparison.only_before, limit)
    yield from _describe_changes("only after", comparison.only_after, limit)
    for what, counts in comparison.counts.items():
        yield from _describe_counts(what, counts)


def _describe_changes(title: str, changes: Sequence[Change], limit: int) -> Iterator[str]:
    if not changes:
        return
    yield ""
    yield f"{title}: {len(changes)}"
    for change in changes[:limit]:
        yield f"  {change.any.question_id} {change.any.video_id} {change.any.category} {change.any.kind}".rstrip()
        yield from (f"    {sign} {each}" for sign, each in (("-", change.before), ("+", change.after)) if each)
    if len(changes) > limit:
        yield f"  and {len(changes) - limit} more; --limit or --json prints them"


def _describe_counts(what: str, counts: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    width = max([len(name) for name in counts], default=0)
    yield ""
    yield f"{'by ' + what:{width + 2}}  before   after  change"
    for name, (before, after) in counts.items():
        yield f"  {name:{width}}  {before:6}  {after:6}  {f'{after - before:+6}' if after != before else ''}".rstrip()
