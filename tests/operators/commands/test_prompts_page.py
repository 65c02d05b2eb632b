"""docs/prompts.md: its commands run in the order of the page, and do what it shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from operators.models.prompts import FrontMatter
from schemas.config import Role
from tests.operators.commands.conftest import SETTINGS, answer_well
from tests.support.openai_server import OpenAIServer, last_text
from tests.support.titled import TITLES, titled_video

PAGE = (Path(__file__).parents[3] / "docs" / "prompts.md").read_text()
COMMANDS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Output of each command of the page, and the requests of both builds."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "films").mkdir()
    titled_video(folder / "films" / "harbour.mp4", TITLES[:4])
    settings = " ".join(f"--set {each}" for each in SETTINGS)
    script = ["set -e", f'lvr() {{ "{sys.executable}" -P -m operators.cli "$@"; }}']
    for number, command in enumerate("".join(COMMANDS).splitlines()):
        shown = command.replace("lvr build", f"lvr build {settings}")
        script += [f"exec > {number}.out", f"echo {number} > at", shown]
    with OpenAIServer(script=answer_well) as server:
        environ = os.environ | server.environ("reasoner", "judge", "target", vision=True)
        environ.pop("LVR_PROMPTS", None)
        ended = subprocess.run(
            ["bash", "-c", "\n".join(script)], cwd=folder, env=environ, stderr=subprocess.PIPE, text=True
        )
        assert ended.returncode == 0, (folder / "at").read_text() + ended.stderr
        sent = [last_text(seen.body) for seen in server.requests]
    commands = "".join(COMMANDS).splitlines()
    texts = {command: (folder / f"{number}.out").read_text() for number, command in enumerate(commands)}
    return {"commands": texts, "sent": sent, "comparison": json.loads((folder / "comparison.json").read_text())}


def output_of(outputs, start: str) -> str:
    [found] = [text for command, text in outputs["commands"].items() if command.startswith(start)]
    return found


def test_a_request_of_the_build_is_shown(outputs):
    shown = output_of(outputs, "lvr prompts show difficulty")
    user = shown.partition("##### user\n")[2].partition("\n\n##### response_format")[0]
    assert any(text and text in user for text in outputs["sent"])


def test_the_edit_is_shown_before_anything_runs(outputs):
    difference = output_of(outputs, "lvr prompts diff")
    assert "+Worth asking: what a remark was meant to bring about; " in difference
    assert "stale: question: " in difference and "(uses question_goal)" in difference
    assert json.loads(output_of(outputs, "lvr stale"))["reasons"] == ["question: prompt question_goal changed"]


def test_only_requests_for_goal_questions_and_their_checks_are_sent_again(outputs):
    written = [text for text in outputs["sent"] if "\nWorth asking: " in text]
    edited = [text for text in written if "what a remark was meant to bring about" in text]
    assert edited and all("\ngoal - " in text for text in edited)
    assert len(set(written)) == len(written)  # no other one was sent a second time


def test_the_comparison_names_the_prompt_and_what_became_of_its_questions(outputs):
    comparison = outputs["comparison"]
    assert comparison["prompts"] == ["question_goal changed"]
    changed = [each for group in comparison["questions"].values() if isinstance(group, list) for each in group]
    assert {each["category"] for each in changed} == {"goal"}


def test_the_page_names_every_key_of_the_front_matter_and_every_role():
    table = PAGE.partition("| in the front matter |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(FrontMatter.model_fields)
    assert all(f"`{role.value}`" in table for role in Role)
