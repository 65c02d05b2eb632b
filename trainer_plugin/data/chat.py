"""Converts a question and its answer into token ids with the tokenizer's own chat template.

The prompt is tokenised by itself, as at inference, and the answer's tokens are appended. The supervised tokens
therefore continue exactly the prompt that the model is given at inference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from schemas.answer_format import format_response
from schemas.errors import BadInput
from trainer_plugin.types import UnusableSample

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
"""Chat templates by name.

`chatml` keeps questions and answers unchanged. `chatml_no_think` puts an empty thought before each answer, as a part of
the prompt, as Qwen3's template does with `enable_thinking=False`.
"""

_CHOICES = f"{' or '.join(CHAT_TEMPLATES)}, or to a Jinja file"

_CHANGES_TEXT = "does not keep texts as they are"

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")

_VIDEO = "\ue000"
"""Placeholder of the video in a rendered prompt: a private-use character, which does not occur in questions."""


@dataclass(frozen=True)
class Turn:
    """Token ids of one question about a video, and of its answer."""

    before_ids: list[int]
    """Prompt tokens before the video."""
    after_ids: list[int]
    """Prompt tokens after the video, up to the beginning of the assistant's answer."""
    answer_ids: list[int]
    """The assistant's answer, including the token that ends its turn."""

    @property
    def length(self) -> int:
        """Number of tokens, without those of the video."""
        return len(self.before_ids) + len(self.after_ids) + len(self.answer_ids)


