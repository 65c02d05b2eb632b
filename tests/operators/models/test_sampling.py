from __future__ import annotations

import logging

import pytest

from operators.models.sampling import sampling_for
from schemas.config import ModelConfig, Role
from schemas.provenance import Sampling

GREEDY = Sampling(max_tokens=100)


def test_without_settings_the_prompts_parameters_are_sent():
    assert sampling_for(GREEDY, ModelConfig(), Role.JUDGE) == GREEDY


def test_settings_replace_what_the_prompt_sets():
    config = ModelConfig(sampling={"temperature": 0.2, "presence_penalty": 1.5, "chat_template_kwargs": {"a": 1}})
    found = sampling_for(Sampling(temperature=0.9, top_p=0.8), config, Role.JUDGE)
    assert found == Sampling(temperature=0.2, top_p=0.8, presence_penalty=1.5, chat_template_kwargs={"a": 1})


@pytest.mark.parametrize(("settings", "room"), [({"thinking": True}, 8292), ({"thinking_tokens": 500}, 600), ({}, 100)])
def test_an_answer_has_room_for_thinking_on_top(settings, room):
    assert sampling_for(GREEDY, ModelConfig(**settings), Role.JUDGE).max_tokens == room
    assert sampling_for(GREEDY, ModelConfig(**settings), Role.JUDGE, max_tokens=80).max_tokens == 80


def test_a_thinking_model_never_decodes_greedily(caplog):
    config = ModelConfig(model="thinker", thinking=True)
    with caplog.at_level(logging.WARNING):
        for prompt in (GREEDY, Sampling(max_tokens=7)):
            found = sampling_for(prompt, config, Role.JUDGE)
            assert (found.temperature, found.top_p, found.top_k) == (0.6, 0.95, 20)
    assert len([record for record in caplog.records if "thinker thinks" in record.message]) == 1
    warm = sampling_for(Sampling(temperature=0.9), config, Role.JUDGE)
    assert (warm.temperature, warm.top_p, warm.top_k) == (0.9, 1.0, None)


def test_what_the_settings_name_is_kept_for_a_thinking_model():
    config = ModelConfig(model="other", thinking=True, sampling={"temperature": 0.0, "top_k": 5, "top_p": 0.9})
    found = sampling_for(GREEDY, config, Role.JUDGE)
    assert (found.temperature, found.top_p, found.top_k) == (0.6, 0.9, 5)
