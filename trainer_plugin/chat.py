"""Turns a question and its answer into token ids, through the tokenizer's own chat template.

The prompt is tokenised as it will be at inference, alone; the answer's tokens follow. So what is learned continues
exactly what the model will be given.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from schemas.errors import BadInput

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For tokenizers without a chat template."""


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

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._template = None if tokenizer.chat_template else CHATML
        # Some templates pass over a content that is not a list of parts.
        self._wants_parts = _VIDEO not in self._rendered([{"role": "user", "content": _VIDEO}], prompt=True)

    def turn(self, question: str, answer: str) -> Turn:
        """The ids of a turn in which the user shows a video and asks about it.

        Raises:
            BadInput: the template rewrites or drops the texts, or ends the assistant's turn without a special token.
        """
        user = _VIDEO + question
        messages = [self._message("user", user), self._message("assistant", answer)]
        prompt = self._rendered(messages[:1], prompt=True)
        whole = self._rendered(messages, prompt=False).rstrip()
        if user not in prompt or not whole.startswith(prompt) or answer not in whole[len(prompt) :]:
            raise BadInput(
                f"the chat template does not keep texts as they are: the prompt becomes {prompt[-200:]!r}, the whole "
                f"{whole[-200:]!r}; give the tokenizer another chat_template"
            )
        before, after = prompt.split(_VIDEO, 1)
        turn = Turn(self._ids(before), self._ids(after), self._ids(whole[len(prompt) :]))
        if turn.answer_ids[-1] not in self.tokenizer.all_special_ids:
            raise BadInput(
                f"the chat template ends the assistant's turn with {whole[-20:]!r}, which is no special token, so that "
                f"the model would not learn to stop; give the tokenizer another chat_template"
            )
        return turn

    def _message(self, role: str, text: str) -> dict[str, object]:
        return {"role": role, "content": [{"type": "text", "text": text}] if self._wants_parts else text}

    def _rendered(self, messages: list[dict[str, object]], *, prompt: bool) -> str:
        rendered = self.tokenizer.apply_chat_template(
            messages,  # type: ignore[arg-type]  # its annotation forgets contents in parts
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=prompt,
        )
        assert isinstance(rendered, str)
        return rendered

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
