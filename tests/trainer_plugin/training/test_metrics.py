import json
import sys
from types import ModuleType
from typing import Any

import pytest

from schemas.errors import BadInput
from trainer_plugin.training.metrics import MetricsLog, StepMetrics, by_reason, check_loggers


def metrics(step: int, **changes) -> StepMetrics:
    values = {
        "step": step,
        "epoch": 0,
        "loss": 1.5,
        "grad_norm": 2.0,
        "learning_rate": 1e-5,
        "tokens": 1000,
        "supervised_tokens": 10,
        "samples": 2,
        "total_tokens": 1000 * step,
        "seconds": 2.0,
        "data_seconds": 0.5,
        "tokens_per_second": 500.0,
        "tokens_per_second_per_device": 250.0,
        "mfu": 0.421,
        "memory_bytes": 3 << 30,
        "skipped": {"damaged": 2},
    }
    return StepMetrics(**{**values, **changes})


def test_a_line_has_the_main_figures_of_a_step():
    line = metrics(7).line()
    for part in ("step 7", "loss 1.5000", "grad 2.000", "lr 1.00e-05", "500/s", "250/s/device", "mfu 42.1%", "3.0 GiB"):
        assert part in line
    assert "skipped 2" in line
    assert "mfu" not in metrics(7, mfu=None).line()


@pytest.mark.parametrize(
    ("known", "begin", "end"),
    [
        ({"steps": 40, "share_done": 0.175, "seconds_left": 59.4}, "step 7 of 40  loss", "  59 s left"),
        ({"share_done": 0.175, "seconds_left": 60 * 59.4}, "step 7 (18%)  loss", "  59 min left"),
        ({"share_done": 0.175, "seconds_left": 3600 * 30.1}, "step 7 (18%)  loss", "  30 h 06 min left"),
    ],
    ids=["steps", "epochs", "long"],
)
def test_a_line_gives_the_progress_and_the_remaining_time(known, begin, end):
    line = metrics(7, **known).line()
    assert line.startswith(begin) and line.endswith(end)


def test_a_resumed_run_drops_lines_after_its_checkpoint_and_incomplete_ones(tmp_path, caplog):
    first = MetricsLog(tmp_path, {})
    for step in (1, 2, 3):
        first.write(metrics(step))
    first.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(bytes(200) + b"\n")  # as after a crash of the host
        file.write(b'{"step": 4, "los')  # as after a full disk
    second = MetricsLog(tmp_path, {}, step=2)
    second.write(metrics(3, loss=0.5))
    second.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.5), (2, 1.5), (3, 0.5)]
    assert f"{tmp_path}/metrics.jsonl: 2 incomplete lines dropped" in caplog.text


def test_tensorboard_gets_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = MetricsLog(tmp_path, {})
    written.write(metrics(4))
    written.write_scalars(4, {"evaluation/accuracy": 0.5})
    written.close()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(4, 1.5)]
    assert found.Scalars("skipped/damaged")[0].value == 2
    assert [(event.step, event.value) for event in found.Scalars("evaluation/accuracy")] == [(4, 0.5)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_run_without_tensorboard_logs_where_its_metrics_go(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_loggers(None)
    MetricsLog(tmp_path, {}).write(metrics(1))
    assert not (tmp_path / "tensorboard").exists()
    assert "tensorboard is not installed; metrics go to" in caplog.text


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("wandb", r"wandb cannot be imported \(.*\): pip install wandb, or unset wandb_project"),
        (
            "torch.utils.tensorboard",
            r"tensorboard cannot be imported \(.*\): repair the package tensorboard, or uninstall it",
        ),
    ],
)
def test_a_logger_that_cannot_be_imported_is_refused_with_what_to_do(tmp_path, monkeypatch, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadInput, match=message):
        check_loggers("mine")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"metrics cannot be written to .*file/run: .*Not a directory"):
        MetricsLog(tmp_path / "file" / "run", {})


class Wandb(ModuleType):
    """Fake of the used part of the W&B package, which is not installed for tests."""

    class Error(Exception):
        pass

    def __init__(self, fails: str = "") -> None:
        super().__init__("wandb")
        self.fails = fails
        self.begun: list[dict[str, Any]] = []

    def init(self, **options):
        if self.fails:
            raise self.Error(self.fails)
        self.begun.append(options)
        return self


def test_a_folder_is_one_run_of_wandb_whatever_others_are_called(tmp_path, monkeypatch):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for folder in ("a/cot", "b/cot", "a/cot"):
        MetricsLog(tmp_path / folder, {"seed": 0}, wandb_project="mine")
    assert [options["name"] for options in wandb.begun] == ["cot", "cot", "cot"]
    one, other, again = (options["id"] for options in wandb.begun)
    assert one == again != other


def test_wandb_without_a_login_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Wandb(fails="no API key"))
    with pytest.raises(BadInput, match="wandb_project mine: no API key; `wandb login`, or unset wandb_project"):
        MetricsLog(tmp_path, {}, wandb_project="mine")


def test_reasons_are_counted():
    assert by_reason({"a": "damaged", "b": "too long", "c": "damaged"}) == {"damaged": 2, "too long": 1}
