"""Figures of the report: each contains the numbers that it draws."""

from dataclasses import replace

import pytest

from operators.report import figures


def total(figure):
    return sum(int(cell.replace(",", "")) for row in figure.rows for cell in row[1:])


def test_tables_hold_every_row_that_is_drawn(numbers):
    shown = {figure.title: figure for figure in [*figures.sample_figures(numbers), *figures.material_figures(numbers)]}
    for title in ("Samples by category, kind and split", "Evidence spans per sample"):
        assert total(shown[title]) == len(numbers.samples)
    assert total(shown["Options per question"]) == len(numbers.choices)
    assert total(shown["Length of clips in seconds"]) == len(numbers.clip_seconds)
    assert total(shown["Length of videos in minutes"]) == total(shown["Categories of videos"]) == len(numbers.videos)
    assert total(shown["Videos in the release"]) == len(numbers.videos)
    assert total(shown["Pass rate of the target"]) == len(numbers.pass_rates)


def test_the_choice_among_several_pictures_is_described(numbers):
    videos = numbers.videos.assign(other_pictures=[2, *[0] * (len(numbers.videos) - 1)], packaging="both")
    figure = [*figures.material_figures(replace(numbers, videos=videos))][2]
    assert figure.rows[-1] == ("picture and sound encoded", str(len(videos)))
    assert "1 with more than one picture: the release holds the one that was captioned" in figure.text


def test_pass_rates_fall_into_the_tenth_that_they_are(numbers):
    [figure] = [each for each in figures.sample_figures(numbers) if each.title == "Pass rate of the target"]
    tenths = (numbers.pass_rates["pass_rate"] * 10).round().astype(int).value_counts()
    assert [int(row[1]) + int(row[2]) for row in figure.rows] == [int(tenths.get(tenth, 0)) for tenth in range(11)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.44, "0.4 s"), (12.3, "12 s"), (200, "3 min 20 s"), (59.7, "1 min 0 s"), (18_720, "5 h 12 min")],
)
def test_lengths_of_time(value, text):
    assert figures.seconds(value) == text


def test_breakdowns_count_every_question_once(numbers):
    found = {breakdown.by: breakdown for breakdown in figures.breakdowns(numbers)}
    assert list(found) == ["category", "prompt", "model"]
    for breakdown in found.values():
        assert sum(int(row.written) for row in breakdown.rows) == numbers.questions
        assert sum(int(row.samples) for row in breakdown.rows) == len(numbers.samples)
    by_prompt = {row.name: row for row in found["prompt"].rows}
    assert "none (by program)" in by_prompt and "question_goal" in by_prompt


def test_a_breakdown_names_the_most_frequent_reasons_and_counts_the_rest(numbers):
    reasons = ["a_b"] * 4 + ["c"] * 3 + ["d"] * 2 + ["e", "f"]
    outcomes = numbers.outcomes.head(12).assign(category="plot", kept=[False] * 11 + [True], reason=[*reasons, ""])
    [row] = next(figures.breakdowns(replace(numbers, outcomes=outcomes))).rows
    assert row.reasons == (("a b", "4"), ("c", "3"), ("d", "2"))
    assert (row.other_reasons, row.written, row.samples, row.share) == ("2", "12", "1", 1 / 12)
    assert list(figures.breakdowns(replace(numbers, outcomes=numbers.outcomes.head(0)))) == []


def test_chains_are_shown_by_the_way_they_were_written(numbers):
    shown = figures.chain_table(numbers)
    counts = {way: int(count.replace(",", "")) for way, count, _ in shown.written}
    assert counts.pop("changed by the second pass") == numbers.chains["refined"].sum()
    assert sum(counts.values()) == len(numbers.chains)
    assert [check for check, *_ in shown.checks] == [*figures._CHAIN_CHECKS.values()]
    assert figures.chain_table(replace(numbers, chains=numbers.chains.head(0))) is None
