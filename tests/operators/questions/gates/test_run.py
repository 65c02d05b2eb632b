"""The gates find planted defects, each for its own reason, and lose few good questions.

`benchmarks/gates.py` has the figures of more worlds.
"""

import pytest

from benchmarks.gates import score_gates
from tests.support.planted_defects import DEFECTS, REPAIRED

REASONS = {
    "wrong answer": {"not_grounded"},
    "wrong open answer": {"not_grounded"},
    "answerable blind": {"answerable_blind"},
    "60 % answerable blind": {"answerable_blind"},
    "same words": {"near_duplicate"},
    "paraphrased duplicate": {"near_duplicate"},
    "evidence outside": {"evidence_outside"},
    "irrelevant evidence": {"not_grounded"},
    "two right options": {"not_grounded"},
    "three options": {"bad_options"},
    "speaks of its material": {"meta_talk"},
    "instruction": {"injection"},
    "right option is longest": {"longest_answer"},
    "all or none of the above": {"meta_talk"},
    "whole video as evidence": {"evidence_too_wide"},
    "wrong over the whole video": {"not_unique"},
    "yes or no": {"yes_or_no"},
    "refusal": {"refused_text"},
    "one moment by its time": {"names_one_moment"},
    "invented by the captioner": {"not_visible"},
    "cut off": {"cut_text"},
}
"""The reason for which each defect is to be rejected. A defect that another gate finds at random is not found."""


def test_every_planted_defect_is_found_for_its_reason_by_models_that_do_not_err(tmp_path, pool):
    score = score_gates(tmp_path, pool, seeds=[3, 4], clips=80, slips=0.0, per_defect=1)
    assert score.missed == []
    assert score.planted.keys() == DEFECTS.keys() == REASONS.keys() | REPAIRED
    assert {name: reasons for name, reasons in score.reasons.items() if name not in REPAIRED} == REASONS
    assert score.loss <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("slips", "recall", "precision", "loss"), [(0.0, 0.95, 0.95, 0.03), (0.1, 0.9, 0.9, 0.08)])
def test_rates_over_eight_worlds(tmp_path, pool, slips, recall, precision, loss):
    score = score_gates(tmp_path, pool, seeds=range(8), clips=120, slips=slips, per_defect=2)
    assert (score.recall >= recall, score.precision >= precision, score.loss <= loss) == (True, True, True)
    assert all(score.caught[name] >= 0.8 * score.planted[name] for name in DEFECTS)
