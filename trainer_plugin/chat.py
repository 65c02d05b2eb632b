"""Turns a question and its answer into token ids, through the tokenizer's own chat template.

The prompt is tokenised as it will be at inference, alone; the answer's tokens follow. So what is learned continues
exactly what the model will be given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from schemas.errors import BadInput
from trainer_plugin.examples import Unusable

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_NO_THOUGHT = "<think>\n\n</think>\n\n"

CHAT_TEMPLATES = {
    "chatml": CHATML,
    "chatml_no_think": CHATML.replace(
        "{{ message['content'] }}",
        f"{{% if message['role'] == 'assistant' %}}{_NO_THOUGHT}{{% endif %}}{{{{ message['content'] }}}}",
    ).replace("<|im_start|>assistant\n", f"<|im_start|>assistant\n{_NO_THOUGHT}"),
}
"""Templates by their names. `chatml` keeps texts as they are. `chatml_no_think` puts an empty thought before each
answer, as a part of the prompt, as Qwen3's template does with `enable_thinking=False`."""

_NAMED = f"{' or '.join(CHAT_TEMPLATES)}, or to a Jinja file"

_VIDEO = "\ue000"
"""Marks where the video stands in a rendered prompt: a private-use character, which texts do not hold."""


@dataclass(frozen=True)
class Turn:
    """One question about a video, and its answer, as token ids."""

    before_ids: list[int]
    """Of the prompt, up to the video."""
    after_ids: list[int]
    """From the video to where the assistant begins."""
    answer_ids: list[int]
    """The assistant's turn with the token that ends it."""

    @property
    def length(self) -> int:
        """Tokens, without the video's."""
        return len(self.before_ids) + len(self.after_ids) + len(self.answer_ids)


class Chat:
    """Renders and tokenises turns for one tokenizer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, video_token_id: int | None = None, *, thinks: bool = False
    ) -> None:
        """
        Args:
            video_token_id: what no text may spell, whether the tokenizer calls it special or not.
            thinks: answers follow a chain of thought. Templates are told so, as `enable_thinking`.

        Raises:
            BadInput: there is no template, it rewrites or drops texts or the chain of thought, it has the model close
                a thought at once, or it ends the assistant's turn without a special token.
        """
        if not tokenizer.chat_template:
            raise BadInput(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template; set model.chat_template to {_NAMED}"
            )
        self.tokenizer = tokenizer
        self.thinks = thinks
        added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special_ids = added | set(tokenizer.all_special_ids)
        self._reserved_ids = self._special_ids | ({video_token_id} if video_token_id is not None else set())
        # Some templates pass over a content that is not a list of parts.
        self._wants_parts = _VIDEO not in self._rendered([{"role": "user", "content": _VIDEO}], prompt=True)
        self._check_template()

    def turn(self, key: str, question: str, answer: str, reasoning: str | None = None) -> Turn:
        """The ids of a turn in which the user shows a video and asks about it.

        The prompt is what the template gives at inference, with `enable_thinking` as here; the answer is what the model
        is to generate after it. Of a thought, that is what the template makes of it: with its line breaks, and without
        the `<think>` that stands in the prompt already.

        Args:
            key: the sample's, for messages.
            reasoning: the chain of thought before the answer; given where `thinks`.

        Raises:
            Unusable: `special_token`: a text would be taken for a control token; `chat_template`: the template changes
                the texts, e.g. trims them, drops the chain of thought, or has the model close a thought at once.
        """
        for text in (question, reasoning or "", answer):
            if special := self._reserved_ids.intersection(self._ids(text)):
                name = self.tokenizer.convert_ids_to_tokens(min(special))
                raise Unusable(key, "special_token", f"its text holds the special token {name!r}")
        user = _VIDEO + question
        said = answer if reasoning is None else f"<think>{reasoning}</think>{answer}"
        messages = [self._message("user", user), self._message("assistant", said)]
        prompt = self._rendered(messages[:1], prompt=True)
        whole = self._rendered(messages, prompt=False).rstrip()
        learned = whole.removeprefix(prompt)
        if user not in prompt or learned == whole or answer not in learned:
            problem = "does not keep texts as they are"
        elif reasoning is not None and not _thought(reasoning, answer).match(whole, prompt.index(user) + len(user)):
            problem = "does not keep the chain of thought (target: reasoning)"
        elif reasoning is None and "</think>" in learned.replace(answer, ""):
            problem = "has the model close a thought at once, which it would learn (target: answer)"
        else:
            before, after = prompt.split(_VIDEO, 1)
            return Turn(self._ids(before), self._ids(after), self._ids(learned))
        raise Unusable(
            key,
            "chat_template",
            f"the chat template {problem}: the prompt becomes {prompt[-200:]!r}, the whole {whole[-200:]!r}; set "
            f"model.chat_template to {_NAMED}",
        )

    def example(self) -> Turn:
        """A turn of a few words, in which one template or tokenizer differs from another. Raises as `turn`."""
        return self.turn("of two words", "Who?", "A boat", "It floats." if self.thinks else None)

    def _check_template(self) -> None:
        try:
            turn = self.example()
        except Unusable as unusable:
            raise BadInput(unusable.message) from unusable
        if turn.answer_ids[-1] not in self._special_ids:
            raise BadInput(
                f"the chat template ends the assistant's turn with {self.tokenizer.decode(turn.answer_ids)[-20:]!r}, "
                f"which is no special token, so that the model would not learn to stop; set model.chat_template to "
                f"{_NAMED}"
            )

    def _message(self, role: str, text: str) -> dict[str, object]:
        return {"role": role, "content": [{"type": "text", "text": text}] if self._wants_parts else text}

    def _rendered(self, messages: list[dict[str, object]], *, prompt: bool) -> str:
        rendered = self.tokenizer.apply_chat_template(
            messages,  # type: ignore[arg-type]  # its annotation forgets contents in parts
            tokenize=False,
            add_generation_prompt=prompt,
            enable_thinking=self.thinks,
        )
        assert isinstance(rendered, str)
        return rendered

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _thought(reasoning: str, answer: str) -> re.Pattern[str]:
    """What must follow the question: one thought, whole, and the answer. Templates choose the white space between."""
    thought = rf"<think>\s*{re.escape(reasoning.strip())}\s*</think>\s*{re.escape(answer.lstrip())}"
    return re.compile(rf"(?:(?!</?think>).)*{thought}", re.DOTALL)
