import json

import pytest

from schemas.arrow import rows_from_parquet
from schemas.errors import BadInput
from tests.trainer_plugin.evaluation.scripted import (
    RIGHT,
    ScriptedEngine,
    open_questions,
    rank_context,
    reply,
    write_questions,
)
from trainer_plugin.data.samples import PromptVariant
from trainer_plugin.evaluation.answers import AnswerRow, Decoding
from trainer_plugin.evaluation.grading import OpenGrading
from trainer_plugin.evaluation.run import Interrupted, evaluate, read_evaluation
from trainer_plugin.evaluation.settings import EvaluationSettings
from trainer_plugin.rl.rollout import Finish


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    return write_questions(tmp_path_factory.mktemp("questions"))


def number_of(request) -> int:
    return int(request.prompt.key[1:])


def variant_of(request) -> PromptVariant:
    if not request.prompt.videos:
        return PromptVariant.TEXT
    times = request.prompt.videos[0].frame_times_us
    return PromptVariant.VIDEO if list(times) == sorted(times) else PromptVariant.SHUFFLED


def answer_by_rule(request, number: int) -> str:
    """With the video, all but q0000 and q0009 are right; without it the answer is always B.

    The second sampled response is B too. q0000 has no end.
    """
    question = number_of(request)
    if variant_of(request) is not PromptVariant.VIDEO or number == 1:
        return reply("B")
    if question == 0:
        return "<think>It shows"
    right = RIGHT[question] if RIGHT[question] != " " else "Red boat."
    return reply(right if question != 9 else "a ship")


BOTH = EvaluationSettings(samples=2, max_tokens=64)


def run(url: str, out, settings=BOTH, script=answer_by_rule, model=None, sp: int = 1):
    engine = ScriptedEngine(script)
    return evaluate(open_questions(url), engine, rank_context(sp), settings, out, model), engine


def shares(evaluation) -> dict[str, tuple[float, int]]:
    return {line.name: (line.groups["overall"].right, line.groups["overall"].questions) for line in evaluation.lines}


def test_accuracies_are_those_counted_by_hand(alone, url, tmp_path):
    evaluation, engine = run(url, tmp_path / "out")
    assert shares(evaluation) == {
        "greedy": (8.0, 10),
        "mean of 2 samples": (6.5, 10),  # 8 right first answers and 5 right second ones (B)
        "pass@2": (8.0, 10),
        "text only": (5.0, 10),
        "shuffled frames": (5.0, 10),
        "guessing (choice)": (pytest.approx(8 / 3), 8),
        "always B (choice)": (5.0, 8),
        "longest option (choice)": (5.0, 8),
    }
    greedy = evaluation.lines[0]
    assert {name: (group.right, group.questions) for name, group in greedy.groups.items()} == {
        "temporal": (2, 4), "goal": (2, 2), "plot": (2, 2), "spatial": (2, 2), "overall": (8, 10),
        "choice": (7, 8), "open": (1, 2), "under 2 min": (4, 5), "30 to 60 min": (4, 5),
    }  # fmt: skip
    assert (greedy.groups["overall"].low, greedy.groups["overall"].high) == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert (greedy.responses, greedy.truncated, greedy.without_answer, greedy.well_formed) == (10, 0.1, 0.1, 0.9)
    assert evaluation.accuracy == greedy.groups["overall"]
    assert engine.sampled == 10 + 20 + 10 + 10
    assert [sampling.greedy for _, _, sampling in engine.calls] == [True] * 3 + [False] * 3 + [True] * 6


def test_every_answer_is_kept_as_a_row(alone, url, tmp_path):
    run(url, tmp_path)
    file = tmp_path / "answers.parquet"
    rows = {row.key: row for row in rows_from_parquet(file.read_bytes(), AnswerRow, "answers")}
    assert len(rows) == 50
    row = rows["q0001", PromptVariant.VIDEO, Decoding.GREEDY, 0]
    assert (row.response, row.answer, row.letter) == (reply("B").removesuffix("<|im_end|>"), "B", "B")
    assert (row.correct, row.problem, row.finish) == (True, None, Finish.STOP)
    assert row.log_prob == -0.5 * row.tokens
    assert row.frame_times_us == (7_500_000, 22_500_000, 37_500_000, 52_500_000)
    shuffled = rows["q0001", PromptVariant.SHUFFLED, Decoding.GREEDY, 0].frame_times_us
    assert sorted(shuffled) == list(row.frame_times_us) != list(shuffled)
    cut = rows["q0000", PromptVariant.VIDEO, Decoding.SAMPLED, 0]
    assert (cut.answer, cut.letter, cut.correct, cut.finish) == (None, None, False, Finish.LENGTH)
    assert not list(tmp_path.glob("answers-*.parquet"))


