"""What the trainer needs: one process without the pipeline imports all of it, then collects its tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ALONE = """
import importlib, pkgutil, sys
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
    importlib.import_module(module.name)
    print(module.name)
import pytest
sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', 'tests/trainer_plugin']))
"""


@pytest.fixture(scope="module")
def alone() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


def test_every_module_is_imported_without_airflow_the_pipeline_torchvision_and_what_is_optional(alone):
    found = set(alone.stdout.split())
    assert {"trainer_plugin.sft", "trainer_plugin.trainer", "trainer_plugin.families.smolvlm"} <= found, alone.stderr


def test_the_trainers_tests_collect_with_its_requirements_and_pytest_alone(alone):
    assert alone.returncode == 0, alone.stdout[-3000:] + alone.stderr[-3000:]
    modules = {line.partition("::")[0] for line in alone.stdout.splitlines() if "::" in line}
    assert modules == {str(path.relative_to(ROOT)) for path in (ROOT / "tests/trainer_plugin").rglob("test_*.py")}
