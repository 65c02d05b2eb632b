"""Questions derived by program and written by a model, checked, and requested again where they fail."""

from collections import Counter

import pytest

from operators.questions.plan import plan_slots
from operators.questions.writing import PROMPTS, question_id
from operators.stages.question import STAGE
from schemas.config import QuestionConfig, Writer
from schemas.tables import Check, DetectedObject, QuestionCategory, QuestionKind, Reach
from tests.support.films import BOXES, captions_of, film, shown
from tests.support.openai_server import Reply, last_text
from tests.support.rows import make_source, make_video

FILM = film(
    shown("CHAPTER ONE", 2, 6, BOXES[4]),
    shown("NORA NEEDS A LAMP", 9, 14),
    shown("THE LAST FERRY", 17, 21),
    shown("FRESH APPLES", 33, 45, BOXES[6]),
    shown("EXIT", 50, 54),
)
CAPTIONS = captions_of(FILM)
SOURCE = make_source("film")
VIDEO = make_video("film").model_copy(update={"duration_us": FILM.duration_us})
UNCHECKED = {"blind_trials": 0, "timeline": False, "parts": False, "review": False}


def write(body, number=0):
    """The reasoner's answer: a question with its own words for each request."""
    name = body["response_format"]["json_schema"]["name"]
    if not name.startswith("Written"):
        return None
    names = ("Nora", "Max", "the guard", "the baker", "the girl", "the pilot", "the mayor", "the cook")
    who = names[body["seed"] % len(names)]
    written = {
        "notes": "It is shown once.",
        "evidence": ["00:10 - 00:20", "00:33"],
        "question": f"Why does {who} hurry to the place number {body['seed']}?",
        "answer": f"{who} is late by {body['seed']}",
    }
    if name == "WrittenChoice":
        written["wrong_answers"] = [
            {"answer": f"{other} calls at {body['seed']}", "why_wrong": "It is not shown."}
            for other in names
            if other != who
        ][:3]
    return written


def agree(body):
    """A judge that finds every written answer in whatever it reads, and no two questions the same."""
    name = body["response_format"]["json_schema"]["name"]
    if name == "ChosenOption":
        letter = next(line[0] for line in last_text(body).splitlines() if " is late by " in line and line[1] == ".")
        return {"why": "It is shown.", "answer": letter}
    if name == "FoundAnswer":
        return {"why": "It is shown.", "answer": "as written"}
    if name == "Verdict":
        return {"same": "Given answer" in last_text(body)}
    return write(body)


def settings(*writers: Writer, **more) -> dict:
    return {"writers": writers, **more}


def run(stages, captions=CAPTIONS, verify=UNCHECKED, **question):
    return stages.run(STAGE, [VIDEO], captions, [], [SOURCE], question=question, verify=verify)


def test_the_program_derives_questions_of_all_kinds_without_a_model(stages, server):
    questions = run(stages, writers=[Writer.PROGRAM])
    assert {each.kind for each in questions} == set(QuestionKind)
    assert {each.category for each in questions} == {
        QuestionCategory.TEMPORAL,
        QuestionCategory.PLOT,
        QuestionCategory.SPATIAL,
    }
    assert all(each.derivation and each.provenance.model == "program" and each.passed for each in questions)
    assert all([trial.check for trial in each.checks] == ["rules", "grounded", "duplicate"] for each in questions)
    assert len({each.question_id for each in questions}) == len(questions)
    assert not server.requests


def test_ids_follow_from_what_identifies_a_question(stages):
    questions = run(stages, writers=[Writer.PROGRAM])
    first = next(each for each in questions if (each.category, each.kind) == ("spatial", "open"))
    assert first.question_id == question_id("film", QuestionCategory.SPATIAL, QuestionKind.OPEN, Writer.PROGRAM, 0)
    assert first.question_id[0] == "q"
    assert len(first.question_id) == 25


def test_only_questions_of_the_requested_categories_are_written(stages):
    questions = run(stages, writers=[Writer.PROGRAM], categories=["spatial"])
    assert {each.category for each in questions} == {QuestionCategory.SPATIAL}


def test_texts_that_a_model_noticed_make_no_timeline(stages):
    unread = {"screen_texts": (), "text_sample_times_us": ()}
    described = [each.model_copy(update={**unread, "seen_texts": each.screen_texts}) for each in CAPTIONS]
    assert run(stages, described, writers=[Writer.PROGRAM]) == []


