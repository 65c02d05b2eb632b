"""The gates find planted defects, and lose few good questions. `benchmarks/gates.py` has the figures of more worlds."""

import pytest

from benchmarks.gates import score_gates
from tests.support.planted_defects import DEFECTS


def test_every_planted_defect_is_found_by_models_that_do_not_err(tmp_path, pool):
    score = score_gates(tmp_path, pool, seeds=[3], clips=80, slips=0.0, per_defect=1)
    assert score.missed == []
    assert score.planted.keys() == DEFECTS.keys()
    assert score.loss <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("slips", "recall", "precision", "loss"), [(0.0, 0.95, 0.95, 0.03), (0.1, 0.9, 0.9, 0.08)])
def test_rates_over_eight_worlds(tmp_path, pool, slips, recall, precision, loss):
    score = score_gates(tmp_path, pool, seeds=range(8), clips=120, slips=slips, per_defect=2)
    assert (score.recall >= recall, score.precision >= precision, score.loss <= loss) == (True, True, True)
    assert all(score.caught[name] >= 0.8 * score.planted[name] for name in DEFECTS)
