import pytest

from schemas.errors import BadInput
from schemas.settings import ConfigError
from trainer_plugin.recipe import Lora, Schedule, load_recipe, recipe_names

GIVEN = {
    "extend": ["out=o", "model.path=m", "texts.files=t/*.parquet"],
    "videos": ["out=o", "model.path=m", "videos.release=r"],
    "demo": ["out=o", "videos.release=r"],
}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_with_its_required_settings_and_not_without(name):
    given = GIVEN.get(name.split("_")[0], GIVEN["videos"])
    loaded = load_recipe(name, given)
    assert loaded.out == "o"
    with pytest.raises(ConfigError, match="out: is required"):
        load_recipe(name, given[1:])


@pytest.mark.parametrize(
    ("name", "theta", "tokens", "steps"),
    [
        ("64k", 15_300_000, 65_536, 40),
        ("256k", 207_112_184, 262_144, 80),
        ("512k", 1_062_356_830, 524_288, 80),
        ("1m", 3_580_165_449, 1_048_576, 50),
    ],
)
def test_context_extension_has_the_published_values(name, theta, tokens, steps):
    loaded = load_recipe(f"extend_{name}", GIVEN["extend"])
    assert (loaded.model.rope_theta, loaded.row_tokens, loaded.steps) == (theta, tokens, steps)
    assert loaded.trained.lora == Lora()
    assert loaded.optimizer.schedule is Schedule.CONSTANT
    assert loaded.optimizer.warmup * steps == pytest.approx(2)


def test_settings_win_over_the_file_and_a_file_over_nothing(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("{out: a, model: {path: m}, videos: {release: r}, row_tokens: 64, steps: 3, seed: 4}")
    loaded = load_recipe(str(file), ["seed=5", "videos.frames={fps: null, frames: 8}"])
    assert (loaded.seed, loaded.steps, loaded.videos.frames.frames) == (5, 3, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["videos.framez=1"], "videos.framez: no such field; did you mean 'frames'"),
        (["optimizer.learning_rate=-1"], r"optimizer.learning_rate: .*greater than 0, got -1"),
        (["optimizer.betas=[0.9, 1.0]"], r"optimizer.betas.1: .*less than 1, got 1.0"),
        (["precision=float16"], "precision"),
    ],
)
def test_settings_that_are_unknown_or_do_not_fit_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("cot_sft", GIVEN["videos"] + settings)


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("lr=1e-4", "optimizer.learning_rate"),
        ("optimizer.lr=1e-4", "optimizer.learning_rate"),
        ("learning_rate=1e-4", "optimizer.learning_rate"),
        ("max_steps=10", "steps"),
        ("save_steps=10", "checkpoints.every_steps"),
        ("every_steps=10", "checkpoints.every_steps"),
        ("eval_steps=10", "evaluation.every_steps"),
        ("release=r", "videos.release"),
        ("lora_rank=8", "trained.lora.rank"),
        ("trained.r=8", "trained.lora.rank"),
        ("per-device-train-batch-size=4", "step_tokens"),
        ("weight_decays=0.1", "optimizer.weight_decay"),
        ("trained.lora.alhpa=16", "alpha"),
        ("optimiser.learning_rate=1", "optimizer"),
    ],
)
def test_a_name_of_another_trainer_or_place_is_answered_by_ours(setting, meant):
    name = setting.partition("=")[0]
    with pytest.raises(ConfigError) as raised:
        load_recipe("cot_sft", [*GIVEN["videos"], setting])
    assert f"{name if meant != 'optimizer' else 'optimiser'}: no such field; did you mean {meant!r}?" in str(
        raised.value
    )


def test_an_unknown_field_without_a_similar_one_names_the_known_fields():
    with pytest.raises(ConfigError, match=r"checkpoints.zzz: no such field; known are every_steps, keep$"):
        load_recipe("cot_sft", [*GIVEN["videos"], "checkpoints.zzz=1"])


def test_an_evaluation_may_change_between_two_starts():
    assert "evaluation" not in load_recipe("cot_sft", [*GIVEN["videos"], "evaluation.every_steps=5"]).settings()


def test_resume_changes_may_not_name_the_seed_the_model_or_the_data():
    with pytest.raises(
        ConfigError, match=r"resume_changes may name row_tokens, .*, not seed, videos.target: model, data"
    ):
        load_recipe("cot_sft", [*GIVEN["videos"], "resume_changes=[seed, steps, videos.target]"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.config={}"], "model: give either path or config and leave the other null, got both (path=m)"),
        (["model.path=null"], "model: give either path or config and leave the other null, got neither"),
        (["steps=3"], "configuration: give either epochs or steps and leave the other null, got epochs=1 and steps=3"),
        (["texts={files: t}"], "configuration: give either videos or texts as data and leave the other null, got both"),
        (["videos=null"], "configuration: give either videos or texts as data and leave the other null, got neither"),
        (
            ["videos=null", "texts={files: t}"],
            "configuration: text data has no fixed length: set steps instead of epochs, got epochs=1",
        ),
        (
            ["videos=null", "texts={files: t}", "epochs=null", "steps=1", "evaluation.every_steps=1"],
            "configuration: text data has no questions to evaluate on: set evaluation.release, got null",
        ),
        (
            ["evaluation={before: false, at_end: false}"],
            "evaluation: nothing is evaluated; set every_steps, or before or at_end to true",
        ),
        (
            ["evaluation.media=/films"],
            "evaluation: media /films is for evaluation.release, which is not set; set both, or neither",
        ),
        (
            ["step_tokens=131073"],
            "configuration: step_tokens 131073 is not a multiple of row_tokens 131072; set it to 262144",
        ),
        (
            ["trained.lora={}"],
            "trained: with lora only adapters are trainable; set language_model and projector to false, not true",
        ),
        (
            ["trained={language_model: false, projector: false}"],
            "trained: nothing is trainable; set one of language_model, lora, projector, vision_tower",
        ),
        (
            ["export=adapter"],
            "configuration: export is adapter, but trained.lora is not set; set it, or export to model",
        ),
        (
            ["videos.features={url: f, tower: t}"],
            "configuration: videos.features are of a frozen tower; set trained.projector to false, not true",
        ),
        (
            ["videos.frames.frames=8"],
            "videos.frames: give either fps or frames and leave the other null, got fps=2.0 and frames=8",
        ),
    ],
)
def test_contradicting_settings_are_named_alone(settings, message):
    with pytest.raises(ConfigError) as raised:
        load_recipe("cot_sft", GIVEN["videos"] + settings)
    assert str(raised.value) == f"the configuration does not fit:\n  - {message}"


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"no recipe 'cot'; there are cot_sft, demo"):
        load_recipe("cot")


def test_a_step_is_dealt_out_evenly_or_not_at_all():
    loaded = load_recipe("cot_sft", GIVEN["videos"])
    assert [loaded.micro_steps(ranks) for ranks in (1, 2, 16)] == [16, 8, 1]
    with pytest.raises(BadInput, match=r"16 rows of 131072 tokens, which 3 data-parallel ranks .* multiple of 393216"):
        loaded.micro_steps(3)
    assert load_recipe("cot_sft", [*GIVEN["videos"], "step_tokens=null"]).micro_steps(3) == 1


def test_fields_of_memory_have_their_earlier_names_too():
    names = ["memory={recomputed_layers: 3, keep_attention: false, mlp_tokens: 64}"]
    memory = load_recipe("demo", ["out=x", "videos.release=x", *names]).memory
    assert (memory.checkpointed_layers, memory.save_attention_output, memory.mlp_tile_tokens) == (3, False, 64)
