"""Chains of thought: by program for derived questions, and by the reasoner, without the answer, for the others."""

from dataclasses import dataclass, field

import pytest

from operators.questions.spatial import derive_spatial_facts
from operators.stages import question as question_stage
from operators.stages.reason import STAGE
from schemas.base import Span
from schemas.config import Writer
from schemas.tables import Check, Derivation, DetectedObject, QuestionKind
from tests.support.films import BOXES, SECOND, captions_of, film, shown
from tests.support.openai_server import Reply, last_text
from tests.support.rows import make_question, make_source, make_video

FILM = film(shown("NORA NEEDS A LAMP", 9, 14), shown("THE LAST FERRY", 17, 21), shown("FRESH APPLES", 33, 45))
CAPTIONS = captions_of(FILM)
QUESTION = make_question(1, "film").model_copy(
    update={"writer": "model", "evidence": (Span(start_us=33 * SECOND, end_us=35 * SECOND),)}
)
OPEN = make_question(2, "film", QuestionKind.OPEN).model_copy(update={"writer": "model", "evidence": QUESTION.evidence})
CHAIN = "I look for what comes in. At 00:33 I see it drift slowly towards the pier. So what comes in is a boat."
OTHER = "I look for what comes in. At 00:34 I see it roll slowly along the pier. So what comes in is a car."
SOURCE = make_source("film")
GOOD = {"reasoning": CHAIN, "answer": "a boat", "evidence": ["00:33 - 00:40"]}
WRONG = {"reasoning": OTHER, "answer": "a car", "evidence": ["00:33 - 00:40"]}


@dataclass
class Models:
    """A server script: chains in turn (the last one again and again), then the hinted one."""

    chains: list = field(default_factory=lambda: [GOOD])
    hinted: object = field(default_factory=lambda: GOOD)
    refined: str = ""
    """What the second pass makes of a chain; empty for the chain itself."""
    reads: str = "a boat"
    """What a reader finds in a chain that is about the question."""
    leaks: bool = False
    """Whether a reader finds the answer in any chain."""
    unsupported: tuple[str, ...] = ()
    """Chains whose reviews find something."""
    seen: list = field(default_factory=list)

    def __call__(self, body):
        text, name = last_text(body), body["response_format"]["json_schema"]["name"]
        self.seen.append((name, text))
        match name:
            case "WrittenChain" if "The right answer is:" in text:
                return self.hinted
            case "WrittenChain":
                return self.chains[min(self.sent("WrittenChain"), len(self.chains)) - 1]
            case "RefinedChain":
                return {"reasoning": self.refined or chain_of(text)}
            case "ChosenOption" | "FoundAnswer":
                found = self.reads if self.leaks or "boat" in chain_of(text) else "unknown"
                letters = {line[3:]: line[0] for line in text.splitlines() if line[1:3] == ". "}
                return {"why": "", "answer": letters.get(found, found) if name == "ChosenOption" else found}
            case "ChainCheck":
                found = [{"statement": "it drifts", "why": "it stands"}] if chain_of(text) in self.unsupported else []
                return {"unsupported": found, "speaks_of_material": "as it is known" in chain_of(text)}
            case "Verdict":
                return {"same": "boat" in text.partition("Given answer:")[2]}

    def sent(self, name):
        return sum(each == name for each, _ in self.seen)


def chain_of(text):
    return text.partition("<chain>\n")[2].partition("\n</chain>")[0]


def chain(text, answer="a boat"):
    return {**GOOD, "reasoning": text, "answer": answer}


def run(stages, server, questions=(QUESTION,), models=None, **options):
    server.script = models or Models()
    return stages.run(STAGE, CAPTIONS, list(questions), [], [SOURCE], reason=options)


def test_derived_questions_are_explained_without_a_model(stages, server):
    video = make_video("film")
    questions = stages.run(
        question_stage.STAGE,
        [video],
        CAPTIONS,
        [],
        [SOURCE],
        question={"writers": [Writer.PROGRAM]},
        verify={"blind_trials": 0},
    )
    reasonings = stages.run(STAGE, CAPTIONS, questions, [], [SOURCE])
    assert [each.question_id for each in reasonings] == [each.question_id for each in questions]
    assert all(r.evidence == q.evidence and q.answer in r.reasoning for q, r in zip(questions, reasonings, strict=True))
    assert not server.requests


