import os
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.base import Model
from schemas.settings import ConfigError, read_fields, set_field, validate


class Inner(Model):
    depth: int = 1


class Outer(Model):
    name: str
    inner: Inner | None = None
    kinds: tuple[str, ...] = ()


def test_a_file_is_utf8_in_any_locale(tmp_path):
    (tmp_path / "c.yaml").write_bytes("name: Überblick".encode())
    code = "import sys, pathlib, schemas.settings as s; print(ascii(s.read_fields(pathlib.Path(sys.argv[1]))))"
    environ = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "c.yaml")]
    printed = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    assert printed == "{'name': '\\xdcberblick'}\n"


def test_settings_reach_into_sections():
    values = {"name": "a"}
    set_field(values, "inner.depth=3")
    assert validate(values, Outer) == Outer(name="a", inner=Inner(depth=3))


def test_all_problems_are_named_also_in_a_section_that_may_be_missing():
    with pytest.raises(ConfigError) as raised:
        validate({"inner": {"dept": 3}, "nam": "a"}, Outer)
    text = str(raised.value)
    assert "inner.dept: no such field; did you mean 'depth'?" in text
    assert "nam: no such field; did you mean 'name'?" in text
    assert "name: is required" in text


def test_one_value_of_a_list_is_explained():
    with pytest.raises(ConfigError, match=r"kinds: is a list, also with one value; write kinds=\[VALUE\]"):
        validate({"name": "a", "kinds": "open"}, Outer)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("depth", "expected section.field=value"),
        ("name.x=1", "name is a single value, not a section"),
        ("name=[1", "not YAML"),
    ],
)
def test_a_setting_that_is_none_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        set_field({"name": "a"}, setting)


def test_a_file_must_hold_fields(tmp_path: Path):
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="expected fields and values, got list"):
        read_fields(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match="No such file"):
        read_fields(tmp_path / "none.yaml")


def bomb(levels=9, width=9, name="overrides") -> str:
    """YAML that expands exponentially: `a0: &a0 [x, …]`, then lists that each hold `width` aliases of the previous."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"{name}: *a{levels - 1}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "more than 20 aliases"),
        (bomb(name="name").replace("\n", "\r\n"), "more than 20 aliases"),
        ("name: " + "[" * 20_000 + "]" * 20_000, "nested more than 20 deep"),
        ("name: " + "{a: " * 10_000, "nested more than 20 deep"),
        ("- " * 30_000 + "x", "nested more than 20 deep"),
        ("name: " + "x" * 200_000, "200,006 characters are more than"),
        ("depth: " + "9" * 5_000, "not YAML: Exceeds the limit"),
        ("depth: 2001-99-99", "not YAML: month must be in"),
        ("name: 'https://user:PASSWORD@host", "not YAML: found unexpected end of stream at line 1"),
        ("name: \x07", "not YAML: .*(special characters|not allow)"),
        ("? {a: b}\n: c", "not YAML: found unhashable key"),
    ],
)
def test_a_text_that_grows_without_end_is_refused(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as in_file:
        read_fields(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=message.replace("200,006", "200,0..").replace("at line 1", "")) as in_setting:
        set_field({}, "name=" + text)
    for error in (in_file.value, in_setting.value):
        assert len(str(error)) < 500
        assert "PASSWORD" not in str(error)


def test_a_few_aliases_are_what_they_are_for(tmp_path):
    (tmp_path / "c.yaml").write_text("name: &n a\ninner: {depth: 1}\nother: *n\n")
    assert read_fields(tmp_path / "c.yaml") == {"name": "a", "inner": {"depth": 1}, "other": "a"}


@pytest.mark.parametrize(
    "values",
    [
        {"name": int("f" * 20_000, 16)}, {"x" * 100_000: 1}, {"name": ["y" * 1000] * 100_000},
        {"inner": {str(number): 1 for number in range(1000)}},
        {"name": ["https://user:PASSWORD@host/?SECRET"]},
    ],
)  # fmt: skip
def test_a_message_is_short_whatever_the_values_are(values):
    with pytest.raises(ConfigError) as refused:
        validate(values, Outer)
    assert len(str(refused.value)) < 5_000
    assert not any(word in str(refused.value) for word in ("SECRET", "PASSWORD"))


def test_a_deep_value_is_shown_in_few_words():
    deep = []
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(ConfigError) as refused:
        validate({"name": deep}, Outer)
    assert len(str(refused.value)) < 500


def test_a_setting_is_not_nested_without_end():
    with pytest.raises(ConfigError, match="no section is nested so deep"):
        set_field({}, ".".join(["a"] * 10_000) + "=1")