def test_the_plan_is_filled_in_one_round_when_all_questions_pass(stages, server):
    server.script = agree
    questions = run(stages, writers=[Writer.MODEL], min_questions=12, far_share=0.0)
    planned = plan_slots("film", VIDEO.duration_us, QuestionConfig(min_questions=12, far_share=0.0), 0)
    assert Counter((each.category, each.kind) for each in questions) == Counter(
        (slot.category, slot.kind) for slot in planned
    )
    assert all(each.passed and each.round == 0 for each in questions)
    assert {each.provenance.prompt_id for each in questions} == set(PROMPTS.values())
    choice = next(each for each in questions if each.kind is QuestionKind.CHOICE)
    assert len(set(choice.options)) == 4 and choice.answer in choice.options
    assert [(span.start_us, span.end_us) for span in choice.evidence] == [
        (10_000_000, 20_000_000),
        (33_000_000, 34_000_000),
    ]
    assert stages.rejects == []


def test_questions_that_fail_are_kept_as_rows_and_requested_again(stages, server):
    seeds: set[int] = set()

    def leak_in_two(body):
        written = write(body)
        if written is None:
            return agree(body)
        if len(seeds) < 2:
            seeds.add(body["seed"])
        return {**written, "question": "In clip 3, why does she run?"} if body["seed"] in seeds else written

    server.script = leak_in_two
    questions = run(stages, writers=[Writer.MODEL], categories=["goal"], kinds=["open"], min_questions=4, far_share=0.0)
    assert Counter(each.round for each in questions) == {0: 4, 1: 2}
    assert sum(each.passed for each in questions) == 4
    failed = [each for each in questions if not each.passed]
    assert {each.key for each in stages.rejects} == {each.question_id for each in failed}
    assert {each.reason for each in stages.rejects} == {"meta_talk"}
    assert all(each.checks[-1].check is Check.RULES and not each.checks[-1].passed for each in failed)
    second = [last_text(seen.body) for seen in server.requests if "asked already" in last_text(seen.body)]
    assert second and all("In clip 3, why does she run?" in text for text in second)


def test_after_the_last_round_the_plan_stays_open(stages, server):
    server.script = lambda body: {**write(body), "question": "In clip 3, why does she run?"}
    questions = run(stages, writers=[Writer.MODEL], categories=["goal"], kinds=["open"], min_questions=2, rounds=3)
    assert [each.round for each in questions] == [0, 0, 1, 1, 2, 2]
    assert not any(each.passed for each in questions)
    assert len(stages.rejects) == 6


def test_far_questions_are_requested_with_two_places_that_lie_apart(stages, server):
    server.script = agree
    run(stages, writers=[Writer.MODEL], min_questions=6, far_share=0.5, rounds=1)
    far = [last_text(seen.body) for seen in server.requests if "lies far apart" in last_text(seen.body)]
    assert len(far) == 3


def test_a_request_names_no_question_of_another_category(stages, server):
    server.script = agree
    questions = run(stages, writers=[Writer.MODEL], min_questions=20)
    requests = [last_text(seen.body) for seen in server.requests if "one exam question" in last_text(seen.body)]
    named = [(each, text) for each in questions for text in requests if each.question in text]
    assert named  # those of the same category
    assert all(f"\n{each.category.value} - " in text for each, text in named)


def test_the_reasoner_reads_the_whole_video_first_and_what_is_wished_last(stages, server):
    server.script = agree
    run(stages, writers=[Writer.MODEL])
    texts = [last_text(seen.body) for seen in server.requests if "You write one exam question" in last_text(seen.body)]
    beginnings = {text[: text.index("The question is of this category")] for text in texts}
    assert len(beginnings) == 1  # the shared prefix, which servers keep in their prompt cache
    assert all("00:10 - 00:20: A scene" in beginning for beginning in beginnings)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"evidence": ["05:00 - 06:00"]}, "bad_evidence"),
        ({"evidence": ["00:30 - 00:10"]}, "bad_evidence"),
        ({"evidence": []}, "schema"),
        ({"question": "x" * 400}, "schema"),
        ("I would rather not.", "schema"),
        ("length", "truncated"),
        ("filter", "blocked"),
    ],
)
def test_an_answer_that_is_no_question_is_a_reject_with_its_text(stages, server, change, reason):
    def script(body):
        match change:
            case dict():
                return {**write(body), **change}
            case "length":
                return Reply(write(body), finish_reason="length")
            case "filter":
                return Reply("", finish_reason="content_filter")
        return change

    server.script = script
    requested = {"categories": ["goal"], "kinds": ["choice"], "min_questions": 1, "max_questions": 1, "rounds": 1}
    assert run(stages, writers=[Writer.MODEL], **requested) == []
    (reject,) = stages.rejects
    assert reject.reason == reason
    assert reject.key in reject.message
    assert len(reject.request_sha256) == 64
    assert reject.raw or reason == "blocked"