class Chat:
    """Renders and tokenises turns for one tokenizer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, video_token_id: int | None = None, *, thinks: bool = False
    ) -> None:
        """
        Args:
            video_token_id: a token id that no text may produce, whether or not the tokenizer marks it as special.
            thinks: whether answers follow a chain of thought. It is passed to the template as `enable_thinking`.

        Raises:
            BadInput: there is no chat template; the template changes or drops the question, the answer or the chain of
                thought; it makes the model close a thought immediately; or it ends the assistant's turn without a
                special token.
        """
        if not tokenizer.chat_template:
            raise BadInput(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template; set model.chat_template to {_CHOICES}"
            )
        self.tokenizer = tokenizer
        self.thinks = thinks
        added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special_ids = added | set(tokenizer.all_special_ids)
        self._tag_ids = {id for id, token in tokenizer.added_tokens_decoder.items() if token.content in _TAGS}
        self._reserved_ids = self._special_ids | ({video_token_id} if video_token_id is not None else set())
        # Some templates ignore a message content that is not a list of parts.
        self._wants_parts = _VIDEO not in self._render([{"role": "user", "content": _VIDEO}], prompt=True)
        self._check_template()
        self.opens_thought = self._render([self._message("user", "?")], prompt=True).rstrip().endswith("<think>")
        """Whether the prompt ends with `<think>`, so that a response begins inside the thought."""

    def prompt(self, key: str, question: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt before and after its video, as `turn` has them, without an answer.

        Args:
            key: the sample's key, for error messages.

        Raises:
            Unusable: `special_token` or `chat_template`, as `turn`.
        """
        self._check_special_tokens(key, question)
        prompt = self._render([self._message("user", _VIDEO + question)], prompt=True)
        if _VIDEO + question not in prompt:
            raise _changed_text(key, _CHANGES_TEXT, prompt, prompt)
        before, after = prompt.split(_VIDEO, 1)
        return self._ids(before), self._ids(after)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response without special tokens. Tags are kept, also where they are special tokens."""
        kept = [id for id in ids if id not in self._special_ids or id in self._tag_ids]
        text = self.tokenizer.decode(kept, skip_special_tokens=False)
        assert isinstance(text, str)
        return text

    def turn(self, key: str, question: str, answer: str, reasoning: str | None = None) -> Turn:
        """Token ids of a turn in which the user shows a video with a question about it.

        The prompt is what the template renders at inference, with the same `enable_thinking`. The answer is what the
        model is to generate after it. The chain of thought is taken as the template renders it: with its line breaks,
        and without the `<think>` that the prompt already contains.

        Args:
            key: the sample's key, for error messages.
            reasoning: the chain of thought before the answer; given if `thinks`.

        Raises:
            UnusableSample: `special_token` if a text would be tokenised as a control token; `chat_template` if the
                template changes the question or the answer (e.g. trims it), drops the chain of thought, or makes the
                model close a thought immediately.
        """
        self._check_special_tokens(key, question, reasoning or "", answer)
        user = _VIDEO + question
        content = answer if reasoning is None else format_response(reasoning, answer)
        messages = [self._message("user", user), self._message("assistant", content)]
        prompt = self._render(messages[:1], prompt=True)
        rendered = self._render(messages, prompt=False).rstrip()
        supervised = rendered.removeprefix(prompt)
        if user not in prompt or supervised == rendered or answer not in supervised:
            problem = _CHANGES_TEXT
        elif reasoning is not None and not _thought_pattern(reasoning, answer).match(
            rendered, prompt.index(user) + len(user)
        ):
            problem = "does not keep the chain of thought (target: reasoning)"
        elif reasoning is None and "</think>" in supervised.replace(answer, ""):
            problem = "makes the model close a thought immediately (target: answer)"
        else:
            before, after = prompt.split(_VIDEO, 1)
            return Turn(self._ids(before), self._ids(after), self._ids(supervised))
        raise _changed_text(key, problem, prompt, rendered)

    def example(self) -> Turn:
        """Token ids of a short fixed turn, which differ between chat templates and between tokenizers.

        Raises:
            UnusableSample: as `turn`.
        """
        return self.turn("of two words", "Who?", "A boat", "It floats." if self.thinks else None)

    def _check_special_tokens(self, key: str, *parts: str) -> None:
        for text in parts:
            if special := self._reserved_ids.intersection(self._ids(text)):
                name = self.tokenizer.convert_ids_to_tokens(min(special))
                raise UnusableSample(key, "special_token", f"its text holds the special token {name!r}")

    def _check_template(self) -> None:
        try:
            turn = self.example()
        except UnusableSample as unusable:
            raise BadInput(unusable.message) from unusable
        eos = self.tokenizer.eos_token_id
        self.stop_ids = frozenset({turn.answer_ids[-1]} | ({eos} if isinstance(eos, int) else set()))
        """Ids of the tokens that end a response: the one that ends the assistant's turn, and that of the text's end."""
        if turn.answer_ids[-1] not in self._special_ids:
            raise BadInput(
                f"the chat template ends the assistant's turn with {self.tokenizer.decode(turn.answer_ids)[-20:]!r}, "
                f"which is no special token, so that the model would not learn to stop; set model.chat_template to "
                f"{_CHOICES}"
            )

    def _message(self, role: str, text: str) -> dict[str, object]:
        return {"role": role, "content": [{"type": "text", "text": text}] if self._wants_parts else text}

    def _render(self, messages: list[dict[str, object]], *, prompt: bool) -> str:
        rendered = self.tokenizer.apply_chat_template(
            messages,  # type: ignore[arg-type]  # its annotation lacks contents in parts
            tokenize=False,
            add_generation_prompt=prompt,
            enable_thinking=self.thinks,
        )
        assert isinstance(rendered, str)
        return rendered

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _changed_text(key: str, problem: str, prompt: str, rendered: str) -> UnusableSample:
    message = (
        f"the chat template {problem}: the prompt becomes {prompt[-200:]!r}, the whole {rendered[-200:]!r}; set "
        f"model.chat_template to {_CHOICES}"
    )
    return UnusableSample(key, "chat_template", message)


def _thought_pattern(reasoning: str, answer: str) -> re.Pattern[str]:
    """Pattern of what must follow the question: one complete thought, then the answer.

    Templates choose the white space in between.
    """
    thought = rf"<think>\s*{re.escape(reasoning.strip())}\s*</think>\s*{re.escape(answer.lstrip())}"
    return re.compile(rf"(?:(?!</?think>).)*{thought}", re.DOTALL)
