import json
import re

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from schemas.errors import BadInput
from tests.trainer_plugin.parity import Draft, make_samples, tiny_family
from tests.trainer_plugin.runs import make_recipe, model_folder, text_log_probs, tied_folder
from trainer_plugin.atomic_files import locked
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.data.chat import CHAT_TEMPLATES, CHATML
from trainer_plugin.distributed.sequence_plan import SequencePlan
from trainer_plugin.model import RankInput
from trainer_plugin.sft import Training
from trainer_plugin.training.export import export_model
from trainer_plugin.types import Example

LORA = (
    "trained.lora={rank: 2}",
    "trained.language_model=false",
    "trained.projector=false",
    "trained.vision_tower=false",
)


def text_example() -> Example:
    return make_samples(tiny_family("qwen2_5_vl"), [Draft((17,), 0.7)])[0].example


def own_log_probs(training: Training) -> torch.Tensor:
    """Log-probabilities from the trained model through the trainer's own code path, complete on every rank."""
    model, parallel = training.model, training.parallel
    plan = SequencePlan([text_example()], model.family, parallel.layout, model.costs)
    with torch.no_grad():
        found, _ = model(RankInput(plan.rank_plan(parallel.sp_rank), ()))
    if parallel.sp == 1:
        return found
    gathered: list = [None] * parallel.sp
    torch.distributed.all_gather_object(gathered, found)
    return torch.cat(gathered)


def train_and_export(recipe, *settings: str) -> torch.Tensor:
    with Training(recipe) as training:
        for _ in training:
            pass
        training.export()
        return own_log_probs(training)


def load_exported(folder) -> torch.nn.Module:
    model, found = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    return model.eval()


