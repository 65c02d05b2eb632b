from trainer_plugin.data.byte_tokenizer import SPECIAL, bytes_tokenizer


def test_any_text_is_its_bytes_and_comes_back():
    tokenizer = bytes_tokenizer()
    text = "Wer? 誰? <|im_end|>\n"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len("Wer? 誰? \n".encode()) + 1
    assert tokenizer.decode(ids) == text
    assert max(ids) == tokenizer.convert_tokens_to_ids("<|im_end|>") == 258


def test_special_tokens_have_fixed_ids():
    tokenizer = bytes_tokenizer()
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(256, 263))
    assert (len(tokenizer), tokenizer.eos_token_id) == (263, 256)
