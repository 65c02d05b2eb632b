import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.execution.stage import Context
from operators.stages.assemble import STAGE, assign_splits, near_duplicate_groups
from schemas.answer_format import LETTERS
from schemas.base import canonical_json, digest
from schemas.config import AssembleConfig, BuildConfig
from schemas.provenance import Provenance, list_steps
from schemas.tables import Check, Outline, QuestionKind, Reasoning, Reject, Split
from tests.support.rows import PROGRAM, make_question, make_reasoning, make_source, make_trial, make_video

HASHES = st.integers(0, 2**512 - 1)


def assemble(split, questions, correct, seed=0, listed="news_politics", outlined="film", solved=None, **pass_rates):
    """Rows for one video of that split, if the target answers question `q` correctly in `correct[q]` of 10 trials.

    `solved` holds whether the viewer answered a question rightly.
    """
    config = BuildConfig(source="a", out="b", seed=seed, assemble={"pass_rates": pass_rates})
    context = Context(STAGE.name, "all", config, {}, {}, files=None, scratch=None)
    reasonings = [
        Reasoning(
            question_id=q.question_id, video_id=q.video_id, reasoning="It shows.", evidence=(), provenance=PROGRAM
        )
        for q in questions
    ]
    difficulties = [
        make_trial(q, Check.DIFFICULTY, correct[q.question_id]) for q in questions if q.question_id in correct
    ]
    difficulties += [make_trial(q, Check.SOLVABLE, 3, 3, (solved or {})[q.question_id]) for q in questions if solved]
    sources = [make_source("v", split_hint=split, category=listed)]
    outline = Outline(video_id="v", category=outlined, summary="", scenes=(), entities=(), provenance=())
    return list(STAGE.run(context, [make_video("v")], questions, reasonings, difficulties, [outline], sources))


def groups_of(videos):
    return near_duplicate_groups(videos, AssembleConfig().near_duplicate_bits)


def without_hints(videos):
    return dict.fromkeys(video.video_id for video in videos)


def test_a_sample_carries_the_published_columns():
    question = make_question(1)
    [sample] = assemble(Split.SFT, [question], {"q0001": 4})
    letter = LETTERS[sample.options.index("a boat")]
    assert sample.answer == f"<answer>{letter}</answer>" and sample.final_answer == letter
    assert sample.problem.splitlines()[0] == "What comes 1th?"
    assert sample.problem.splitlines()[1 + sample.options.index("a boat")] == f"{letter}. a boat"
    assert (sample.videos, sample.data_type, sample.problem_type) == ("v.mp4", "video", "plot")
    assert (sample.pass_rate, sample.trials, sample.split) == (0.4, 10, Split.SFT)
    assert sample.video_category == "news_politics"
    assert 0 <= sample.problem_id < 2**63


@pytest.mark.parametrize(
    ("listed", "outlined", "category"),
    [("music", "film", "music"), ("unknown", "film", "film"), ("unknown", "unknown", "unknown")],
)
def test_a_video_that_the_list_does_not_categorise_has_the_category_of_its_outline(listed, outlined, category):
    [sample] = assemble(Split.SFT, [make_question(1)], {"q0001": 4}, listed=listed, outlined=outlined)
    assert sample.video_category == category


def made_by(model, prompt=""):
    return Provenance(
        model=model, served_model=f"{model}-awq", prompt_id=prompt, prompt_sha256=digest(prompt) if prompt else ""
    )


