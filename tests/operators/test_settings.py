import pytest

from operators.settings import ConfigError, load_config
from schemas.config import ClipMode


def test_settings_win_over_the_file_and_arguments_over_both(tmp_path):
    file = tmp_path / "build.yaml"
    file.write_text("source: a\nout: b\nsplit: {clip_seconds: 9, mode: fixed}\n")
    config = load_config(file, ["split.clip_seconds=11", "models.target.model=qwen"], source="c", name=None)
    assert (config.source, config.out, config.name) == ("c", "b", "longvideo")
    assert (config.split.clip_seconds, config.split.mode) == (11, ClipMode.FIXED)
    assert config.models.target.model == "qwen"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["spilt.clip_seconds=9"], "spilt: no such field; did you mean 'split'?"),
        (["split.clip_second=9"], "split.clip_second: no such field; did you mean 'clip_seconds'?"),
        (["split.clip_seconds=fast"], "split.clip_seconds: .*got 'fast'"),
        (["split.min_seconds=11"], r"split: .*min_seconds \(11.0\) <= clip_seconds \(10.0\)"),
        (["split.detector=content", "split.threshold=3"], "split: .*threshold 3.0 does not suit detector content"),
        (["split.mode=shot"], "split.mode: .*'shots' or 'fixed'"),
        (["name=Bad Name"], "name: .*got 'Bad Name'"),
        (["clip_seconds"], "expected section.field=value"),
        (["source.x=1"], "source is a single value, not a section"),
        (["name=[a"], "not YAML"),
    ],
)
def test_errors_name_the_field_the_value_and_the_fix(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, settings, base={"source": "a", "out": "b"})


def test_all_problems_are_in_one_error():
    with pytest.raises(ConfigError) as error:
        load_config(None, ["partition_videos=0", "oops=1"])
    for name in ("source", "out", "partition_videos", "oops"):
        assert f"  - {name}:" in str(error.value)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="expected fields and values, got list"):
        load_config(tmp_path / "list.yaml")


@pytest.mark.parametrize("field", ["source", "media_root", "out", "allowed_roots"])
@pytest.mark.parametrize(
    "address",
    ["https://me:PASSWORD@host/a.csv", "s3://K:PASSWORD@b/a.csv", "https://h/a?SECRET", "https://me:/PASSWORD@h/a"],
)
def test_an_address_with_a_secret_is_refused_without_showing_it(field, address):
    value = [address] if field == "allowed_roots" else address
    message = f"^{field}: .*/a.* would be stored with every run; .*environment variables"
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(base={"source": "/films", "out": "/data", field: value})
    assert not any(word in f"{refused.value}{refused.value.__cause__}" for word in ("SECRET", "PASSWORD"))


def test_an_evaluation_list_with_a_secret_is_refused_without_showing_it():
    lists = {"decontamination": ["ids.txt", "https://me:PASSWORD@host/eval.csv"]}
    with pytest.raises(ConfigError, match=r"^assemble\.decontamination: https://host/eval\.csv was given") as refused:
        load_config(base={"source": "/films", "out": "/data", "assemble": lists})
    assert "PASSWORD" not in str(refused.value)


@pytest.mark.parametrize("address", ["github://org:repo@main/list.csv", "https://media:4711/a@b/list.csv"])
def test_names_similar_to_users_are_accepted(address):
    config = load_config(None, [], source=address, out="out", allowed_roots=(address,))
    assert (config.source, config.allowed_roots) == (address, (address,))
