import pytest

from schemas.errors import BadInput
from tests.trainer_plugin.support import byte_tokenizer
from trainer_plugin.chat import CHATML, Chat
from trainer_plugin.examples import Unusable

PARTS = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: {% for part in message['content'] %}"
    "{{ part['text'] }}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""The way of SmolVLM's template: a plain string has no parts and would vanish."""


def texts(turn, tokenizer):
    return [tokenizer.decode(ids) for ids in (turn.before_ids, turn.after_ids, turn.answer_ids)]


def test_without_a_template_of_its_own_a_tokenizer_speaks_chatml():
    tokenizer = byte_tokenizer()
    assert texts(Chat(tokenizer).turn("q0", "Who?", "a boat"), tokenizer) == [
        "<|im_start|>user\n",
        "Who?<|im_end|>\n<|im_start|>assistant\n",
        "a boat<|im_end|>",
    ]


def test_a_template_that_wants_parts_gets_parts():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = PARTS
    assert texts(Chat(tokenizer).turn("q0", "Who?", "a boat"), tokenizer) == [
        "<|im_start|>User: ",
        "Who?<|im_end|>\nAssistant: ",
        "a boat<|im_end|>",
    ]


def test_what_is_learned_continues_what_the_model_will_be_given():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "You see.\n" + CHATML
    turn = Chat(tokenizer).turn("q0", "Who?", "a boat")
    given = tokenizer.apply_chat_template([{"role": "user", "content": "Who?"}], add_generation_prompt=True)
    assert turn.before_ids + turn.after_ids == given["input_ids"]


@pytest.mark.parametrize(
    "template, complaint",
    [
        (CHATML.replace("message['content']", "message['content'] | upper"), "does not keep texts as they are"),
        (CHATML.replace("<|im_end|>", ""), "is no special token, so that the model would not learn to stop"),
    ],
)
def test_a_template_that_would_teach_something_else_is_refused(template, complaint):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(BadInput, match=complaint):
        Chat(tokenizer)


def test_a_text_that_the_template_would_change_is_refused_by_name():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML.replace("message['content']", "message['content'] | trim")
    chat = Chat(tokenizer)
    assert texts(chat.turn("q0", "Who?", "a boat"), tokenizer)[2] == "a boat<|im_end|>"
    with pytest.raises(Unusable, match=r"sample q0: the chat template does not keep texts as they are") as unusable:
        chat.turn("q0", "Who?", "a boat ")
    assert (unusable.value.key, unusable.value.reason) == ("q0", "chat_template")


@pytest.mark.parametrize("question, answer", [("Who?", "a <|im_end|> boat"), ("Who <|im_start|> is?", "a boat")])
def test_a_text_that_spells_a_special_token_is_refused_by_name(question, answer):
    with pytest.raises(Unusable, match=r"sample q0: its text holds the special token '<\|im_") as unusable:
        Chat(byte_tokenizer()).turn("q0", question, answer)
    assert (unusable.value.key, unusable.value.reason) == ("q0", "special_token")


def test_no_text_spells_the_video_token_though_it_be_an_ordinary_one():
    tokenizer = byte_tokenizer()
    video = tokenizer.convert_tokens_to_ids("v")
    with pytest.raises(Unusable, match="special token 'v'"):
        Chat(tokenizer, video).turn("q0", "Who?", "a van")
