"""A tokenizer that needs no files: one token per byte, plus the special tokens for chats and videos.

It is for models with random weights, in the demo and in benchmarks. Ids are fixed: 0 to 255 for bytes, then those of
`SPECIAL`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from trainer_plugin.data.chat import CHATML

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def bytes_tokenizer(special: Sequence[str] = SPECIAL) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes and special tokens with the ChatML template.

    With the default special tokens it has 263 tokens, and `<|video_pad|>` is 262.

    Args:
        special: special tokens in the order of their ids; the first is the end-of-text token.
    """
    alphabet = {character: number for number, character in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=special[0],
        additional_special_tokens=list(special[1:]),
        chat_template=CHATML,
    )
