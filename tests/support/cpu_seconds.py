"""A pytest plugin that prints the CPU seconds of each test file: `make test ARGS="-p tests.support.cpu_seconds"`.

Unlike durations, they hardly depend on what else the machine does. Processes that a test has started count when they
have ended and been waited for. Those that end with the last test do not count, such as fork servers and the ranks of
the trainer's tests.
"""

import os
from collections import Counter

import pytest

LONGEST_FILES = 40


def cpu_seconds() -> float:
    """User and system CPU seconds of this process and of its ended children."""
    return sum(os.times()[:4])


class CpuSeconds:
    def __init__(self) -> None:
        self.before = cpu_seconds()
        self.by_file: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        report = yield
        now = cpu_seconds()
        report.user_properties.append(("cpu_seconds", now - self.before))
        self.before = now
        return report

    def pytest_runtest_logreport(self, report):
        """Runs where the summary is printed; reports come from the workers of xdist, if there are any."""
        for name, value in report.user_properties[-1:]:
            if name == "cpu_seconds":
                self.by_file[report.nodeid.partition("::")[0]] += value

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section("CPU seconds by file")
        for name, seconds in self.by_file.most_common(LONGEST_FILES):
            terminalreporter.line(f"{seconds:8.1f} {name}")
        terminalreporter.line(f"{self.by_file.total():8.1f} in all")


def pytest_configure(config):
    config.pluginmanager.register(CpuSeconds(), "cpu seconds by file")
