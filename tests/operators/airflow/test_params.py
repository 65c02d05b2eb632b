"""The trigger form accepts exactly what a build accepts, and converts it back unchanged."""

import copy
from functools import reduce

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.settings import ConfigError
from schemas.config import BuildConfig
from schemas.tables import Split
from tests.support import airflow_home

assert airflow_home.HOME  # before Airflow

from airflow.sdk.exceptions import ParamValidationError  # noqa: E402

from operators.airflow.params import UP_FRONT, build_params, config_from_params  # noqa: E402

PARAMS = build_params()
REQUIRED = {"source": "/videos", "out": "/data"}


def leaves(values: dict, prefix: str = "") -> dict:
    """Flattens nested settings: `{"split": {"mode": …}}` becomes `{"split.mode": …}`."""
    found = {}
    for name, value in values.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def defaults() -> dict:
    return {name: REQUIRED.get(name, param.value) for name, param in PARAMS.items()}


def values_of(schema: dict) -> st.SearchStrategy:
    """Values that the trigger form accepts for a parameter with this schema."""
    match schema:
        case {"title": title} if title.endswith("chat template kwargs"):
            return st.sampled_from([None, '{"enable_thinking":false}'])
        case {"type": ["null", "integer" | "number" as kind]}:
            return st.none() | values_of({**schema, "type": kind})
        case {"type": "array", "examples": words}:
            return st.lists(st.sampled_from(words), min_size=1, unique=True)
        case {"enum": choices}:
            return st.sampled_from(choices)
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "integer"}:
            return st.integers(schema["minimum"], schema.get("maximum", 10_000))
        case {"type": "number"}:
            low = schema.get("minimum", schema.get("exclusiveMinimum"))
            exclusive = "exclusiveMinimum" in schema
            return st.floats(low, schema.get("maximum", 1e6), exclude_min=exclusive)
        case {"type": ["null", "string"]}:
            return st.none() | st.text(min_size=1, max_size=20)
        case {"type": ["null", "array"]}:
            return st.none() | st.lists(st.text(min_size=1, max_size=20), max_size=3)
        case {"pattern": pattern}:
            return st.from_regex(pattern, fullmatch=True)
        case {"type": "string", "minLength": 1}:
            return st.text(min_size=1, max_size=20)
    raise AssertionError(f"the form has no input for {schema}")


def test_every_field_is_a_parameter_and_defaults_come_back():
    assert set(PARAMS) == set(leaves(BuildConfig(**REQUIRED).model_dump(mode="json")))
    assert config_from_params(defaults()) == BuildConfig(**REQUIRED)
    assert config_from_params(REQUIRED) == BuildConfig(**REQUIRED)


def agree(values: dict) -> dict:
    """The values with those changed that exclude each other."""
    lengths = sorted(values[f"split.{name}_seconds"] for name in ("min", "clip", "max"))
    if lengths[2] < 1.5 * lengths[0] or lengths[1] > 120:
        lengths = [8.0, 10.0, 12.0]
    fixed = dict(zip(("split.min_seconds", "split.clip_seconds", "split.max_seconds"), lengths, strict=True))
    fixed["split.detector"] = "content" if values["split.threshold"] >= 10 else "adaptive"
    if values["shard.media"] == "proxy":
        fixed["split.decode"] = "every_frame"
    if values["caption.input"] == "clip":
        fixed |= {"split.write_clips": True, "caption.boxes": "auto"}
    bands = [[f"assemble.pass_rates.{split}_{limit}" for limit in ("min", "max")] for split in Split]
    for limits in (*bands, ("question.min_questions", "question.max_questions")):
        fixed |= dict(zip(limits, sorted(values[limit] for limit in limits), strict=True))
    fixed["question.mix.plot"] = values["question.mix.plot"] + 0.1
    fixed["question.categories"] = sorted({*values["question.categories"], "plot"})
    return values | fixed


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({name: values_of(param.schema) for name, param in PARAMS.items()}).map(agree))
def test_values_of_the_form_reach_the_build_unchanged(values):
    for name, param in PARAMS.items():
        copy.copy(param).resolve(values[name])  # resolving changes a Param
    got = leaves(config_from_params(values).model_dump(mode="json"))
    wanted = {name: value for name, value in values.items() if value is not None}
    assert {name: got[name] for name in wanted} == wanted


def test_the_form_is_laid_out_for_people():
    assert tuple(PARAMS)[: len(UP_FRONT)] == UP_FRONT
    assert {name for name, param in PARAMS.items() if "section" not in param.schema} == set(UP_FRONT)
    assert PARAMS["split.clip_seconds"].schema["section"] == "Split: from a video to clips"
    assert PARAMS["models.captioner.timeout_seconds"].schema["title"] == "Captioner: timeout seconds"
    assert PARAMS["assemble.sft_fraction"].schema["title"] == "SFT fraction"
    assert PARAMS["split.clip_seconds"].schema["description_md"].startswith("Target length")
    assert "**program** derives them" in PARAMS["question.writers"].schema["description_md"]
    assert PARAMS["split.clip_seconds"].schema["maximum"] == 120
    assert PARAMS["question.kinds"].schema["values_display"] == {"choice": "Choice", "open": "Open"}


def test_only_the_required_parameters_are_empty_and_required():
    """A required string that is empty marks its section red and blocks the form."""
    for name, param in PARAMS.items():
        if name in REQUIRED:
            with pytest.raises(ParamValidationError):
                copy.copy(param).resolve()
        else:
            assert copy.copy(param).resolve() == param.value != ""


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"split.clip_seconds": 500}, r"split\.clip_seconds: .*120.*got 500"),
        ({"split.clip_second": 5}, r"no such parameter: split\.clip_second"),
        ({"split": {"clip_seconds": 5}}, r"split\.<field>"),
        ({"name": "No Good"}, r"name: .*got 'No Good'"),
        ({"split.min_seconds": 11.0}, r"min_seconds \(11\.0\) <= clip_seconds \(10\.0\)"),
        ({"source": None}, r"source: is required"),
    ],
)
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ConfigError, match=message):
        config_from_params(REQUIRED | params)


@pytest.mark.parametrize("name", ["split.clip_seconds", "partition_videos", "verify.blind_share", "question.writers"])
def test_limits_hold_on_the_form_already(name):
    bad = {"question.writers": []}.get(name, -1)
    with pytest.raises(ParamValidationError):
        copy.copy(PARAMS[name]).resolve(bad)


def test_parameters_of_a_section_are_adjacent():
    sections = [param.schema.get("section") for param in PARAMS.values()]
    runs = reduce(lambda seen, section: seen if seen[-1] == section else [*seen, section], sections, [None])
    assert len(runs) == len(set(runs))
