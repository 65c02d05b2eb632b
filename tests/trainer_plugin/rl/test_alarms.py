"""Alarms: each one's sign, how long it must last, what ends it, and that a resume continues it."""

import json
from itertools import groupby

import pytest
from pydantic import ValidationError

from tests.support.properties import given, st
from tests.trainer_plugin.rl.rollouts import make_row
from tests.trainer_plugin.rl.test_metrics import group, metrics_of
from trainer_plugin.rl.alarms import Alarms, AlarmSettings, TrainingAlarm
from trainer_plugin.rl.metrics import GrpoMetrics
from trainer_plugin.rl.rollout_table import RolloutStatus

DROPPED = {"status": RolloutStatus.NO_SIGNAL}
GOOD = {"rows": group("q", 0.0, 1.0)}
BAD = {
    "mismatch": {"rows": group("q", 0.0, 1.0), "mismatch": {"k3": 5.24}},
    "entropy": {"rows": group("q", 0.0, 1.0, log_prob=-0.001)},
    "no signal": {"rows": group("q", 1.0, 1.0, **DROPPED) + group("r", 0.0, 0.0, **DROPPED)},
}
LAST = {"mismatch": 3, "entropy": 5, "no signal": 5}
OFF = {"mismatch": "mismatch_k3", "entropy": "entropy", "no signal": "no_signal_steps"}


def step(number: int, rows, **changes) -> GrpoMetrics:
    return metrics_of(rows, step=number, **changes)


def find_alarm(alarms: Alarms, kinds: list[dict], first: int = 1) -> int | None:
    """The step in which an alarm is raised; None if there is none."""
    for number, kind in enumerate(kinds, first):
        try:
            alarms.check(step(number, **kind))
        except TrainingAlarm:
            return number
    return None


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "mismatch",
            ["alarm mismatch: the engine's log-probabilities differ", "above alarms.mismatch_k3 0.01, for 3 steps "
             "(step 1: k3 5.24; step 2: k3 5.24; step 3: k3 5.24); check that both get the same frames"],
        ),
        (
            "entropy",
            ["alarm entropy: the entropy has collapsed: it is below 0.01 nats per token, the higher of alarms.entropy "
             "0.01 and of alarms.entropy_share 0.1 of the 0.001 nats of the first steps, and fewer than 80%",
             "step 5: 0.001 nats with 0% of the groups all right); resume from an earlier checkpoint"],
        ),
        (
            "no signal",
            ["alarm no signal: no group counts in the loss, for 5 steps (step 1: 2 groups: 1 all right, 1 all wrong, "
             "0% of the responses truncated, 0% failed; step 2", "lower prompts.max_pass_rate"],
        ),
    ],
)  # fmt: skip
def test_an_alarm_gives_its_values_and_what_to_do(name, parts):
    alarms = Alarms(AlarmSettings())
    for number in range(1, LAST[name]):
        alarms.check(step(number, **BAD[name]))
    with pytest.raises(TrainingAlarm) as raised:
        alarms.check(step(LAST[name], **BAD[name]))
    for part in [*parts, "; null switches it off"]:
        assert part in str(raised.value)


@given(
    name=st.sampled_from(sorted(BAD)),
    signs=st.lists(st.booleans(), max_size=12),
    limit=st.integers(1, 4),
    cut=st.integers(0, 12),
)
def test_an_alarm_is_raised_after_its_number_of_steps_on_end_also_across_a_resume(name, signs, limit, cut):
    settings = AlarmSettings(mismatch_steps=limit, entropy_steps=limit, no_signal_steps=limit)
    kinds = [BAD[name] if sign else GOOD for sign in signs]
    expected, done = None, 0
    for sign, run in groupby(signs):
        length = len(list(run))
        if sign and length >= limit and expected is None:
            expected = done + limit
        done += length
    first = Alarms(settings)
    found = find_alarm(first, kinds[:cut])
    if found is None:
        second = Alarms(settings)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        found = find_alarm(second, kinds[cut:], min(cut, len(kinds)) + 1)
    assert found == expected


@pytest.mark.parametrize("name", BAD)
def test_each_alarm_can_be_switched_off(name):
    assert find_alarm(Alarms(AlarmSettings()), [BAD[name]] * 20) == LAST[name]
    assert find_alarm(Alarms(AlarmSettings(**{OFF[name]: None})), [BAD[name]] * 20) is None


def test_steps_without_an_update_change_nothing_in_the_alarm_of_the_mismatch():
    kinds = [BAD["mismatch"], {"rows": group("q", 1.0, **DROPPED), "mismatch": {}}]
    assert find_alarm(Alarms(AlarmSettings(no_signal_steps=None)), kinds * 3) == 5


def test_a_solved_run_has_no_alarm_of_entropy():
    def certain(right: int) -> dict:
        rows = [make_row(0, f"q{number}", accuracy=float(number < right), log_prob=-0.001) for number in range(10)]
        return {"rows": rows}

    assert find_alarm(Alarms(AlarmSettings()), [certain(8)] * 20) is None
    assert find_alarm(Alarms(AlarmSettings()), [certain(7)] * 20) == 5


def with_entropies(*values: float) -> list[dict]:
    return [{"rows": group("q", 0.0, 1.0, log_prob=-value)} for value in values]


def test_the_entropy_is_compared_with_that_of_the_first_steps():
    first = with_entropies(0.2, 0.4, 0.3, 0.3, 0.3)  # a tenth of their mean is 0.03
    assert find_alarm(Alarms(AlarmSettings()), first + with_entropies(*[0.031] * 20)) is None
    assert find_alarm(Alarms(AlarmSettings()), first + with_entropies(*[0.029] * 20)) == 10
    assert find_alarm(Alarms(AlarmSettings(entropy_share=0)), first + with_entropies(*[0.029] * 20)) is None
    alarms = Alarms(AlarmSettings())
    assert find_alarm(alarms, first) is None
    with pytest.raises(TrainingAlarm, match=r"below 0\.03 nats .* alarms.entropy_share 0\.1 of the 0\.3 nats of the"):
        for number, kind in enumerate(with_entropies(*[0.029] * 5), 6):
            alarms.check(step(number, **kind))


@pytest.mark.parametrize("cut", [2, 5, 8])
def test_a_resumed_run_keeps_the_entropy_of_its_first_steps(cut):
    kinds = with_entropies(0.2, 0.4, 0.3, 0.3, 0.3, *[0.029] * 5)
    first, second = Alarms(AlarmSettings()), Alarms(AlarmSettings())
    assert find_alarm(first, kinds[:cut]) is None
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert find_alarm(second, kinds[cut:], cut + 1) == 10


def test_the_state_is_bounded_by_the_steps_of_the_alarm():
    alarms = Alarms(AlarmSettings(mismatch_steps=3))
    assert find_alarm(alarms, [BAD["mismatch"]] * 3) == 3
    assert len(alarms.state_dict()["mismatch"]) == 3


@pytest.mark.parametrize(
    "setting", [{"mismatch_k3": 0}, {"entropy": -1.0}, {"entropy_share": 2}, {"no_signal_steps": 0}, {"solved": 1.5}]
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        AlarmSettings(**setting)
