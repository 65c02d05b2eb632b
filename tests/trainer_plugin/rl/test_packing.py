"""Groups of any sizes in rows: each once, within the limit, and what does not fit is named."""

import torch

from tests.support.properties import given, settings, st
from trainer_plugin.rl.packing import pack_groups, shared_tokens
from trainer_plugin.types import IGNORED, Example, PromptGroup


def group_of(number: int, prompt: int, lengths: list[int]) -> PromptGroup:
    ids = torch.arange(prompt)
    example = Example(f"q{number}", ids, torch.full_like(ids, IGNORED), ids[None])
    return PromptGroup(example, tuple(torch.arange(length) for length in lengths))


sizes = st.lists(
    st.tuples(st.integers(1, 60), st.lists(st.integers(0, 30), min_size=1, max_size=6)), min_size=1, max_size=8
)


@settings(deadline=None)
@given(sizes, st.integers(1, 120), st.integers(1, 4))
def test_each_group_is_in_one_row_within_the_limit_or_named(sizes, row_tokens, ranks):
    groups = [group_of(number, *size) for number, size in enumerate(sizes)]
    rounds, unusable = pack_groups(groups, row_tokens, ranks)
    rows = [row for each in rounds for row in each.rows]
    found = [groups[number].key for row in rows for number in row.numbers] + [each.key for each in unusable]
    assert sorted(found) == sorted(group.key for group in groups)
    assert all(len(each.rows) == ranks and each.rows[0].numbers for each in rounds)
    for each in rounds:
        for row in each.rows:
            if not each.chunked:
                assert row.chunk_tokens is None
                assert sum(shared_tokens(groups[number]) for number in row.numbers) <= row_tokens
            elif row.numbers:
                [number] = row.numbers
                group = groups[number]
                assert shared_tokens(group) > row_tokens
                assert len(group.prompt.input_ids) - 1 + row.chunk_tokens == row_tokens
                assert max(map(len, group.responses)) < row.chunk_tokens
    by_key = {group.key: group for group in groups}
    for each in unusable:
        group = by_key[each.key]
        assert len(group.prompt.input_ids) + max(map(len, group.responses)) > row_tokens
        assert each.reason == "too_long"


def test_ranks_have_equally_many_tokens_where_the_groups_allow_it():
    rounds, _ = pack_groups([group_of(number, 10, [9]) for number in range(8)], 1000, 4)
    assert [len(row.numbers) for each in rounds for row in each.rows] == [2, 2, 2, 2]
    assert len(pack_groups([group_of(number, 10, [9]) for number in range(8)], 1000)[0]) == 1


def test_a_rank_without_a_row_has_an_empty_one():
    [[row, empty]] = [each.rows for each in pack_groups([group_of(0, 10, [9])], 100, 2)[0]]
    assert row.numbers == (0,) and empty.numbers == ()


def test_a_prompt_that_is_longer_than_a_row_is_named_with_what_to_do():
    rounds, [bad] = pack_groups([group_of(7, 50, [3, 9])], 40)
    assert rounds == ()
    assert str(bad) == (
        "sample q7: its prompt of 50 tokens and its longest response of 9 do not fit a row of 40; raise row_tokens, or "
        "lower the number of frames or the response length"
    )