def test_a_sample_names_the_models_and_prompts_behind_it():
    question = make_question(1)
    judged = make_trial(question, Check.BLIND, 3).model_copy(
        update={"provenance": (*[made_by("judge", "answer_blind_choice")] * 3, made_by("judge", "judge"))}
    )
    question = question.model_copy(
        update={
            "provenance": made_by("writer", "question_plot"),
            "checks": (make_trial(question, Check.RULES, 1).model_copy(update={"provenance": ()}), judged),
        }
    )
    chain = make_reasoning(question).model_copy(
        update={
            "provenance": made_by("writer", "chain_hinted"),
            "refinement": made_by("writer", "refine"),
            "hinted": True,
        }
    )
    measured = make_trial(question, Check.DIFFICULTY, 4).model_copy(
        update={"provenance": (made_by("target", "difficulty"),) * 10}
    )
    outline = Outline(
        video_id="v",
        category="film",
        summary="",
        scenes=(),
        entities=(),
        provenance=(made_by("writer", "scene_summary"),),
        captioned_by=list_steps("caption", [made_by("captioner", "caption")] * 2),
    )
    context = Context(STAGE.name, "all", BuildConfig(source="a", out="b"), {}, {}, files=None, scratch=None)
    source = make_source("v", split_hint=Split.SFT)
    [sample] = STAGE.run(context, [make_video("v")], [question], [chain], [measured], [outline], [source])
    assert sample.reasoning_hinted
    assert [(step.step, step.model, step.prompt_id) for step in sample.steps] == [
        ("caption", "captioner", "caption"),
        ("outline", "writer", "scene_summary"),
        ("question", "writer", "question_plot"),
        ("blind", "judge", "answer_blind_choice"),
        ("blind", "judge", "judge"),
        ("reason", "writer", "chain_hinted"),
        ("refine", "writer", "refine"),
        ("difficulty", "target", "difficulty"),
    ]
    assert {step.served_model for step in sample.steps} == {f"{step.model}-awq" for step in sample.steps}
    assert all(step.prompt_sha256 == digest(step.prompt_id) for step in sample.steps)


def test_an_open_question_keeps_its_answer_as_text():
    [sample] = assemble(Split.SFT, [make_question(1, kind=QuestionKind.OPEN)], {"q0001": 4})
    assert (sample.answer, sample.problem, sample.options) == ("<answer>a boat</answer>", "What comes 1th?", ())