def test_the_table_is_written_as_json_and_markdown(alone, url, tmp_path):
    evaluation, _ = run(url, tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == evaluation.model_dump(mode="json")
    table = (tmp_path / "evaluation.md").read_text()
    assert table == evaluation.markdown()
    head = next(line for line in table.splitlines() if "overall" in line)
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "", "temporal (4)", "goal (2)", "plot (2)", "spatial (2)", "overall (10)",
    ]  # fmt: skip
    first, *_ = table.split("\n\n")
    rows = {line.split("|")[1].strip(): line.split("|")[6].strip() for line in first.splitlines()}
    assert rows["greedy"] == "80.0 [49.0, 94.3]"
    assert rows["longest option (choice)"] == "62.5 [30.6, 86.3] (8)"  # of 8 choice questions out of 10
    assert "Of several longest options, each counts as chosen with equal probability." in table


def test_the_line_and_the_scalars_are_those_of_the_model(alone, url, tmp_path):
    evaluation, _ = run(url, tmp_path)
    assert evaluation.line().startswith("greedy  overall 80.0 [49.0, 94.3]  temporal 50.0 [15.0, 85.0]  goal 100.0 [")
    assert evaluation.scalars() == {
        "accuracy": 0.8, "temporal": 0.5, "goal": 1.0, "plot": 1.0, "spatial": 1.0, "text_only": 0.5,
        "shuffled_frames": 0.5, "without_answer": 0.1, "truncated": 0.1, "well_formed": 0.9,
        "tokens": evaluation.lines[0].mean_tokens,
    }  # fmt: skip


def test_an_interrupted_evaluation_keeps_its_answers(alone, url, tmp_path):
    settings = BOTH.model_copy(update={"requests": 2})
    rounds = iter([False, False, True])
    engine = ScriptedEngine(answer_by_rule)
    with pytest.raises(Interrupted, match=f"4 answers are kept in {tmp_path}"):
        evaluate(open_questions(url), engine, rank_context(), settings, tmp_path, None, lambda: next(rounds))
    assert read_evaluation(tmp_path) is None
    evaluation, engine = run(url, tmp_path, settings)
    assert engine.calls[0][0] == ["q0004", "q0005"]
    assert read_evaluation(tmp_path) == evaluation


def test_a_second_run_samples_only_what_is_missing(alone, url, tmp_path):
    def stop_at_seven(request, number):
        if number_of(request) == 7:
            raise OSError("the disk is gone")
        return answer_by_rule(request, number)

    settings = BOTH.model_copy(update={"requests": 2})
    with pytest.raises(OSError, match="the disk is gone"):
        run(url, tmp_path, settings, stop_at_seven)
    assert len(list(tmp_path.glob("answers-*.parquet"))) == 3  # q0000 to q0005
    evaluation, engine = run(url, tmp_path, settings)
    assert engine.calls[0][0] == ["q0006", "q0007"]
    assert engine.sampled == 4 + 20 + 20
    again, idle = run(url, tmp_path, settings)
    assert (idle.calls, again) == ([], evaluation)
    more, engine = run(url, tmp_path, settings.model_copy(update={"samples": 3}))
    assert engine.sampled == 30
    assert "pass@3" in shares(more)
    fewer, engine = run(url, tmp_path, settings)
    assert (engine.calls, fewer) == ([], evaluation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tokens": 32}, "max_tokens is 64, not 32"),
        ({"open_grading": OpenGrading.EXACT}, "open_grading is 'lenient'"),
    ],
)
def test_answers_of_another_evaluation_are_refused(alone, url, tmp_path, change, message):
    run(url, tmp_path)
    with pytest.raises(BadInput, match=f"holds the answers of another evaluation: .*{message}.*set out to another"):
        run(url, tmp_path, BOTH.model_copy(update=change))
    with pytest.raises(BadInput, match="frozen_bits is None, not 7"):
        run(url, tmp_path, model={"frozen_bits": 7})


