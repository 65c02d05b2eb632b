"""Declarations of stages: the inputs that do not fit the function are errors."""

from dataclasses import replace

import pytest

from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES, stage
from operators.execution.stage import SOURCE, Stage
from schemas.tables import Clip


def run(context, videos, clips):
    yield from clips


def declare(reads, source_columns=()):
    return Stage(
        name="tempo",
        version=1,
        row=Clip,
        reads=reads,
        source_columns=source_columns,
        run=run,
        section=lambda config: None,
    )


def test_stage_reads_the_tables_of_its_inputs_in_order():
    found = declare({"clips": "split", "videos": "ingest"})
    assert (found.tables, found.reads_source, found.first_input) == (("split", "ingest"), False, "split")
    found = declare({"videos": SOURCE, "clips": "split"}, ("uri",))
    assert (found.tables, found.reads_source, found.first_input) == (("split",), True, SOURCE)


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ({"videos": "ingest"}, "stage tempo: `run` has a parameter 'clips', .*; add it to `reads`"),
        (
            {"videos": "ingest", "clips": "split", "captions": "caption"},
            "rows of 'caption' to 'captions', but `run` .*",
        ),
        ({}, "stage tempo: `run` has a parameter 'videos'"),
        ({"videos": SOURCE, "clips": "split"}, "`source_columns` disagree .* give both or neither"),
    ],
)
def test_stage_refuses_inputs_that_its_function_does_not_take(reads, message):
    with pytest.raises(TypeError, match=message):
        declare(reads)


def test_stage_refuses_columns_of_a_source_that_it_does_not_read():
    with pytest.raises(TypeError, match="stage tempo: `reads` and `source_columns` disagree"):
        declare({"videos": "ingest", "clips": "split"}, ("uri",))


@pytest.mark.parametrize("name", [*VIDEO_STAGES, *BUILD_STAGES])
def test_stage_reads_only_stages_that_run_before_it(name):
    earlier = [*VIDEO_STAGES, *BUILD_STAGES][: [*VIDEO_STAGES, *BUILD_STAGES].index(name)]
    assert set(stage(name).tables) <= set(earlier)
    assert replace(stage(name)) == stage(name)
