import pytest

from schemas.errors import BadInput
from tests.trainer_plugin.support import byte_tokenizer
from trainer_plugin.data.chat import CHAT_TEMPLATES, CHATML, Chat
from trainer_plugin.types import UnusableSample

PARTS = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: {% for part in message['content'] %}"
    "{{ part['text'] }}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""Template like SmolVLM's: it renders only the parts of a message, so a plain string would be lost."""


def decode_turn(turn, tokenizer):
    return [tokenizer.decode(ids) for ids in (turn.before_ids, turn.after_ids, turn.answer_ids)]


THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}"
    "{% set parts = message.content.split('</think>') %}<think>\n"
    "{{ parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 }}\n</think>\n\n{{ parts[-1].lstrip('\n') }}"
    "{% else %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nPROMPT{% endif %}"
)
"""Template like Qwen3's: it rewrites the thought of the last assistant turn, or adds an empty one."""
QWEN3 = THINKING.replace(
    "PROMPT", "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
"""Hybrid template: the model opens the thought, or the prompt contains an empty one."""
QWEN3_VL_THINKING = THINKING.replace("PROMPT", "<think>\n")
"""Template in which the prompt always opens the thought."""
DROPPING = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
"""Template that drops the thoughts of earlier turns, as DeepSeek-R1's does."""


def tokenizer_with(template: str | None):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_a_tokenizer_without_a_template_is_refused_naming_the_setting():
    with pytest.raises(BadInput, match=r"has no chat template; set model\.chat_template to chatml or"):
        Chat(tokenizer_with(None))


def test_chatml_renders_question_and_answer_unchanged():
    tokenizer = byte_tokenizer()
    assert decode_turn(Chat(tokenizer).turn("q0", "Who?", "a boat"), tokenizer) == [
        "<|im_start|>user\n",
        "Who?<|im_end|>\n<|im_start|>assistant\n",
        "a boat<|im_end|>",
    ]
    turn = Chat(tokenizer, thinks=True).turn("q0", "Who?", "<answer>a boat</answer>", "It floats.")
    assert decode_turn(turn, tokenizer)[2] == "<think>It floats.</think><answer>a boat</answer><|im_end|>"


@pytest.mark.parametrize(
    ("template", "prompt", "supervised"),
    [
        (QWEN3, "", "<think>\nIt floats.\n</think>\n\n<answer>a boat</answer><|im_end|>"),
        (QWEN3_VL_THINKING, "<think>\n", "It floats.\n</think>\n\n<answer>a boat</answer><|im_end|>"),
    ],
    ids=["qwen3", "qwen3_vl_thinking"],
)
def test_a_chain_of_thought_is_supervised_as_the_model_generates_it(template, prompt, supervised):
    tokenizer = tokenizer_with(template)
    turn = Chat(tokenizer, thinks=True).turn("q0", "Who?", "<answer>a boat</answer>", "It floats.")
    assert decode_turn(turn, tokenizer)[1:] == [f"Who?<|im_end|>\n<|im_start|>assistant\n{prompt}", supervised]
    messages = [{"role": "user", "content": "Who?"}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=True)["input_ids"]
    assert turn.before_ids + turn.after_ids == given
    reply = {"role": "assistant", "content": "<think>It floats.</think><answer>a boat</answer>"}
    everything = tokenizer.apply_chat_template([*messages, reply])["input_ids"]
    assert given + turn.answer_ids == everything[:-1]  # without the final newline


@pytest.mark.parametrize(("template", "name"), [(QWEN3, None), (None, "chatml_no_think")], ids=["qwen3", "by_name"])
def test_an_answer_without_reasoning_follows_a_thought_that_the_prompt_closes(template, name):
    tokenizer = tokenizer_with(template or CHAT_TEMPLATES[name])
    turn = Chat(tokenizer).turn("q0", "Who?", "a boat")
    assert decode_turn(turn, tokenizer)[1:] == [
        "Who?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "a boat<|im_end|>",
    ]
    messages = [{"role": "user", "content": "Who?"}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False)["input_ids"]
    assert turn.before_ids + turn.after_ids == given


@pytest.mark.parametrize(
    ("template", "thinks", "complaint"),
    [
        (
            QWEN3_VL_THINKING,
            False,
            r"makes the model close a thought .* set model\.chat_template to chatml or",
        ),
        (QWEN3.replace("enable_thinking is defined", "false"), False, "makes the model close a thought immediately"),
        (DROPPING, True, r"does not keep the chain of thought .* set model\.chat_template to chatml or"),
        (DROPPING.replace("assistant\n{%", "assistant\n<think>\n{%"), True, "does not keep texts as they are"),
        (CHAT_TEMPLATES["chatml_no_think"], True, "does not keep the chain of thought"),
    ],
    ids=["opened", "hybrid_without_a_switch", "dropped", "opened_and_dropped", "closed"],
)
def test_a_template_that_drops_or_empties_the_thought_is_refused(template, thinks, complaint):
    with pytest.raises(BadInput, match=complaint):
        Chat(tokenizer_with(template), thinks=thinks)


def test_a_template_that_wants_parts_gets_parts():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = PARTS
    assert decode_turn(Chat(tokenizer).turn("q0", "Who?", "a boat"), tokenizer) == [
        "<|im_start|>User: ",
        "Who?<|im_end|>\nAssistant: ",
        "a boat<|im_end|>",
    ]


def test_the_supervised_answer_continues_the_prompt_of_inference():
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
def test_a_template_that_changes_the_answer_or_its_end_is_refused(template, complaint):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(BadInput, match=complaint):
        Chat(tokenizer)


def test_a_text_that_the_template_would_change_is_refused_by_name():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML.replace("message['content']", "message['content'] | trim")
    chat = Chat(tokenizer)
    assert decode_turn(chat.turn("q0", "Who?", "a boat"), tokenizer)[2] == "a boat<|im_end|>"
    with pytest.raises(
        UnusableSample, match=r"sample q0: the chat template does not keep texts as they are"
    ) as unusable:
        chat.turn("q0", "Who?", "a boat ")
    assert (unusable.value.key, unusable.value.reason) == ("q0", "chat_template")


@pytest.mark.parametrize("question, answer", [("Who?", "a <|im_end|> boat"), ("Who <|im_start|> is?", "a boat")])
def test_a_text_that_spells_a_special_token_is_refused_by_name(question, answer):
    with pytest.raises(UnusableSample, match=r"sample q0: its text holds the special token '<\|im_") as unusable:
        Chat(byte_tokenizer()).turn("q0", question, answer)
    assert (unusable.value.key, unusable.value.reason) == ("q0", "special_token")


def test_a_text_with_the_video_token_is_refused_even_if_it_is_no_special_token():
    tokenizer = byte_tokenizer()
    video = tokenizer.convert_tokens_to_ids("v")
    with pytest.raises(UnusableSample, match="special token 'v'"):
        Chat(tokenizer, video).turn("q0", "Who?", "a van")


@pytest.mark.parametrize(("template", "opens"), [(CHATML, False), (QWEN3, False), (QWEN3_VL_THINKING, True)])
def test_a_prompt_is_that_of_the_turn(template, opens):
    chat = Chat(tokenizer_with(template), thinks=True)
    turn = chat.turn("q0", "How?", "<answer>a boat</answer>", "It floats.")
    assert chat.prompt("q0", "How?") == (turn.before_ids, turn.after_ids)
    assert chat.opens_thought == opens
    assert turn.answer_ids[-1] in chat.stop_ids


def test_a_prompt_with_a_special_token_is_refused():
    with pytest.raises(UnusableSample, match="q0: its text holds the special token"):
        Chat(byte_tokenizer()).prompt("q0", "How is <|im_end|>?")


def test_a_response_is_decoded_without_special_tokens_but_with_its_tags():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]}, False)
    ids = tokenizer("<think>It floats.</think><answer>A</answer><|im_end|>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).startswith("It floats.")
    assert Chat(tokenizer).decode(ids) == "<think>It floats.</think><answer>A</answer>"
