import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUSY = "import time; end = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"
TESTS = f"""
import subprocess, sys

def test_here():
    exec({BUSY.format(seconds=0.3)!r})

def test_in_a_child():
    subprocess.run([sys.executable, "-c", {BUSY.format(seconds=0.3)!r}], check=True)
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_the_summary_counts_the_cpu_of_tests_and_of_their_children(tmp_path, workers):
    (tmp_path / "test_busy.py").write_text(TESTS)
    (tmp_path / "test_idle.py").write_text("import time\n\ndef test_idle(): time.sleep(0.01)\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.cpu_seconds", "-p", "no:cacheprovider", *workers]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    lines = run.stdout.partition("CPU seconds by file")[2].splitlines()[1:4]
    (busy, first), (idle, second), (total, _) = [line.split(maxsplit=1) for line in lines]
    assert (first, second) == ("test_busy.py", "test_idle.py")
    assert float(busy) >= 0.6 > float(idle) and float(total) >= float(busy)