def test_a_question_about_boxes_is_explained_without_a_model(stages, server):
    boxes = {"white ferry": BOXES[3], "old man with a cane": BOXES[4]}
    seen = [DetectedObject(label=label, box=box, time_us=2 * SECOND, score=1.0) for label, box in boxes.items()]
    captions = [CAPTIONS[0].model_copy(update={"objects": tuple(seen)}), *CAPTIONS[1:]]
    fact = derive_spatial_facts(captions)[0]
    question = QUESTION.model_copy(
        update={
            "derivation": Derivation(template=fact.template, subjects=fact.subjects),
            "answer": fact.answer,
            "evidence": fact.evidence,
        }
    )
    [reasoning] = stages.run(STAGE, captions, [question], [], [SOURCE])
    assert fact.steps[0] in reasoning.reasoning
    assert not server.requests


def test_the_reasoner_is_shown_the_video_and_the_evidence_but_not_the_answer(stages, server):
    models = Models()
    (reasoning,) = run(stages, server, models=models)
    assert (reasoning.question_id, reasoning.reasoning, reasoning.hinted) == (QUESTION.question_id, CHAIN, False)
    assert [(span.start_us // SECOND, span.end_us // SECOND) for span in reasoning.evidence] == [(33, 35), (33, 40)]
    texts = [text for name, text in models.seen if name == "WrittenChain"]
    assert len(texts) == 3
    assert texts[0].count("00:30 - 00:40: A scene") == 2  # in the whole timeline, and as evidence
    assert texts[0].count("00:40 - 00:50: A scene") == 1
    assert all(part in texts[0] for part in (QUESTION.question, *QUESTION.options))
    assert "right answer" not in texts[0]
    assert [trial.check for trial in reasoning.checks] == [Check.CHAIN_READ, Check.CHAIN_SUPPORT]
    assert all(trial.passed for trial in reasoning.checks)


@pytest.mark.parametrize("number", [1, 4])
def test_as_many_chains_are_requested_as_configured(stages, server, number):
    models = Models()
    run(stages, server, models=models, chains=number)
    assert models.sent("WrittenChain") == number


def test_only_chains_that_arrive_at_the_answer_are_used(stages, server):
    (reasoning,) = run(stages, server, models=Models(chains=[WRONG, GOOD, WRONG]))
    assert (reasoning.reasoning, reasoning.hinted) == (CHAIN, False)


def test_an_open_answer_in_other_words_is_judged(stages, server):
    models = Models(chains=[chain(CHAIN, "some boat, slowly drifting")])
    (reasoning,) = run(stages, server, [OPEN], models)
    assert not reasoning.hinted
    assert models.sent("Verdict") >= 1


def test_the_chain_with_the_answer_is_a_marked_fallback(stages, server):
    models = Models(chains=[WRONG])
    (reasoning,) = run(stages, server, models=models)
    assert (reasoning.reasoning, reasoning.hinted) == (CHAIN, True)
    assert models.sent("WrittenChain") == 4


def test_a_question_without_any_chain_that_arrives_is_a_reject(stages, server):
    assert run(stages, server, models=Models(chains=[WRONG], hinted=chain(OTHER, "unknown"))) == []
    (reject,) = stages.rejects
    assert (reject.reason, reject.key, reject.raw) == ("chain_disagrees", QUESTION.question_id, OTHER)


def test_the_second_pass_is_kept_with_its_provenance(stages, server):
    refined = "Let me look for what comes in. At 00:33 I see it drift towards the pier. So it is a boat."
    (reasoning,) = run(stages, server, models=Models(refined=refined))
    assert reasoning.reasoning == refined
    assert reasoning.refinement is not None
    assert reasoning.refinement.prompt_id == "refine"
    assert reasoning.provenance.prompt_id == "chain"


@pytest.mark.parametrize(
    "refined",
    [
        "I see it at 00:38 drift slowly towards the pier, and so what comes in there must be a boat.",  # another time
        "At 00:33 I see two of them drift slowly towards the pier. So what comes in is a boat.",  # a number more
        "At 00:33 I see it drift slowly towards the pier with great ease. So what comes in is a bird.",
        "As the captions say, at 00:33 it drifts slowly towards the pier. So what comes in is a boat.",
        "I look for what comes in, and I watch it drift slowly towards the pier. So it is a boat.",  # no time any more
    ],
)
def test_a_second_pass_that_changes_more_than_words_is_not_used(stages, server, refined):
    (reasoning,) = run(stages, server, models=Models(refined=refined))
    assert (reasoning.reasoning, reasoning.refinement) == (CHAIN, None)


def test_the_second_pass_may_repair_talk_of_the_material(stages, server):
    talk = CHAIN.replace("I see it drift", "the description says that things drift")
    (reasoning,) = run(stages, server, models=Models(chains=[chain(talk)], hinted=chain(talk), refined=CHAIN))
    assert (reasoning.reasoning, reasoning.hinted) == (CHAIN, False)
    assert run(stages, server, models=Models(chains=[chain(talk)], hinted=chain(talk))) == []
    assert stages.rejects[0].reason == "meta_talk"


def test_without_the_second_pass_no_request_is_sent_for_it(stages, server):
    models = Models()
    (reasoning,) = run(stages, server, models=models, refine=False)
    assert reasoning.refinement is None
    assert models.sent("RefinedChain") == 0


def test_a_chain_that_a_reviewer_refuses_is_replaced_by_the_next_that_arrived(stages, server):
    second = CHAIN.replace("towards the pier", "along the pier")
    models = Models(chains=[GOOD, chain(second), WRONG], unsupported=(CHAIN,))
    (reasoning,) = run(stages, server, models=models)
    assert (reasoning.reasoning, reasoning.hinted) == (second, False)


def test_the_hinted_chain_comes_after_all_others_and_then_the_reject_of_the_last_failure(stages, server):
    hinted = CHAIN.replace("towards the pier", "along the pier")
    models = Models(hinted=chain(hinted), unsupported=(CHAIN,))
    (reasoning,) = run(stages, server, models=models)
    assert (reasoning.reasoning, reasoning.hinted) == (hinted, True)
    assert run(stages, server, models=Models(unsupported=(CHAIN,))) == []
    (reject,) = stages.rejects
    assert (reject.reason, reject.raw) == ("chain_unsupported", CHAIN)
    assert "it drifts" in reject.message


def test_a_chain_that_a_reviewer_takes_for_talk_of_the_material_is_not_used(stages, server):
    talk = CHAIN.replace("So what", "So, as it is known, what")
    (reasoning,) = run(stages, server, models=Models(chains=[chain(talk)]))
    assert (reasoning.reasoning, reasoning.hinted) == (CHAIN, True)
    assert run(stages, server, models=Models(chains=[chain(talk)], hinted=chain(talk))) == []
    assert stages.rejects[0].reason == "meta_talk"


def test_a_chain_by_which_a_reader_does_not_find_the_answer_is_not_used(stages, server):
    assert run(stages, server, models=Models(reads="a bird")) == []
    assert stages.rejects[0].reason == "chain_not_followed"
    assert "'a bird'" in stages.rejects[0].message


def test_a_question_that_any_chain_answers_is_a_reject(stages, server):
    video = make_video("film")
    derived = stages.run(
        question_stage.STAGE,
        [video],
        CAPTIONS,
        [],
        [SOURCE],
        question={"writers": [Writer.PROGRAM]},
        verify={"blind_trials": 0},
    )
    rows = run(stages, server, [*derived, QUESTION])
    assert [trial.check for trial in rows[-1].checks][-1] is Check.CHAIN_SWAPPED
    rows = run(stages, server, [*derived, QUESTION], Models(leaks=True))
    assert len(rows) == len(derived)
    assert [reject.reason for reject in stages.rejects] == ["chain_swapped"]


def test_questions_that_did_not_pass_get_no_chain(stages, server):
    assert run(stages, server, [QUESTION.model_copy(update={"passed": False})]) == []
    assert not server.requests


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({**GOOD, "evidence": ["09:00 - 09:10"]}, "bad_evidence"),
        ({**GOOD, "reasoning": " "}, "schema"),
        (Reply(GOOD, finish_reason="length"), "truncated"),
    ],
)
def test_an_answer_that_is_no_chain_is_a_reject(stages, server, answer, reason):
    assert run(stages, server, models=Models(chains=[answer], hinted=answer)) == []
    (reject,) = stages.rejects
    assert (reject.reason, reject.key) == (reason, QUESTION.question_id)
    assert QUESTION.question_id in reject.message


def test_equal_inputs_give_equal_rows(stages, server):
    assert run(stages, server) == run(stages, server)
