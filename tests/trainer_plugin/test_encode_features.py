from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText

from schemas.config import Media
from schemas.errors import BadInput
from tests.trainer_plugin.parity import tiny_config
from tests.trainer_plugin.runs import SETTINGS, curve, make_recipe, model_folder
from tests.trainer_plugin.support import numbered_film, release_of
from trainer_plugin.atomic_files import locked
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.encode_features import Encoded, encode, main
from trainer_plugin.recipe import Recipe

FROZEN = ("steps=2", "trained.vision_tower=false", "trained.projector=false", "optimizer.warmup=0")


@pytest.fixture
def films(tmp_path) -> Path:
    """Folder for the three films; `url` renders them."""
    folder = tmp_path / "films"
    folder.mkdir()
    return folder


@pytest.fixture
def url(tmp_path, films) -> str:
    """Release about the three films that does not contain them."""
    videos = [numbered_film(films, f"film{number}", 1.0 + number) for number in range(3)]
    return release_of(tmp_path, videos, media=Media.NONE)


@pytest.fixture
def frozen_recipe(tmp_path, url, films):
    """Factory of recipes with a frozen tower; takes the name of the `out` folder and more settings."""

    def of(name: str, *settings: str) -> Recipe:
        return make_recipe(tmp_path / name, url, *FROZEN, f"videos.media={films}", *settings)

    return of


def features_setting(url: Path, tower: str) -> str:
    return f"videos.features={{url: {url}, tower: {tower}}}"


def model_with_feature_levels(folder: Path) -> Path:
    """Write a folder with a model whose features have several levels, and the byte tokenizer."""
    config = tiny_config("qwen3_vl")
    config.text_config.vocab_size = 263
    config.vision_start_token_id, config.vision_end_token_id, config.video_token_id = 259, 260, 262
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    bytes_tokenizer().save_pretrained(folder)
    return folder


ADAPTERS = ("trained.lora.rank=4", "trained.language_model=false")


@pytest.mark.parametrize(("make", "settings"), [(model_folder, ADAPTERS), (model_with_feature_levels, ())])
def test_features_take_the_place_of_frames(ranks, frozen_recipe, films, tmp_path, make, settings):
    """The films are deleted before the features are read, and the loss stays the same."""
    model = [f"model={{path: {make(tmp_path / 'model')}}}", *settings]
    expected = ranks[2].run(curve, frozen_recipe("frames", *model))[0]
    one, other = ranks[2].run(encode, frozen_recipe("unused", *model), str(tmp_path / "features"))
    assert one == other == Encoded(one.tower, written=3, found=0, broken={}, unusable=0)
    for film in films.iterdir():
        film.unlink()
    read = frozen_recipe("read", *model, features_setting(tmp_path / "features", one.tower))
    assert ranks[2].run(curve, read)[0] == pytest.approx(expected, rel=1e-6)


def test_only_what_is_missing_is_encoded_and_a_broken_video_is_named(alone, frozen_recipe, films, tmp_path):
    features = tmp_path / "features"
    whole = (films / "film1.mp4").read_bytes()
    (films / "film1.mp4").write_bytes(b"no film")
    first = encode(frozen_recipe("unused"), str(features))
    assert (first.written, first.found, first.broken) == (2, 0, {"film1": "not_a_video"})
    times = {path: path.stat().st_mtime_ns for path in features.iterdir()}
    (films / "film1.mp4").write_bytes(whole)
    second = encode(frozen_recipe("unused"), str(features))
    assert second == Encoded(first.tower, written=1, found=2, broken={}, unusable=0)
    assert times.items() < {path: path.stat().st_mtime_ns for path in features.iterdir()}.items()
    fewer = encode(frozen_recipe("unused", "videos.frames.max_frames=2"), str(features))
    assert (fewer.tower, fewer.written, fewer.found) == (first.tower, 1, 2)  # the longest video had more frames


def test_features_of_another_tower_or_of_other_frames_are_refused(alone, frozen_recipe, tmp_path):
    features = tmp_path / "features"
    done = encode(frozen_recipe("unused"), str(features))
    assert curve(frozen_recipe("same", features_setting(features, done.tower)))
    for other in ("seed=1", f"model={{path: {model_folder(tmp_path / 'model')}}}", "precision=bfloat16"):
        with pytest.raises(BadInput, match=rf"videos\.features\.tower is '{done.tower}', but this model's tower is"):
            curve(frozen_recipe("other", features_setting(features, done.tower), other))
        with pytest.raises(BadInput, match="other tower than requested; encode the videos into another folder"):
            encode(frozen_recipe("unused", other), str(features))
    for other in ("videos.frames.max_frames=2", "videos.frames.max_video_tokens=8"):
        with pytest.raises(BadInput, match="are of other frames or another size than requested"):
            curve(frozen_recipe("frames", features_setting(features, done.tower), other))


def test_a_folder_into_which_another_process_encodes_is_refused(alone, frozen_recipe, tmp_path):
    features = tmp_path / "features"
    features.mkdir()
    with locked(features / "_lock", features), pytest.raises(BadInput, match=f"^{features} is in use by process"):
        encode(frozen_recipe("unused"), str(features))


def test_all_ranks_refuse_a_single_file_of_another_tower(ranks, frozen_recipe, tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    ranks[1].run(encode, frozen_recipe("unused"), str(own))
    ranks[1].run(encode, frozen_recipe("unused", "seed=1"), str(other))
    name = next(own.iterdir()).name
    (other / name).replace(own / name)
    errors, _ = ranks[2].outcomes(encode, frozen_recipe("unused"), str(own))
    assert set(errors) == {0, 1}
    assert all(f"BadInput: {own}/{name}: other tower than requested" in error for error in errors.values())


def test_the_command_logs_the_setting_for_the_recipe(url, films, tmp_path, caplog):
    settings = [*SETTINGS, f"videos.release={url}", f"videos.media={films}"]
    assert main([str(tmp_path / "features"), "demo", *settings]) == 2
    assert "set trained.vision_tower and trained.projector to false" in caplog.text
    caplog.set_level("INFO")
    assert main([str(tmp_path / "features"), "demo", *settings, *FROZEN]) == 0
    assert "3 clips encoded, 0 were there, 0 videos broken, 0 samples unusable" in caplog.text
    assert f"videos.features={{url: {tmp_path / 'features'}, tower: " in caplog.text
