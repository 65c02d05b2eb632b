"""The trainer does not need the pipeline: a process without it imports all modules and collects all tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import trainer_plugin

ROOT = Path(__file__).parents[2]

ALONE = """
import importlib.util, pkgutil, sys
from importlib.machinery import PathFinder

PIPELINE = 'airflow operators hypothesis moto s3fs scenedetect ffmpeg openai cv2 webdataset datasets'.split()
OPTIONAL = 'torchvision tensorboard wandb peft'.split()

class Poorer(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.split('.')[0] in (*PIPELINE, *OPTIONAL)
        return None if absent else super().find_spec(name, path, target)

sys.meta_path[:] = [Poorer if finder is PathFinder else finder for finder in sys.meta_path]
import trainer_plugin
for module in pkgutil.walk_packages(trainer_plugin.__path__, 'trainer_plugin.'):
    if module.name.startswith('trainer_plugin.ops.triton_') and importlib.util.find_spec('triton') is None:
        continue  # CPU builds of torch come without Triton
    importlib.import_module(module.name)
    print(module.name)
import pytest
sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', 'tests/trainer_plugin']))
"""


def test_the_trainer_imports_and_its_tests_collect_without_the_pipeline():
    ended = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    lines = ended.stdout.splitlines()
    assert {"trainer_plugin.sft", "trainer_plugin.hf_trainer", "trainer_plugin.families.smolvlm"} <= set(lines)
    modules = {line.partition("::")[0] for line in lines if "::" in line}
    assert modules == {str(path.relative_to(ROOT)) for path in (ROOT / "tests/trainer_plugin").rglob("test_*.py")}


def test_the_docstring_of_the_package_names_all_that_is_in_it():
    package = ROOT / "trainer_plugin"
    named = set(re.findall(r"^    ([\w.]+?)/?  ", trainer_plugin.__doc__, re.M)) | {"recipes"}
    assert named == {
        path.name for path in package.iterdir() if not path.name.startswith("__") and path.name != "py.typed"
    }