def test_a_context_that_is_too_small_is_named_once_for_the_video(stages, server):
    server.script = agree
    rows = stages.run(
        STAGE, [VIDEO], CAPTIONS, [], [SOURCE], question={"writers": [Writer.MODEL]}, verify=UNCHECKED,
        models={"reasoner": {"context_tokens": 5000}},
    )  # fmt: skip
    assert rows == []
    (reject,) = stages.rejects
    assert (reject.key, reject.reason) == ("film", "context_too_small")
    assert "5000" in reject.message
    assert not server.requests


def test_what_was_written_before_the_context_became_too_small_is_kept(stages, server):
    """Each wave shows the questions of the waves before it, which takes room from the story."""
    server.script = agree
    for tokens in range(5_000, 12_000, 50):
        rows = stages.run(
            STAGE, [VIDEO], CAPTIONS, [], [SOURCE], verify=UNCHECKED,
            question={"writers": [Writer.MODEL], "categories": ["goal"], "kinds": ["open"], "min_questions": 12},
            models={"reasoner": {"context_tokens": tokens}},
        )  # fmt: skip
        if rows:
            break
    assert len(rows) in {4, 8}  # waves of four
    assert all(row.passed and row.round == 0 for row in rows)
    assert [reject.reason for reject in stages.rejects] == ["context_too_small"]


def test_a_video_without_captions_has_no_questions(stages, server):
    assert run(stages, []) == []
    assert not server.requests


def test_evidence_that_lies_apart_makes_a_question_far(stages, server):
    server.script = lambda body: {**(agree(body) or {}), **({"evidence": ["00:02", "00:50"]} if write(body) else {})}
    questions = run(stages, writers=[Writer.MODEL], min_questions=2, rounds=1)
    assert {each.reach for each in questions} == {Reach.FAR}


BOXED = [
    caption.model_copy(
        update={
            "objects": tuple(
                DetectedObject(label=label, box=box, time_us=caption.start_us + 2_000_000, score=1.0)
                for label, box in boxes.items()
            )
        }
    )
    for caption, boxes in zip(
        CAPTIONS,
        [{"white ferry": BOXES[3], "old man with a cane": BOXES[4]}, *[{}] * (len(CAPTIONS) - 1)],
        strict=True,
    )
]
SPATIAL = {"writers": [Writer.MODEL], "categories": ["spatial"], "kinds": ["open"], "far_share": 0.0}


def word(body):
    """A reasoner that words each fact, and writes questions of its own as well."""
    if body["response_format"]["json_schema"]["name"] != "WordedQuestion":
        return agree(body)
    labels = [line[2:] for line in last_text(body).splitlines() if line in ("- white ferry", "- old man with a cane")]
    return {"question": f"Where is the {', as one sees it from the '.join(labels)}, when number {body['seed']} rings?"}


def test_spatial_slots_use_facts_about_boxes_first(stages, server):
    server.script = word
    questions = run(stages, BOXED, min_questions=5, **SPATIAL)
    worded = [each for each in questions if each.derivation]
    assert {each.derivation.template for each in worded} == {"boxes_relation", "boxes_place"}
    assert len(questions) == 5 > len(worded)
    assert all(each.passed and each.writer == "model" for each in questions)
    relation = next(each for each in worded if each.derivation.template == "boxes_relation")
    assert "old man with a cane" in relation.question and "white ferry" in relation.question
    assert [trial.check for trial in relation.checks] == ["rules", "rules", "grounded", "duplicate"]
    assert relation.provenance.prompt_id == "spatial"
    assert {each.provenance.prompt_id for each in questions if not each.derivation} == {"question_spatial"}


def test_a_wording_that_states_the_answer_is_a_reject_and_the_next_fact_is_used(stages, server):
    first: list[int] = []

    def state_the_first(body):
        reply = word(body)
        if body["response_format"]["json_schema"]["name"] == "WordedQuestion":
            first.append(body["seed"])
            if body["seed"] == first[0]:
                return {"question": "Is it the white ferry or the old man with a cane to the right, in the centre?"}
        return reply

    server.script = state_the_first
    questions = run(stages, BOXED, min_questions=1, **SPATIAL)
    assert [(each.passed, each.round) for each in questions] == [(False, 0), (True, 1)]
    assert questions[0].derivation.subjects != questions[1].derivation.subjects or (
        questions[0].derivation.template != questions[1].derivation.template
    )
    assert [reject.reason for reject in stages.rejects] == ["states_answer"]