def test_letters_are_uniform_and_follow_from_the_seed():
    questions = [make_question(number) for number in range(2000)]
    correct = {q.question_id: 5 for q in questions}
    samples = assemble(Split.SFT, questions, correct)
    counts = Counter(sample.final_answer for sample in samples)
    assert set(counts) == set("ABCD")
    assert all(abs(count - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5 for count in counts.values())
    assert assemble(Split.SFT, questions, correct) == samples
    assert assemble(Split.SFT, questions, correct, seed=1) != samples


def test_only_questions_whose_difficulty_was_measured_become_samples():
    questions = [make_question(number) for number in (1, 2, 3)]
    rows = assemble(Split.SFT, questions, {"q0001": 5})
    assert [row.question_id for row in rows] == ["q0001"]


def test_a_question_that_the_target_never_answered_is_no_sample():
    question = make_question(1)
    reasoning = Reasoning(question_id="q0001", video_id="v", reasoning="So.", evidence=(), provenance=PROGRAM)
    context = Context(STAGE.name, "all", BuildConfig(source="a", out="b"), {}, {}, files=None, scratch=None)
    unanswered = make_trial(question, Check.DIFFICULTY, 0, n=0, passed=False)
    sources = [make_source("v", split_hint=Split.SFT)]
    assert list(STAGE.run(context, [make_video("v")], [question], [reasoning], [unanswered], [], sources)) == []


@pytest.mark.parametrize(
    ("split", "reasons"),
    [
        (Split.RL, ["too_hard"] * 2 + ["sample"] * 7 + ["too_easy"] * 2),
        (Split.SFT, ["needs_review"] + ["sample"] * 10),
        (Split.EVAL, ["needs_review"] + ["sample"] * 10),
    ],
)
def test_each_split_takes_its_pass_rates(split, reasons):
    questions = [make_question(number) for number in range(11)]
    rows = assemble(split, questions, {f"q{number:04d}": number for number in range(11)})
    assert outcome(rows) == {f"q{number:04d}": reason for number, reason in enumerate(reasons)}
    assert len(rows) == 11
    assert all(row.raw and "of 10 times" in row.message for row in rows if isinstance(row, Reject))


@pytest.mark.parametrize("split", Split)
def test_what_only_the_viewer_answers_is_kept_but_not_for_reinforcement_learning(split):
    [row] = assemble(split, [make_question(1)], {"q0001": 0}, solved={"q0001": True})
    assert (row.reason if isinstance(row, Reject) else row.pass_rate) == ("too_hard" if split is Split.RL else 0)
    [reject] = assemble(split, [make_question(1)], {"q0001": 0}, solved={"q0001": False})
    assert reject.reason == ("too_hard" if split is Split.RL else "needs_review")


def test_pass_rates_of_the_users_own_decide():
    pass_rates = {"sft_min": 0.3, "sft_max": 0.5, "eval_min": 0}
    questions = [make_question(number) for number in (1, 2, 3)]
    rows = assemble(Split.SFT, questions, {"q0001": 2, "q0002": 5, "q0003": 6}, **pass_rates)
    assert outcome(rows) == {"q0001": "too_hard", "q0002": "sample", "q0003": "too_easy"}
    [kept] = assemble(Split.EVAL, [make_question(1)], {"q0001": 0}, **pass_rates)
    assert kept.pass_rate == 0


def test_near_duplicates_share_a_split_and_hints_decide():
    bits = random.Random(0).getrandbits(512)
    videos = [make_video("a", bits), make_video("b", bits ^ 0b111), make_video("c")]
    hints = {"a": None, "b": Split.EVAL, "c": None}
    splits = assign_splits(groups_of(videos), hints, AssembleConfig(eval_fraction=0.0), seed=0)
    assert splits["a"] is splits["b"] is Split.EVAL
    assert splits["c"] is not Split.EVAL


def test_a_video_keeps_its_split_when_others_come():
    videos = [make_video(f"v{number}") for number in range(200)]
    before = assign_splits(groups_of(videos[:100]), without_hints(videos), AssembleConfig(), seed=0)
    after = assign_splits(groups_of(videos), without_hints(videos), AssembleConfig(), seed=0)
    assert before.items() <= after.items()


def test_shares_come_out_as_wished():
    videos = [make_video(f"v{number}") for number in range(3000)]
    config = AssembleConfig(eval_fraction=0.1)
    splits = assign_splits([[video] for video in videos], without_hints(videos), config, seed=3)
    counts = Counter(splits.values())
    assert abs(counts[Split.EVAL] - 300) < 4 * (3000 * 0.1 * 0.9) ** 0.5
    assert abs(counts[Split.SFT] - 900) < 4 * (3000 * 0.3 * 0.7) ** 0.5


@given(st.lists(HASHES, min_size=1, max_size=8, unique=True), st.integers(0, 512))
def test_groups_are_the_connected_components(hashes, max_bits):
    videos = [make_video(f"v{index}", bits=bits) for index, bits in enumerate(hashes)]
    groups = [{video.video_id for video in group} for group in near_duplicate_groups(videos, max_bits)]
    assert sorted(name for group in groups for name in group) == sorted(video.video_id for video in videos)
    group_of = {name: index for index, group in enumerate(groups) for name in group}
    near = {
        (f"v{i}", f"v{j}")
        for i, one in enumerate(hashes)
        for j, other in enumerate(hashes)
        if i != j and (one ^ other).bit_count() <= max_bits
    }
    assert all(group_of[one] == group_of[other] for one, other in near)
    for group in groups:  # every member of a group is linked to the rest of it
        reached, edge = set(), {min(group)}
        while edge:
            reached |= edge
            edge = {other for one, other in near if one in edge} - reached
        assert reached == group


def assemble_all(videos, questions, sources=None, **settings):
    """Rows for questions about several videos, all of the split that their source hints at."""
    config = BuildConfig(source="a", out="b", assemble=AssembleConfig(**settings))
    context = Context(STAGE.name, "all", config, {}, {}, files=None, scratch=None)
    reasonings = [make_reasoning(question) for question in questions]
    difficulties = [make_trial(question, Check.DIFFICULTY, 5) for question in questions]
    sources = sources or [make_source(video.video_id, split_hint=Split.SFT) for video in videos]
    return list(STAGE.run(context, videos, questions, reasonings, difficulties, [], sources))


def question_about(number, video, text, **fields):
    return make_question(number, video).model_copy(update={"question": text, **fields})


def outcome(rows):
    return {row.key if isinstance(row, Reject) else row.question_id: getattr(row, "reason", "sample") for row in rows}


PICK = "What does the woman pick up from the table after the bell in the hall rings?"


def test_a_question_about_another_video_with_the_same_words_and_answer_is_a_reject():
    videos = [make_video("a"), make_video("b")]
    rows = assemble_all(videos, [question_about(2, "b", PICK), question_about(1, "a", PICK.upper())])
    assert outcome(rows) == {"q0001": "sample", "q0002": "duplicate_across_videos"}
    [reject] = [row for row in rows if isinstance(row, Reject)]
    assert reject.message.startswith("question q0002 of video b: it has the answer of question q0001 of video a")
    assert reject.raw == PICK


def test_a_question_that_rl_cannot_use_takes_no_place_of_another():
    """The first of two equal questions has no gradient, so the second is kept."""
    questions = [question_about(1, "a", PICK), question_about(2, "b", PICK)]
    videos, sources = [make_video("a"), make_video("b")], [make_source("a", split_hint=Split.RL), make_source("b")]
    context = Context(STAGE.name, "all", BuildConfig(source="a", out="b"), {}, {}, files=None, scratch=None)
    difficulties = [make_trial(questions[0], Check.DIFFICULTY, 0), make_trial(questions[1], Check.DIFFICULTY, 5)]
    rows = STAGE.run(context, videos, questions, [*map(make_reasoning, questions)], difficulties, [], sources)
    assert outcome(rows) == {"q0001": "too_hard", "q0002": "sample"}


@pytest.mark.parametrize(
    ("line", "source"),
    [
        ("film", {}),
        ("https://youtu.be/fFjv93ACGo8", {"origin": "https://www.youtube.com/watch?v=fFjv93ACGo8"}),
        ("fFjv93ACGo8", {"uri": "/films/fFjv93ACGo8.mp4"}),
        ("a channel", {"origin": "a channel"}),
    ],
)
def test_a_listed_video_and_its_near_duplicates_are_only_for_eval(tmp_path, caplog, line, source):
    listed = tmp_path / "eval.csv"
    listed.write_text(f"video_id\nother\n{line}\n")
    bits = random.Random(0).getrandbits(512)
    videos = [make_video("copy", bits ^ 1), make_video("film", bits), make_video("z")]
    named = make_source("film", split_hint=Split.SFT).model_copy(update=source)
    sources = [make_source("copy", split_hint=Split.RL), named, make_source("z", split_hint=Split.SFT)]
    questions = [question_about(number, video.video_id, f"What {number}?") for number, video in enumerate(videos)]
    with caplog.at_level("INFO", "operators"):
        rows = assemble_all(videos, questions, sources, decontamination=(str(listed),))
    assert {row.video_id: row.split for row in rows} == {"copy": Split.EVAL, "film": Split.EVAL, "z": Split.SFT}
    [message] = caplog.messages
    assert message.startswith("video film is only for eval: ")
    assert message.endswith(f" is in evaluation list {listed}, line 3")


def test_a_listed_question_is_a_reject_that_names_list_and_line(tmp_path):
    listed = tmp_path / "eval.txt"
    listed.write_text(f"film\n\n{PICK}\n")
    rows = assemble_all(
        [make_video("a")],
        [question_about(1, "a", PICK), question_about(2, "a", "Why?")],
        decontamination=(str(listed),),
    )
    assert outcome(rows) == {"q0001": "contaminated", "q0002": "sample"}
    assert f"evaluation list {listed}, line 3" in next(row for row in rows if isinstance(row, Reject)).message


def test_the_longest_option_is_balanced_only_on_request():
    videos = [make_video(f"v{number}") for number in range(40)]
    questions = [
        question_about(number, video.video_id, f"What {number}?", options=("a boat" + "x" * number, "b", "c", "d"),
            answer="a boat" + "x" * number)
        for number, video in enumerate(videos)
    ]  # fmt: skip
    assert set(outcome(assemble_all(videos, questions)).values()) == {"sample"}
    rows = assemble_all(videos, questions, balance_length=True)
    dropped = [row for row in rows if isinstance(row, Reject)]
    assert {row.reason for row in dropped} == {"longest_option"}
    assert max(dropped, key=lambda row: row.key).message == (
        "question q0039 of video v39: the right option is longer than the others by a factor of 45.00, and the "
        "longest option would be right more often than by guessing"
    )


def test_the_key_of_the_stage_covers_the_content_of_the_lists(tmp_path):
    listed = tmp_path / "eval.txt"
    config = BuildConfig(source="a", out="b", assemble=AssembleConfig(decontamination=(str(listed),)))
    listed.write_text("a\n")
    before = canonical_json(STAGE.section(config))
    listed.write_text("b\n")
    assert canonical_json(STAGE.section(config)) != before
    assert STAGE.section(BuildConfig(source="a", out="b")) == AssembleConfig()
