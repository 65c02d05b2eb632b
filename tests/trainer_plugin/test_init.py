import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

ALONE = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder

class Poorer(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split('.')[0] in ('airflow', 'operators'):
            raise ModuleNotFoundError(name)
        if name.split('.')[0] in ('torchvision', 'tensorboard', 'wandb', 'peft'):
            return None
        return super().find_spec(name, path, target)

sys.meta_path[:] = [Poorer if finder is PathFinder else finder for finder in sys.meta_path]
import trainer_plugin
for module in pkgutil.walk_packages(trainer_plugin.__path__, 'trainer_plugin.'):
    importlib.import_module(module.name)
    print(module.name)
"""


def test_every_module_is_imported_without_airflow_the_pipeline_torchvision_and_what_is_optional():
    ended = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert {"trainer_plugin.sft", "trainer_plugin.trainer", "trainer_plugin.families.smolvlm"} <= set(
        ended.stdout.split()
    )


COLLECT = """
import sys
from importlib.machinery import PathFinder

class WithoutThePipeline(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = 'airflow operators hypothesis moto s3fs scenedetect ffmpeg openai cv2 webdataset datasets'.split()
        return None if name.split('.')[0] in absent else super().find_spec(name, path, target)

sys.meta_path[:] = [WithoutThePipeline if finder is PathFinder else finder for finder in sys.meta_path]
import pytest
sys.exit(pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', 'tests/trainer_plugin']))
"""


def test_the_trainers_tests_collect_with_its_requirements_and_pytest_alone():
    ended = subprocess.run(
        [sys.executable, "-c", COLLECT],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    modules = {line.partition("::")[0] for line in ended.stdout.splitlines() if "::" in line}
    assert modules == {str(path.relative_to(ROOT)) for path in (ROOT / "tests/trainer_plugin").rglob("test_*.py")}
