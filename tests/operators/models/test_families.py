"""Families of models, and whether those that check are independent of those that write."""

import pytest

from operators.models.families import find_dependent_models, model_family
from schemas.config import ModelConfig, ModelsConfig, QuestionConfig, Role, Writer


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("qwen", ["Qwen/Qwen3-30B-A3B", "qwen2.5-vl-72b", "QwQ-32B", "/models/Qwen3-VL-8B/", "r1-distill-qwen-7b"]),
        ("llama", ["meta-llama/Meta-Llama-3.1-8B", "llama3", "llama-4-scout"]),
        ("mistral", ["Mixtral-8x7B", "mistralai/Pixtral-12B", "magistral-small"]),
        ("gpt", ["openai/gpt-oss-120b", "gpt-4o", "o3-mini"]),
        ("gemini", ["google/gemma-3-27b-it", "gemini-2.5-pro"]),
        ("intern", ["OpenGVLab/InternVL3-8B", "internlm3"]),
        ("judge", ["judge-30b", "acme/Judge_2"]),
        ("7b", ["7b"]),
    ],
)  # fmt: skip
def test_models_of_one_family_are_known_by_their_names(family, names):
    assert {model_family(name) for name in names} == {family}


def findings(served=None, writers=(Writer.MODEL,), **models):
    config = ModelsConfig(**{role: ModelConfig(model=model) for role, model in models.items()})
    found = find_dependent_models(config, QuestionConfig(writers=writers), served)
    return {finding.code: (finding.severity.value, finding.message) for finding in found}


def test_writer_and_judge_of_one_family_are_a_warning():
    severity, message = findings(reasoner="Qwen/Qwen3-30B", judge="qwen2.5-72b")["same_family"]
    assert severity == "warning"
    assert message.startswith("Qwen/Qwen3-30B writes and qwen2.5-72b judges, models of one family")
    assert findings(reasoner="Qwen/Qwen3-30B", judge="gpt-oss-120b")["same_family"][0] == "info"


def test_what_servers_state_counts_more_than_an_alias():
    served = {Role.REASONER: "Qwen3-30B", Role.JUDGE: "Qwen3-235B"}
    assert findings(served, reasoner="writer", judge="judge")["same_family"][0] == "warning"


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ({"captioner": "vlm-8b"}, {"no_viewer": "warning"}),
        ({"captioner": "vlm-8b", "viewer": "vlm-8b"}, {"viewer_is_captioner": "warning"}),
        ({"captioner": "vlm-8b", "viewer": "other-7b"}, {"viewer_is_captioner": "info"}),
        ({"captioner": "measured"}, {}),
    ],
)
def test_captions_need_another_model_to_check_them(models, expected):
    found = findings(reasoner="a", judge="b", **models)
    assert {code: severity for code, (severity, _) in found.items() if code != "same_family"} == expected


def test_questions_by_program_need_no_judge():
    assert findings(writers=(Writer.PROGRAM,), reasoner="a", judge="a", captioner="vlm-8b") == {}
