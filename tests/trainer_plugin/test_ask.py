import pytest

from schemas.answer_format import Target
from schemas.errors import BAD_INPUT_STATUS, BadInput
from schemas.frame_policy import FramePolicy
from tests.support.videos import counting_video
from tests.trainer_plugin.evaluation.scripted import ScriptedEngine, reply
from tests.trainer_plugin.runs import model_folder
from tests.trainer_plugin.support import TinyFamily, byte_tokenizer
from trainer_plugin.ask import ask, main
from trainer_plugin.data.samples import QuestionLayout
from trainer_plugin.rl.rollout import Finish, SamplingSettings

CUPS = ("left", "middle", "right")


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> str:
    return str(counting_video(tmp_path_factory.mktemp("film") / "cups.mp4", seconds=2))


@pytest.fixture
def layout() -> QuestionLayout:
    return QuestionLayout(TinyFamily(), byte_tokenizer(), FramePolicy(fps=None, frames=3), Target.REASONING)


def answering(text: str) -> ScriptedEngine:
    return ScriptedEngine(lambda request, number: text)


def test_an_answer_has_the_thought_the_option_and_the_frame_times(alone, film, layout):
    answer = ask(answering(reply("(b)")), layout, film, "Which cup?", CUPS)
    assert (answer.reasoning, answer.text, answer.option) == ("It shows.", "(b)", "B. middle")
    assert answer.frame_times_us == (333_333, 1_000_000, 1_666_666, 1_666_666)
    assert answer.describe() == "It shows.\n\nAnswer: B. middle\n\nFrames seen at: 0:00.3 0:01.0 0:01.7\n"


def test_the_prompt_is_that_of_a_sample(alone, film, layout):
    prompts = []
    engine = ScriptedEngine(lambda request, number: prompts.append(request.prompt) or reply("A"))
    ask(engine, layout, film, "Which cup?", CUPS, sampling=SamplingSettings(max_tokens=9))
    text = byte_tokenizer().decode(prompts[0].input_ids)
    assert "Which cup?\nA. left\nB. middle\nC. right\n\nThink about the video step by step" in text
    assert engine.calls == [(["cups"], 1, SamplingSettings(max_tokens=9))]


def test_an_open_question_has_a_text_as_its_answer(alone, film, layout):
    answer = ask(answering(reply("the left one")), layout, film, "Which cup?")
    assert (answer.text, answer.option) == ("the left one", None)
    assert "Answer: the left one" in answer.describe()


def test_a_response_without_an_end_is_described_as_such(alone, film, layout):
    answer = ask(answering("<think>Let me see"), layout, film, "Which cup?", CUPS)
    assert (answer.reasoning, answer.text, answer.finish) == ("Let me see", None, Finish.LENGTH)
    assert "Answer: (none)\n\nThe response reached its maximum length; raise --max-tokens" in answer.describe()


@pytest.mark.parametrize("options", [["left"], list("abcdefghijk")])
def test_too_few_or_too_many_options_are_refused(alone, film, layout, options):
    with pytest.raises(BadInput, match=f"has 2 to 10 options, not {len(options)}"):
        ask(answering(reply("A")), layout, film, "Which cup?", options)


def test_a_video_that_cannot_be_used_is_refused_by_name(alone, film, layout, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(BadInput, match=r"video text: .*text\.mp4: "):
        ask(answering(reply("A")), layout, str(tmp_path / "text.mp4"), "Which cup?")
    with pytest.raises(BadInput, match=r"video gone: .*gone\.mp4: no such file"):
        ask(answering(reply("A")), layout, str(tmp_path / "gone.mp4"), "Which cup?")
    with pytest.raises(BadInput, match=r"cups\.mp4: it does not fit into 60 tokens"):
        ask(answering(reply("A")), layout, film, "Which cup?", prompt_tokens=60)


def test_the_command_prints_an_answer(film, tmp_path, capsys):
    folder = str(model_folder(tmp_path / "model"))
    arguments = ["--frames", "4", "--max-tokens", "6"]
    assert main([folder, film, "Which cup?", *arguments, "--options", *CUPS]) == 0
    printed, logged = capsys.readouterr()
    assert "Answer: " in printed
    assert "Loading weights" not in logged
    assert printed.endswith("Frames seen at: 0:00.2 0:00.8 0:01.2 0:01.8\n")
    assert main([folder, film, "Which cup?", *arguments, "--temperature", "0.7", "--no-thinking"]) == 0


@pytest.mark.parametrize("wrong", [["--frames", "0"], ["--fps", "-1"], ["--max-tokens", "0"], ["--temperature", "0"]])
def test_wrong_arguments_end_with_status_2(film, tmp_path_factory, tmp_path, wrong):
    assert main([str(model_folder(tmp_path / "model")), film, "Which cup?", *wrong]) == BAD_INPUT_STATUS
