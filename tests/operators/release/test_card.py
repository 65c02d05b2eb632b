"""The dataset card: the loaders that it names read its front matter and run its code."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from markdown_it import MarkdownIt

from operators.release.card import dataset_card, field_table, render_card
from operators.release.readers import features
from operators.report.collect import collect
from operators.store.run_folder import RunFolder
from schemas.arrow import arrow_schema
from schemas.config import Media, ShardConfig
from schemas.run import Release
from schemas.sample import Sample, WebDatasetRecord


@pytest.fixture(scope="module")
def manifest(release):
    return Release.model_validate_json((release / "manifest.json").read_bytes())


@pytest.fixture(scope="module")
def numbers(release):
    return collect(RunFolder.open(f"{release.parents[2]}/runs/synthetic-20261122"))


@pytest.fixture(autouse=True)
def offline_and_without_cache(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def blocks(card, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_published_card_is_the_one_that_its_run_gives(release, manifest):
    folder = RunFolder.open(f"{release.parents[2]}/runs/synthetic-20261122")
    assert (release / "README.md").read_text() == dataset_card(manifest, folder)


def test_front_matter_has_the_fields_that_the_hub_needs(manifest, numbers):
    front = front_matter(render_card(manifest, numbers))
    assert front["license"] == "cc-by-4.0"
    assert front["task_categories"] == ["visual-question-answering", "video-text-to-text"]
    assert front["language"] == ["en"]
    assert front["size_categories"] == ["n<1K"]
    [config] = front["configs"]
    assert [each["split"] for each in config["data_files"]] == [
        each for each in ("eval", "sft", "rl") if each in manifest.samples
    ]


def test_features_are_those_that_datasets_derives_itself():
    from datasets import Features

    for model in (Sample, WebDatasetRecord):
        schema = arrow_schema(model)
        assert Features._from_yaml_list(features(schema)) == Features.from_arrow_schema(schema)
    flat = pa.schema([("x", pa.list_(pa.list_(pa.bool_())))])
    assert Features._from_yaml_list(features(flat)) == Features.from_arrow_schema(flat)


def test_several_or_unknown_licences_are_other(manifest, numbers):
    mixed = numbers.videos.assign(licence=["CC0-1.0", *["Own | work"] * (len(numbers.videos) - 1)])
    card = render_card(manifest, replace(numbers, videos=mixed))
    assert front_matter(card)["license"] == "other"
    assert front_matter(card)["license_name"] == "several"
    assert "| Own &#124; work |" in card
    nothing = render_card(manifest, replace(numbers, videos=numbers.videos.assign(licence="")))
    assert front_matter(nothing)["license_name"] == "not-stated"


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>\n\n# heading\n\n- item",
    "[click](javascript:alert(1)) ![x](https://evil.example/pixel.png)",
    "|a|b| `code` **bold** _em_ ~~del~~ $x$ $$y$$ @someone #1",
    "https://evil.example www.evil.example <https://evil.example>",
    "&lt;b&gt; &amp; \\<b>",
    "---\nlicense: mit\n---",
    "{{ release.files }} {% raw %}",
    "x" * 100_000,
    "\u202eevil\x1b[31m\x00",
    "https://user:PASSWORD@host/a?X-Amz-Signature=SECRET",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_strings_from_outside_are_plain_text_on_the_card(manifest, numbers, text):
    config = numbers.run.config
    judge = config.models.judge.model_copy(update={"model": text})
    config = config.model_copy(update={"models": config.models.model_copy(update={"judge": judge})})
    hostile = replace(
        numbers, videos=numbers.videos.assign(licence=text), run=numbers.run.model_copy(update={"config": config})
    )
    card, usual = render_card(manifest, hostile), render_card(manifest, numbers)
    assert front_matter(card).keys() == {*front_matter(usual), "license_name", "license_link"}
    assert set(front_matter(card)["license_name"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert tags(card) == tags(usual)
    assert len(card) < len(usual) + 5_000
    assert not any(word in card for word in ("PASSWORD", "SECRET"))
    assert all(line.isprintable() for line in card.splitlines())


def tags(card):
    """HTML tags of the card's rendered Markdown, in order."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    html = parser.render(card.split("---\n", 2)[2])
    return re.findall(r"<[^>]*>", html)


def test_every_field_is_listed_with_its_docstring(manifest, numbers):
    table = {name: (kind, text) for name, kind, text in field_table(Sample)}
    assert list(table) == list(Sample.model_fields)
    assert table["pass_rate"] == ("number", "Share of the target model's answers that were right.")
    assert table["evidence"][0] == "list of {start_us, end_us}"
    assert table["split"][0] == "`eval`, `sft`, `rl`"
    card = render_card(manifest, numbers)
    assert all(f"| `{name}` |" in card for name in [*Sample.model_fields, *WebDatasetRecord.model_fields])


