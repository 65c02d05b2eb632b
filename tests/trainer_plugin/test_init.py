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
