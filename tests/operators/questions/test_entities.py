"""Mentions of scenes become entities: each mention is in exactly one, whatever a model answers."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.execution.pipeline import stage
from operators.questions.entities import MAX_BLOCK, link_entities, read_mention
from schemas.answers import SeenEntity
from schemas.base import Span
from schemas.tables import Entity
from tests.support.event_world import SECOND, EventWorld
from tests.support.openai_server import Fault, last_text
from tests.support.stages import StageRunner

CAPTIONS = EventWorld(20).captions()
PEOPLE = ("Ada", "Ben", "Olga")


@pytest.fixture
def link(tmp_path, server, pool):
    """Links the mentions of parts, with the models of a stage."""

    def run(parts):
        found = []

        def keep_links(context, captions, sources):
            found.append(link_entities(context, "film", parts))
            yield from ()

        StageRunner(tmp_path, server, pool).run(replace(stage("outline"), run=keep_links), [], [])
        return found[0]

    return run


def mention(name, start, description=""):
    span = Span(start_us=start * SECOND, end_us=(start + 10) * SECOND)
    return Entity(name=name, description=description, spans=(span,))


def read_lines(body):
    """Number and name of each mention of a request."""
    return [(int(found[1]), found[2]) for found in re.finditer(r"^(\d+)\. \([^)]*\) ([^:\n]+)", last_text(body), re.M)]


def link_by_name(body):
    """The answer of a model that knows people by the last word of their names."""
    groups = {}
    for number, name in read_lines(body):
        groups.setdefault(name.split()[-1], []).append(number)
    return {
        "entities": [
            {"name": name, "description": f"known as {name}", "mentions": numbers}
            for name, numbers in groups.items()
            if len(numbers) > 1
        ]
    }


PARTS = [
    [mention("Ada", 0), mention("young Ben", 10)],
    [mention("old Ada", 100), mention("Olga", 110)],
    [mention("Ben", 200), mention("tired Ada", 210)],
]


def test_one_person_has_one_name_and_all_spans(link, server):
    server.script = link_by_name
    links = link(PARTS)
    assert [(each.name, [span.start_us // SECOND for span in each.spans]) for each in links.entities] == [
        ("Ada", [0, 100, 210]),
        ("Ben", [10, 200]),
        ("Olga", [110]),
    ]
    assert [each.description for each in links.entities] == ["known as Ada", "known as Ben", ""]
    assert (len(links.provenance), links.rejects) == (1, [])
    assert "1. (00:00 - 00:10) Ada\n2. (00:10 - 00:20) young Ben\n" in last_text(server.requests[0].body)


@pytest.mark.parametrize("parts", [[], [[]], [PARTS[0]], [PARTS[0], []]])
def test_what_one_scene_mentions_needs_no_request(link, server, parts):
    links = link(parts)
    assert links.entities == [each for part in parts for each in part]
    assert server.requests == []


def test_a_mistake_is_sent_back_once(link, server):
    wrong = {"entities": [{"name": "Ada", "description": "", "mentions": [1, 3, 99]}] * 2}
    server.script = lambda body: link_by_name(body) if len(server.requests) == 2 else wrong
    links = link(PARTS)
    assert [each.name for each in links.entities] == ["Ada", "Ben", "Olga"]
    [_, second] = server.requests
    assert "was wrong: 99 is no number between 1 and 6; 1, 3, 99 stands in two entries" in last_text(second.body)
    assert (len(links.provenance), links.rejects) == (2, [])


def test_mentions_that_stay_mixed_up_are_entities_of_their_own(link, server):
    server.script = lambda body: {
        "entities": [
            {"name": "Ada", "description": "", "mentions": [1, 3, 6]},
            {"name": "a person", "description": "", "mentions": [6, 2, 5]},
        ]
    }
    links = link(PARTS)
    assert [each.name for each in links.entities] == ["Ada", "a person", "Olga", "tired Ada"]
    [reject] = links.rejects
    assert (reject.reason, reject.key) == ("mixed_up_mentions", "film")
    assert "6 stands in two entries" in reject.message and len(server.requests) == 2


def test_a_refusal_links_nothing(link, server):
    server.fail(Fault(content="I'm sorry."), times=2)
    links = link(PARTS)
    assert links.entities == [each for part in PARTS for each in part]
    assert [reject.reason for reject in links.rejects] == ["schema"]


def test_many_mentions_are_linked_in_blocks_and_then_by_their_names(link, server):
    server.script = link_by_name
    names = [f"{number} {PEOPLE[number % 3]}" for number in range(300)]
    parts = [[mention(name, 10 * number)] for number, name in enumerate(names)]
    links = link(parts)
    assert [each.name for each in links.entities] == list(PEOPLE)
    assert sorted(len(read_lines(seen.body)) for seen in server.requests[:3]) == [60, MAX_BLOCK, MAX_BLOCK]
    assert len(server.requests) == 4  # three blocks, then their nine entities
    assert sum(span.end_us - span.start_us for each in links.entities for span in each.spans) == 3_000 * SECOND


def test_blocks_fit_into_the_context(link, server):
    server.script = link_by_name
    server.context = {"max_model_len": 6_000}
    described = [mention(f"{number} Ada", 10 * number, "a very tall woman with long hair" * 4) for number in range(60)]
    assert [each.name for each in link([[each] for each in described]).entities] == ["Ada"]
    assert len(server.requests) > 2


@given(st.lists(st.lists(st.integers(-1, 8), min_size=1, max_size=5), max_size=5))
def test_whatever_is_answered_every_mention_is_in_exactly_one_entity(groups):
    from operators.questions.entities import _merge
    from schemas.answers import SameEntity

    block = [mention(str(number), 20 * number) for number in range(1, 7)]
    found = _merge(block, [SameEntity(name="x", description="", mentions=tuple(group)) for group in groups])
    spans = sorted((span for each in found for span in each.spans), key=lambda span: span.start_us)
    assert spans == [each.spans[0] for each in block]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (("00:20 - 00:30",), [(20, 30)]),
        (("at 0:25",), [(20, 30)]),
        (("00:20–00:40", "1:00 to 1:09"), [(20, 40), (60, 70)]),
        (("00:20 - 00:30, 01:00 - 01:10",), [(20, 30), (60, 70)]),
        (("00:30 - 00:20",), [(30, 40)]),
        (("1:10:00 - 1:10:10", "nowhere"), [(0, 200)]),
        ((), [(0, 200)]),
    ],
)
def test_times_are_those_of_the_captions_that_they_touch(seen, expected):
    entity = read_mention(SeenEntity(name="the\ncat", description=" grey ", seen=seen), CAPTIONS)
    assert [(span.start_us // SECOND, span.end_us // SECOND) for span in entity.spans] == expected
    assert (entity.name, entity.description) == ("the cat", "grey")
