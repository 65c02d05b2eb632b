"""`lvr prompts`: list the prompts, show what a model gets, and compare two versions of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import BadInput

if TYPE_CHECKING:
    from operators.execution.prompt_diff import PromptChange, PromptVersion
    from operators.execution.request_trace import TracedRequest
    from operators.models.prompts import Prompt

prompts = typer.Typer(help="List, show and compare the prompts.")


@prompts.command("list")
def list_prompts() -> None:
    """List all prompts: id, role, output, purpose. Those of LVR_PROMPTS that differ from the project's are marked."""
    from operators.models.prompts import OWN_FOLDER, load_prompt, prompt_ids, prompts_folder

    folder = prompts_folder()
    found = [load_prompt(prompt_id, folder) for prompt_id in prompt_ids(folder)]
    own = set(prompt_ids(OWN_FOLDER))
    rows = [("id", "role", "output", "purpose")]
    for prompt in found:
        mark = ""
        if prompt.id not in own:
            mark = " (added)"
        elif prompt.sha256 != load_prompt(prompt.id, OWN_FOLDER).sha256:
            mark = " (changed)"
        rows.append((prompt.id + mark, prompt.role.value, _outputs(prompt), prompt.purpose))
    rows += [(f"{prompt_id} (missing)", "", "", "") for prompt_id in sorted(own - {prompt.id for prompt in found})]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *cells, purpose in rows:
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        typer.echo(f"{line}  {purpose}".rstrip())
    if folder.resolve() != OWN_FOLDER.resolve():
        typer.echo(f"read from {folder} (LVR_PROMPTS); marks compare with {OWN_FOLDER}", err=True)


@prompts.command()
def folder() -> None:
    """Print the folder that prompts are read from: LVR_PROMPTS, else the project's."""
    from operators.models.prompts import prompts_folder

    typer.echo(prompts_folder())


@prompts.command()
def show(
    prompt_id: Annotated[str, typer.Argument(help="As `lvr prompts list` prints it.")],
    video: Annotated[str | None, typer.Option(help="Id of a video: show the request about it.")] = None,
    run: Annotated[str | None, typer.Option(help="{out}/runs/{run id}, with --video.")] = None,
) -> None:
    """Show a prompt's source; or, for a video of a run, exactly what the model gets, and what it answered."""
    from operators.execution.request_trace import trace_request
    from operators.models.prompts import load_prompt
    from operators.store.run_folder import RunFolder

    if (video is None) != (run is None):
        raise BadInput(
            "--video needs --run, and --run needs --video; give both to show a request, or neither for the source"
        )
    prompt = load_prompt(prompt_id)
    parts = _describe_source(prompt)
    if video is not None and run is not None:
        parts = _describe_request(trace_request(RunFolder.open(run), prompt_id, video))
    for title, text in parts:
        typer.echo(f"##### {title}\n{text.rstrip()}\n")


@prompts.command()
def diff(
    before: Annotated[str, typer.Argument(help="A folder of prompts, or a run, {out}/runs/{run id}.")],
    after: Annotated[str, typer.Argument(help="Another folder or run.")],
    run: Annotated[str | None, typer.Option(help="Count the stale rows of this run; by default of BEFORE.")] = None,
) -> None:
    """Print which prompts differ, as unified diff, and how many rows of which stages become stale."""
    from operators.execution.prompt_diff import count_stale, diff_prompts
    from operators.store.run_folder import RunFolder

    changes: list[PromptChange] = []
    unused: list[PromptChange] = []
    for change in diff_prompts(_read_versions(before), _read_versions(after)):
        is_unused = (change.before is None and _is_run(before)) or (change.after is None and _is_run(after))
        (unused if is_unused else changes).append(change)
    for change in changes:
        typer.echo(f"{change.prompt_id}: {change.what}")
        typer.echo(change.unified_diff(before, after))
    if not changes:
        typer.echo("no prompt differs")
    if unused:
        typer.echo(f"not compared, because a run did not use them: {', '.join(each.prompt_id for each in unused)}")
    counted = run or (before if _is_run(before) else None)
    if changes and counted:
        for line in count_stale(RunFolder.open(counted), {change.prompt_id for change in changes}):
            typer.echo(str(line))
    elif changes:
        typer.echo("give --run RUN to count the rows of a run that become stale", err=True)


def _is_run(place: str) -> bool:
    return "/runs/" in place


def _read_versions(place: str) -> dict[str, PromptVersion]:
    from operators.execution.prompt_diff import versions_in_folder, versions_of_run
    from operators.store.run_folder import RunFolder

    return versions_of_run(RunFolder.open(place)) if _is_run(place) else versions_in_folder(Path(place))


def _outputs(prompt: Prompt) -> str:
    return ", ".join(dict.fromkeys(output.__name__ for _, output in prompt.outputs))


def _describe_source(prompt: Prompt) -> Iterator[tuple[str, str]]:
    from operators.models.answer_schema import wire_schema

    yield f"{prompt.id}.md", prompt.source
    for kind, output in prompt.outputs:
        of_kind = f" for {kind.value} questions" if kind else ""
        yield f"JSON schema of the answer{of_kind} ({output.__name__})", _json(wire_schema(output, limits_text=False))
    yield "variables", ", ".join(sorted(prompt.variables))
    yield "sha256", prompt.sha256


def _describe_request(traced: TracedRequest) -> Iterator[tuple[str, str]]:
    from operators.models.reading import full_text

    exchange = traced.exchange
    yield (
        "request",
        _json({"stage": traced.stage, "key": traced.request.key, "model": exchange.model, "seed": exchange.seed}),
    )
    for message in exchange.messages():
        content = message["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        yield message["role"], "\n".join(map(_describe_part, parts))
    schema = exchange.response_format()
    yield "response_format", _json(schema) if schema else "none: free text"
    yield "sampling", _json(exchange.sampling.model_dump(mode="json", exclude_none=True))
    yield "sha256", exchange.sha256
    yield (
        "answer in the journal",
        full_text(traced.answer) if traced.answer else "none: a build would send this request",
    )


def _describe_part(part: dict[str, Any]) -> str:
    if part["type"] == "text":
        return str(part["text"])
    url = str(part[part["type"]]["url"])
    return f"<{url.partition(';')[0].removeprefix('data:')}, {len(url.partition(',')[2]) * 3 // 4} bytes>"


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