def test_an_exported_folder_gives_the_trained_log_probs_and_has_the_sources_files(ranks, release, tmp_path):
    source = model_folder(tmp_path / "source")
    (source / "preprocessor_config.json").write_text("{}")
    recipe = make_recipe(tmp_path, release, f"model={{path: {source}}}", "steps=2", "export=model", "parallel.sp=2")
    expected = ranks[2].run(train_and_export, recipe)[0]
    found = text_log_probs(load_exported(tmp_path / "export"), text_example())
    assert torch.allclose(found, expected, atol=1e-5)
    before = text_log_probs(load_exported(source), text_example())
    assert (found - before).abs().max() > 1e-2
    assert (tmp_path / "export" / "preprocessor_config.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "export").decode([257]) == "<|im_start|>"


def test_a_tokenizer_of_its_own_comes_along_with_the_models_processors(alone, release, tmp_path):
    source, other = model_folder(tmp_path / "source"), tmp_path / "tokenizer"
    (source / "preprocessor_config.json").write_text("{}")
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = "You see.\n" + CHATML
    tokenizer.save_pretrained(other)
    model = f"model={{path: {source}, tokenizer: {other}}}"
    train_and_export(make_recipe(tmp_path, release, model, "steps=1", "export=model"))
    assert (tmp_path / "export" / "preprocessor_config.json").exists()
    assert AutoTokenizer.from_pretrained(source).chat_template == CHATML
    assert AutoTokenizer.from_pretrained(tmp_path / "export").chat_template == tokenizer.chat_template


def test_the_chat_template_of_the_recipe_comes_along(alone, release, tmp_path):
    source = model_folder(tmp_path / "source")
    (source / "chat_template.json").write_text('{"chat_template": "old"}')
    model = f"model={{path: {source}, chat_template: chatml_no_think}}"
    train_and_export(make_recipe(tmp_path, release, model, "steps=1", "export=model"))
    assert (tmp_path / "export" / "chat_template.jinja").read_text() == CHAT_TEMPLATES["chatml_no_think"]
    assert AutoTokenizer.from_pretrained(tmp_path / "export").chat_template == CHAT_TEMPLATES["chatml_no_think"]
    assert not (tmp_path / "export" / "chat_template.json").exists()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adapters_are_merged_into_the_model(alone, release, tmp_path, precision):
    source = model_folder(tmp_path / "source")
    settings = (f"model={{path: {source}}}", "steps=2", "optimizer.warmup=0", *LORA, f"precision={precision}")
    expected = train_and_export(make_recipe(tmp_path, release, *settings, "export=model"))
    model = load_exported(tmp_path / "export")
    assert model.dtype == getattr(torch, precision)
    found = text_log_probs(model, text_example())
    assert torch.allclose(found, expected, atol=1e-4 if precision == "float32" else 0.1)
    before = text_log_probs(load_exported(source), text_example())
    assert (found - before).abs().max() > 1e-3


def test_adapters_alone_are_what_peft_loads(alone, release, tmp_path):
    from peft import PeftModel

    source = model_folder(tmp_path / "source")
    settings = (f"model={{path: {source}}}", "steps=2", "optimizer.warmup=0", *LORA, "export=adapter")
    expected = train_and_export(make_recipe(tmp_path, release, *settings))
    files = {path.name for path in (tmp_path / "export").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert not any(name.startswith("model") for name in files)
    adapted = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(source), tmp_path / "export")
    assert torch.allclose(text_log_probs(adapted.eval(), text_example()), expected, atol=1e-5)


@pytest.mark.parametrize(
    "change", ["rope_theta: 5000000.0", "rope_theta: 5000000.0, max_positions: 131072", "max_positions: 131072"]
)
def test_adapters_of_a_changed_configuration_include_it_and_code_that_loads_them(alone, release, tmp_path, change):
    source = model_folder(tmp_path / "source")
    settings = (f"model={{path: {source}, {change}}}", "steps=1", "optimizer.warmup=0", *LORA, "export=adapter")
    expected = train_and_export(make_recipe(tmp_path, release, *settings))
    [code] = re.findall(r"```python\n(.*?)```", (tmp_path / "export" / "README.md").read_text(), re.DOTALL)
    found: dict = {}
    exec(code.replace("THIS FOLDER", str(tmp_path / "export")), found)
    assert torch.allclose(text_log_probs(found["model"].eval(), text_example()), expected, atol=1e-5)
    if "max_positions" in change:
        assert found["model"].config.get_text_config().max_position_embeddings == 131072


def test_adapters_of_random_weights_name_no_base(alone, release, tmp_path):
    bytes_tokenizer().save_pretrained(tmp_path / "tokenizer")
    settings = (f"model.tokenizer={tmp_path / 'tokenizer'}", "steps=1", *LORA, "export=adapter")
    train_and_export(make_recipe(tmp_path, release, *settings))
    assert json.loads((tmp_path / "export" / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    assert (tmp_path / "export" / "config.json").exists()


def test_adapters_of_an_unchanged_configuration_load_by_their_folder_alone(alone, release, tmp_path):
    source = model_folder(tmp_path / "source")
    settings = (f"model={{path: {source}}}", "steps=1", "optimizer.warmup=0", *LORA, "export=adapter")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").write_text("{}")  # from an earlier export; it would break loading
    expected = train_and_export(make_recipe(tmp_path, release, *settings))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "export")
    assert torch.allclose(text_log_probs(model.eval(), text_example()), expected, atol=1e-5)


def test_a_head_that_the_files_untied_stays_untied(alone, release, tmp_path):
    """The head stays untied for every loader, as in training: vLLM reads only the configuration."""
    source = tied_folder(tmp_path / "source")
    expected = train_and_export(make_recipe(tmp_path, release, f"model={{path: {source}}}", "steps=1", "export=model"))
    model = load_exported(tmp_path / "export")
    assert not (model.config.tie_word_embeddings or model.config.get_text_config().tie_word_embeddings)
    assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
    assert torch.allclose(text_log_probs(model, text_example()), expected, atol=1e-5)


def test_an_export_over_another_leaves_nothing_of_its_weights_and_everything_else(alone, release, tmp_path):
    source = model_folder(tmp_path / "source")
    folder = tmp_path / "export"
    settings = (f"model={{path: {source}}}", "steps=1", *LORA)
    train_and_export(make_recipe(tmp_path, release, *settings, "export=adapter"))
    (folder / "notes.txt").write_text("mine")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"old")
    expected = train_and_export(make_recipe(tmp_path, release, *settings, "export=model"))
    assert torch.allclose(text_log_probs(load_exported(folder), text_example()), expected, atol=1e-5)
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["model.safetensors"]
    assert not list(tmp_path.rglob("*.writing"))


def test_further_chat_templates_are_exported_over_those_of_an_export_before(alone, release, tmp_path):
    source, tokenizer = model_folder(tmp_path / "source"), bytes_tokenizer()
    folder = tmp_path / "export"
    with Training(make_recipe(tmp_path / "run", release, f"model={{path: {source}}}", "steps=1")) as training:
        for named in ({"default": CHATML, "old": "old"}, {"default": CHATML, "new": "new"}):
            tokenizer.chat_template = named
            export_model(training.model, folder, tokenizer=tokenizer)
            assert AutoTokenizer.from_pretrained(folder).chat_template == named
    assert not (folder / ".writing").exists()


def test_an_export_may_be_on_a_disk_of_its_own(alone, release, tmp_path, small_disk):
    with Training(make_recipe(tmp_path, release, "steps=1", "precision=bfloat16", "export=model")) as training:
        list(training)
        training.export(small_disk)
    assert {"config.json", "model.safetensors"} <= {path.name for path in small_disk.iterdir()}


def test_weights_have_the_permissions_of_the_configuration(alone, release, tmp_path):
    lora = "trained={language_model: false, projector: false, vision_tower: false, lora: {rank: 4}}"
    for settings in (("export=model",), ("export=adapter", lora)):
        with Training(make_recipe(tmp_path / settings[0], release, "steps=1", *settings)) as training:
            training.export(tmp_path / settings[0] / "export")
        modes = {path.stat().st_mode for path in (tmp_path / settings[0] / "export").iterdir()}
        assert len(modes) == 1


def test_a_recipe_without_an_export_has_none(alone, release, tmp_path):
    with (
        Training(make_recipe(tmp_path, release, "steps=1", "export=none")) as training,
        pytest.raises(BadInput, match="nothing to export with export: none"),
    ):
        training.export()


def test_a_folder_that_another_process_exports_to_is_refused(alone, release, tmp_path):
    export = tmp_path / "export"
    with Training(make_recipe(tmp_path / "run", release, "steps=1", "export=model")) as training:
        with (
            locked(tmp_path / ".export.writing.lock", export),
            pytest.raises(BadInput, match=f"^{export} is in use by process"),
        ):
            training.export(export)
        training.export(export)
    assert (export / "model.safetensors").exists()