def fail_on_three(request, number: int) -> str:
    if number_of(request) == 3:
        raise BadInput("sample q0003: its video is damaged")
    return answer_by_rule(request, number)


def test_a_question_that_cannot_be_answered_is_skipped_by_name(alone, url, tmp_path):
    evaluation, _ = run(url, tmp_path, script=fail_on_three)
    assert evaluation.skipped == {"q0003": "sample q0003: its video is damaged"}
    assert (evaluation.questions, shares(evaluation)["greedy"]) == (10, (7.0, 9))
    assert shares(evaluation)["text only"] == (5.0, 9)
    assert "1 questions were skipped, e.g. q0003: sample q0003: its video is damaged" in evaluation.markdown()
    assert not run(url, tmp_path)[0].skipped  # a later run tries again


def test_an_evaluation_without_any_answer_is_an_error(alone, url, tmp_path):
    def fail(request, number):
        raise BadInput(f"sample {request.prompt.key}: its video is damaged")

    with pytest.raises(BadInput, match="not one of 10 questions can be answered; the first of them: sample q0000: its"):
        run(url, tmp_path, script=fail)
    with pytest.raises(BadInput, match=r"not one of 10 questions can be answered; .* does not fit into 50 tokens"):
        run(url, tmp_path / "short", BOTH.model_copy(update={"prompt_tokens": 50}))


def test_fewer_questions_are_always_the_same(alone, url, tmp_path):
    settings = EvaluationSettings(questions=4, baselines=())
    (first, engine), (second, again) = (run(url, tmp_path / name, settings) for name in "ab")
    assert (first, engine.calls) == (second, again.calls)
    assert first.questions == engine.sampled == 4


JUDGE = """
def judge(completions, answer_text, kind, **columns):
    kinds = zip(completions, kind, strict=True)
    return [float("Red" in text) if of == "open" else None for text, of in kinds]

def broken(completions, **columns):
    return [1.0 if "Red" in text else ValueError("no verdict") for text in completions]
"""


def test_a_judge_grades_open_questions(alone, url, tmp_path):
    (tmp_path / "mine.py").write_text(JUDGE)
    settings = EvaluationSettings(baselines=(), open_grading="judge", judge=f"{tmp_path}/mine.py:judge")
    evaluation, _ = run(url, tmp_path / "out", settings)
    open_questions = evaluation.lines[0].groups["open"]
    assert (open_questions.right, open_questions.questions, evaluation.not_judged) == (1.0, 2, 0)


def test_answers_without_a_verdict_are_counted_apart(alone, url, tmp_path):
    (tmp_path / "mine.py").write_text(JUDGE)
    settings = EvaluationSettings(baselines=(), open_grading="judge", judge=f"{tmp_path}/mine.py:broken")
    evaluation, _ = run(url, tmp_path / "out", settings)
    assert (evaluation.lines[0].groups["open"].questions, evaluation.not_judged) == (1, 1)
    assert "1 answers to open questions are not judged" in evaluation.markdown()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"greedy": False}, "nothing is sampled; set greedy to true, or samples to at least 1"),
        ({"baselines": ["video"]}, "baselines may be text and shuffled"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluationSettings(**settings)


def run_on_rank(url: str, out, sp: int):
    evaluation, engine = run(url, out, script=fail_on_three, sp=sp)
    return evaluation, engine.sampled


@pytest.mark.parametrize("sp", [1, 2])
def test_ranks_share_the_questions_and_get_the_table_of_one(alone, ranks, url, tmp_path, sp):
    expected, _ = run(url, tmp_path / "one", script=fail_on_three)
    results = ranks[2].run(run_on_rank, url, tmp_path / "two", sp)
    assert [evaluation for evaluation, _ in results] == [expected] * 2
    assert (tmp_path / "one/answers.parquet").read_bytes() == (tmp_path / "two/answers.parquet").read_bytes()
    counts = [count for _, count in results]
    assert counts[0] == counts[1] if sp == 2 else sum(counts) >= 45
