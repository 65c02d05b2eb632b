"""Turns a question and its answer into token ids, through the tokenizer's own chat template.

The prompt is tokenised as it will be at inference, alone; the answer's tokens follow. So what is learned continues
exactly what the model will be given.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from schemas.errors import BadInput
from trainer_plugin.examples import Unusable

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

    def __init__(self, tokenizer: PreTrainedTokenizerBase, video_token_id: int | None = None) -> None:
        """
        Args:
            video_token_id: what no text may spell, whether the tokenizer calls it special or not.

        Raises:
            BadInput: the template rewrites or drops texts, or ends the assistant's turn without a special token.
        """
        self.tokenizer = tokenizer
        self._template = None if tokenizer.chat_template else CHATML
        added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special_ids = added | set(tokenizer.all_special_ids)
        self._reserved_ids = self._special_ids | ({video_token_id} if video_token_id is not None else set())
        # Some templates pass over a content that is not a list of parts.
        self._wants_parts = _VIDEO not in self._rendered([{"role": "user", "content": _VIDEO}], prompt=True)
        self._check_template()

    def turn(self, key: str, question: str, answer: str) -> Turn:
        """The ids of a turn in which the user shows a video and asks about it.

        Args:
            key: the sample's, for messages.

        Raises:
            Unusable: `special_token`: a text would be taken for a control token; `chat_template`: the template changes
                the texts, e.g. trims them.
        """
        for text in (question, answer):
            if special := self._reserved_ids.intersection(self._ids(text)):
                name = self.tokenizer.convert_ids_to_tokens(min(special))
                raise Unusable(key, "special_token", f"its text holds the special token {name!r}")
        user = _VIDEO + question
        messages = [self._message("user", user), self._message("assistant", answer)]
        prompt = self._rendered(messages[:1], prompt=True)
        whole = self._rendered(messages, prompt=False).rstrip()
        if user not in prompt or not whole.startswith(prompt) or answer not in whole[len(prompt) :]:
            raise Unusable(
                key,
                "chat_template",
                f"the chat template does not keep texts as they are: the prompt becomes {prompt[-200:]!r}, the whole "
                f"{whole[-200:]!r}; give the tokenizer another chat_template",
            )
        before, after = prompt.split(_VIDEO, 1)
        return Turn(self._ids(before), self._ids(after), self._ids(whole[len(prompt) :]))

    def _check_template(self) -> None:
        try:
            turn = self.turn("of two words", "Who?", "A boat")
        except Unusable as unusable:
            raise BadInput(unusable.message) from unusable
        if turn.answer_ids[-1] not in self._special_ids:
            raise BadInput(
                f"the chat template ends the assistant's turn with {self.tokenizer.decode(turn.answer_ids)[-20:]!r}, "
                f"which is no special token, so that the model would not learn to stop; give the tokenizer another "
                f"chat_template"
            )

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
