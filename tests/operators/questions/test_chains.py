"""Chains of thought are written without the answer, refined without additions, and caught where they are defective."""

from collections import Counter, defaultdict

import pytest

from operators.stages.reason import STAGE
from schemas.tables import Check
from tests.support.event_world import EventWorld
from tests.support.planted_chains import DEFECTS, ChainModels, plant_chains
from tests.support.rows import make_source

GOOD = 40
PER_DEFECT = 10


@pytest.fixture(scope="module")
def world():
    return EventWorld(120, seed=3)


@pytest.fixture(scope="module")
def planted(world):
    return plant_chains(world, GOOD, PER_DEFECT)


def run_planted(stages, server, world, planted, **options):
    """Rows and reject reasons by question id."""
    server.script = ChainModels(world, planted=planted, **options)
    rows = stages.run(STAGE, world.captions(), [each.question for each in planted], [], [make_source("film")])
    assert len(rows) + len(stages.rejects) == len(planted)
    return {row.question_id: row for row in rows}, {each.key: each.reason for each in stages.rejects}


def test_defective_chains_are_rejected_and_good_ones_are_kept(stages, server, world, planted):
    rows, reasons = run_planted(stages, server, world, planted)
    found = defaultdict(Counter)
    for each in planted:
        found[each.defect][reasons.get(each.question.question_id, "kept")] += 1
    lost = GOOD - found[""]["kept"]
    assert lost <= 0.05 * GOOD, found[""]
    for defect in DEFECTS:
        assert PER_DEFECT - found[defect]["kept"] >= 0.9 * PER_DEFECT, (defect, found[defect])
    checks = Counter(trial.check for row in rows.values() for trial in row.checks)
    assert checks[Check.CHAIN_READ] == checks[Check.CHAIN_SUPPORT] == len(rows)
    assert checks[Check.CHAIN_SWAPPED] > 0.9 * len(rows)
