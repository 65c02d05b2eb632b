import os
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.base import Model
from schemas.settings import ConfigError, read_fields, set_field, validated


class Inner(Model):
    depth: int = 1


class Outer(Model):
    name: str
    inner: Inner | None = None


def test_a_file_is_utf8_whatever_the_locale_says(tmp_path):
    (tmp_path / "c.yaml").write_bytes("name: Überblick".encode())
    code = "import sys, pathlib, schemas.settings as s; print(ascii(s.read_fields(pathlib.Path(sys.argv[1]))))"
    environ = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "c.yaml")]
    said = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    assert said == "{'name': '\\xdcberblick'}\n"


def test_settings_reach_into_sections():
    values = {"name": "a"}
    set_field(values, "inner.depth=3")
    assert validated(values, Outer) == Outer(name="a", inner=Inner(depth=3))


def test_all_problems_are_named_also_in_a_section_that_may_be_missing():
    with pytest.raises(ConfigError) as raised:
        validated({"inner": {"dept": 3}, "nam": "a"}, Outer)
    text = str(raised.value)
    assert "inner.dept: no such field; did you mean 'depth'?" in text
    assert "nam: no such field; did you mean 'name'?" in text
    assert "name: is required" in text


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
