import logging

import pytest

from tests.trainer_plugin.rl.test_vllm_engine import make_model
from trainer_plugin.rl.engines import Engine, log_crossover, open_engine


@pytest.mark.parametrize(("name", "is_logged"), [(Engine.SHARED_PREFIX, True), (Engine.SHARDED, False)])
def test_the_start_names_the_engine_that_is_faster_at_its_prompts(alone, caplog, name, is_logged):
    engine = open_engine(name, make_model(alone, "qwen2_5_vl"), lambda request, frames: None, (1,))
    with caplog.at_level(logging.INFO):
        log_crossover(engine, 65_000)
    assert ("prompts have up to 65000 tokens" in caplog.text) is is_logged
    assert ("faster than vllm from about 8192 tokens on" in caplog.text) is is_logged
