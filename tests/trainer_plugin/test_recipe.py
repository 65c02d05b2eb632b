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
def test_every_recipe_says_what_it_needs_and_is_complete_with_it(name):
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
        (["model.config={}"], "give either path or config"),
        (["steps=3"], "give either epochs or steps, got epochs=1 and steps=3"),
        (["texts={files: t}"], "give either videos or texts"),
        (["step_tokens=131073"], "step_tokens 131073 is not a multiple of row_tokens 131072"),
        (["trained.lora={}"], "with lora only adapters are learned"),
        (["trained={language_model: false, projector: false}"], "nothing is learned"),
        (["export=adapter"], "export: adapter needs trained.lora"),
        (["videos.features={url: f, tower: t}"], "are of a frozen tower; set trained.vision_tower and projector"),
        (["optimizer.learning_rate=-1"], r"optimizer.learning_rate: .*greater than 0, got -1"),
        (["precision=float16"], "precision"),
    ],
)
def test_what_is_unknown_or_contradicts_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("cot_sft", GIVEN["videos"] + settings)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"no recipe 'cot'; there are cot_sft, demo"):
        load_recipe("cot")


def test_a_step_is_dealt_out_evenly_or_not_at_all():
    loaded = load_recipe("cot_sft", GIVEN["videos"])
    assert [loaded.micro_steps(ranks) for ranks in (1, 2, 16)] == [16, 8, 1]
    with pytest.raises(BadInput, match=r"16 rows of 131072 tokens, which 3 data-parallel ranks .* multiple of 393216"):
        loaded.micro_steps(3)
    assert load_recipe("cot_sft", [*GIVEN["videos"], "step_tokens=null"]).micro_steps(3) == 1
