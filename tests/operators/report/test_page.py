"""The report page: complete, self-contained, free of active content, and readable in a real browser at any width."""

import re
from html.parser import HTMLParser

import pytest

from operators.execution.rejects import group_rejects
from operators.report import write_report
from operators.report.health import collect_findings
from operators.store.run_folder import RunFolder
from tests.support.browser import chromium
from tests.support.synthetic_rows import HOSTILE
from tests.support.synthetic_run import synthetic_run


class Tags(HTMLParser):
    """Parser that collects a page's tags, attributes and text. Every opened tag must be closed in order."""

    VOID = ("meta", "br", "img", "link", "input", "line", "rect", "hr")

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(folder):
    url = write_report(folder)
    assert url == f"{folder.url}/report.html"
    return folder.store.read(f"{folder.address}/report.html").decode()


def test_a_full_page_needs_nothing_from_outside(folder):
    page = page_of(folder)
    tags = Tags(page)
    assert "script" not in tags.tags
    assert all(value.startswith("#") for name, value in tags.attributes if name in ("href", "src"))
    assert not re.search(r"url\(|@import|https?://", page)
    assert tags.tags.count("article") == 8
    for section in ("health", "funnel", "samples", "videos", "time", "examples"):
        assert ("id", section) in tags.attributes
        assert ("href", f"#{section}") in tags.attributes
    assert tags.tags.count("title") == 1 + tags.tags.count("svg")  # one for the page, and one for every figure


def test_texts_of_models_are_shown_and_never_run(tmp_path):
    page = page_of(synthetic_run(tmp_path, videos=2, hostile=True))
    tags = Tags(page)
    assert HOSTILE in tags.text
    assert "script" not in tags.tags
    assert "img" not in tags.tags
    assert not any(name.startswith("on") for name, _ in tags.attributes)


def test_a_build_in_which_nothing_passed_is_reported_with_the_reasons(tmp_path):
    tags = Tags(page_of(synthetic_run(tmp_path, videos=2, nothing_passes=True)))
    assert "No samples" in tags.text
    assert "question: answerable blind" in tags.text
    assert "Files in the source that are not videos: 3 .srt files." in tags.text
    assert "right 4 of 4 times" in tags.text  # an example of a reject message
    assert "article" not in tags.tags


@pytest.mark.parametrize("until", ["split", "reason", "difficulty"])
def test_a_run_under_way_shows_what_there_is(tmp_path, until):
    tags = Tags(page_of(synthetic_run(tmp_path, videos=1, until=until)))
    assert "This run is not finished" in tags.text
    assert ", assemble, shard" in tags.text


def test_a_plan_alone_is_a_page(tmp_path):
    folder = synthetic_run(tmp_path, videos=2, until="ingest")
    for name in ("records", "metrics"):
        for address in folder.store.list(f"{folder.address}/{name}"):
            folder.store.remove(address)
    assert "No video has been read yet" in Tags(page_of(folder)).text


def test_the_same_run_gives_the_same_page(folder):
    assert page_of(folder) == page_of(folder)


def test_the_page_of_a_run_of_an_earlier_version_shows_no_secret_of_its_source(tmp_path):
    """Versions up to 62b2544 accepted any URL and wrote it to run.json with its secrets."""
    folder = synthetic_run(tmp_path, videos=2, until="ingest")
    earlier = {"source": "https://me:PASSWORD@host/list.csv?SECRET", "media_root": "s3://K:PASSWORD@media"}
    requested = folder.run.requested.model_copy(update=earlier)
    run = folder.run.model_copy(update={"requested": requested, "config": requested})
    (tmp_path / "runs/synthetic-20261122/run.json").write_text(run.model_dump_json())
    page = page_of(RunFolder.open(folder.url))
    assert "https://host/list.csv" in page
    assert not any(word in page for word in ("PASSWORD", "SECRET"))


def test_the_page_fits_every_width_in_a_browser_and_follows_its_colour_scheme(tmp_path):
    address = write_report(synthetic_run(tmp_path, videos=2, hostile=True))
    messages, backgrounds = [], set()
    with chromium() as browser:
        for scheme, width in (("light", 1280), ("dark", 360)):
            tab = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}).new_page()
            tab.on("console", lambda message: messages.append(message.text))
            tab.on("dialog", lambda dialog: messages.append(dialog.message))
            tab.goto(f"file://{address}")
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            backgrounds.add((scheme, tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")))
    assert messages == []
    assert len(backgrounds) == 2


def test_the_page_explains_the_reasons_of_rejects(folder):
    explanations = [group.explanation for group in group_rejects(folder) if group.explanation]
    text = Tags(page_of(folder)).text
    assert explanations and all(each in text for each in explanations)


def test_the_page_shows_every_finding_and_the_run_keeps_them_as_data(folder):
    text = Tags(page_of(folder)).text
    found = folder.findings()
    assert found.run_id == folder.run.run_id
    assert found == collect_findings(folder)
    assert all(each.subject in text and each.message in text for each in found.findings)
    assert all(each.code in text for each in found.problems) and found.problems


def test_the_page_shows_outcomes_by_prompt_chains_and_captions_that_were_requested_again(folder):
    text = Tags(page_of(folder)).text
    for shown in ("question_temporal", "by a model with the answer (hinted)", "bad caption copy", "reasoner-120b"):
        assert shown in text