def test_counts_models_and_baselines_are_stated(manifest, numbers):
    card = render_card(manifest, numbers)
    for split, count in manifest.samples.items():
        assert re.search(rf"^\| {split} \| {count:,} \| {manifest.videos[split]:,} \|", card, re.MULTILINE)
    assert "| target | target-7b, sees frames |" in card
    assert "`rl` from 0.2 to 0.8" in card
    assert "answered 10 times by the target model, with the prompt and the frames of its training" in card
    assert all(baseline.name in card for baseline in numbers.baselines)


@pytest.mark.parametrize(
    "media, description", [("original", "the video."), ("proxy", "the video in little: two frames a second")]
)
def test_the_video_file_of_a_record_is_described(manifest, numbers, media, description):
    run = numbers.run
    config = run.config.model_copy(update={"shard": run.config.shard.model_copy(update={"media": Media(media)})})
    card = render_card(manifest, replace(numbers, run=run.model_copy(update={"config": config})))
    assert f"`{{video_id}}.mp4`, {description}" in card
    assert any("mp4" in str(each) for each in front_matter(card)["dataset_info"][1]["features"])


def test_the_code_for_datasets_runs(release, manifest):
    [code] = [block for block in blocks((release / "README.md").read_text(), "python") if "load_dataset" in block]
    found = {"root": str(release)}
    exec(code, found)
    split = found["samples"].split
    assert found["samples"].num_rows == manifest.samples[str(split)]
    records = list(found["videos"])
    assert len(records) == manifest.videos[str(split)]
    assert sum(len(record["json"]["samples"]) for record in records) == manifest.samples[str(split)]
    assert all(record["mp4"]["bytes"][4:8] == b"ftyp" for record in records)


def test_the_code_for_webdataset_runs(release):
    [code] = [block for block in blocks((release / "README.md").read_text(), "python") if "import webdataset" in block]
    found = {"root": str(release)}
    exec(code, found)
    assert found["record"]["video_id"] == found["video"]["__key__"]
    assert found["questions"] == [sample["problem"] for sample in found["record"]["samples"]]
    assert found["mp4"][4:8] == b"ftyp"


@pytest.mark.parametrize(
    "environment", [{}, {"RANK": "1", "WORLD_SIZE": "2"}], ids=["one rank", "a rank without a tar"]
)
def test_the_code_for_webdataset_runs_with_more_workers_than_tars(release, tmp_path, monkeypatch, environment):
    pytest.importorskip("torch")
    [code] = [block for block in blocks((release / "README.md").read_text(), "python") if "import webdataset" in block]
    code, changes = re.subn(r"in videos:  # with workers: in (.*)", r"in \1:", code)
    assert changes == 1
    [folder] = re.findall(r"\{root\}(/data/\w+)/", code)
    first = min((release / folder[1:]).glob("*.tar"))
    (tmp_path / folder[1:]).mkdir(parents=True)
    shutil.copy(first, tmp_path / folder[1:])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = {"root": str(tmp_path)}
    exec(code + "    seen = [*globals().get('seen', []), video['__key__']]\n", found)
    with tarfile.open(first) as tar:
        keys = {name.partition(".")[0] for name in tar.getnames()}
    assert set(found.get("seen", [])) == (set() if environment else keys)


def test_the_commands_for_energon_run(release, manifest, tmp_path):
    pytest.importorskip("megatron.energon")
    card = (release / "README.md").read_text()
    shutil.copytree(release / "data", tmp_path / "data")
    [commands] = blocks(card, "sh")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    completed = subprocess.run(
        ["sh", "-ec", commands],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    counts = re.findall(r"\* `(\w+)`: \d+%, (\d+) samples in \d+ shards", completed.stdout)
    assert {split: int(count) for split, count in counts} == manifest.videos
    [code] = [block for block in blocks(card, "python") if "energon" in block]
    found = {"root": str(tmp_path), "__name__": "card"}
    exec(code, found)
    video = found["video"]
    assert video.record["video_id"] == video.__key__
    assert video.mp4.get_video_duration()[0] == pytest.approx(video.record["duration_us"] / 1e6)


def test_the_card_states_how_videos_became_mp4s(manifest, numbers):
    ways = ["keep", *["sound"] * (len(numbers.videos) - 1)]
    original = numbers.run.model_copy(
        update={"config": numbers.run.config.model_copy(update={"shard": ShardConfig(media=Media.ORIGINAL)})}
    )
    published = set(numbers.samples["video_id"])
    videos = numbers.videos.assign(packaging=ways)
    kept = int(videos["video_id"].iloc[0] in published)
    card = render_card(manifest, replace(numbers, videos=videos, run=original))
    assert f"{len(published & set(videos['video_id'])) - kept} copied, sound encoded as AAC." in card
    without = original.model_copy(
        update={"config": original.config.model_copy(update={"shard": ShardConfig(media=Media.PROXY)})}
    )
    assert "byte for byte" not in render_card(manifest, replace(numbers, videos=videos, run=without))
