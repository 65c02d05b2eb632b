"""Shortcuts are found where they are planted, and nowhere else."""

from random import Random

import pytest

from operators.report.shortcuts import OVERALL, ChoiceQuestion, choice_questions, has_classifier, measure_shortcuts

NAMES = ("ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow")
CLASSIFIER = pytest.mark.skipif(not has_classifier(), reason="scikit-learn is not installed")


def make_questions(choose, videos=40, each=10):
    """Questions with four options, of which `choose(rng, options, seed)` names the right one."""
    rng = Random(1)
    questions = []
    for video in range(videos):
        for number in range(each):
            options = tuple(rng.sample(NAMES, 4))
            group = "temporal" if number % 2 else "plot"
            right = choose(rng, options)
            questions.append(ChoiceQuestion(f"v{video}", group, "Which tree falls first?", options, right))
    return questions


def accuracy_of(name, questions, group=OVERALL):
    [found] = [each for each in measure_shortcuts(questions) if (each.name, each.group) == (name, group)]
    return found


def test_questions_without_a_pattern_are_answered_as_by_guessing():
    for each in measure_shortcuts(make_questions(lambda rng, options: rng.randrange(4))):
        low, high = each.interval
        assert each.guessing == 0.25
        assert low - 0.02 <= 0.25 <= high + 0.02, each


def test_the_letter_that_is_usually_right_is_found():
    found = accuracy_of("always one letter", make_questions(lambda rng, options: rng.choice((0, 2, 2, 2))))
    assert (found.questions, found.guessing) == (400, 0.25)
    assert found.accuracy == pytest.approx(0.75, abs=0.07)


def test_the_longest_option_counts_in_parts_where_several_are():
    questions = [
        ChoiceQuestion("a", "plot", "Which one?", ("xx", "yy", "z"), 0),
        ChoiceQuestion("b", "goal", "Which one?", ("x", "yyy", "z"), 1),
    ]
    found = {each.group: each for each in measure_shortcuts(questions) if each.name == "longest option"}
    assert {group: (each.right, each.questions) for group, each in found.items()} == {
        "goal": (1.0, 1), "plot": (0.5, 1), "overall": (1.5, 2),
    }  # fmt: skip
    assert found["overall"].guessing == pytest.approx(1 / 3)


def test_an_answer_that_is_usually_right_is_found():
    found = accuracy_of("most frequent answer", make_questions(lambda rng, options: options.index(min(options))))
    assert found.accuracy > 0.8


@CLASSIFIER
def test_a_word_that_gives_the_answer_away_is_found_by_the_classifier():
    """Each tree is right half of the time, and its name alone gives nothing away."""
    rng = Random(2)
    questions = []
    for number in range(400):
        options = tuple(rng.sample(NAMES, 4))
        right = rng.randrange(4)
        text = f"Which of them is at the {'gate' if options[right] < 'hazel' else 'well'}?"
        questions.append(ChoiceQuestion(f"v{number % 40}", "spatial", text, options, right))
    assert accuracy_of("classifier of words", questions).interval[0] > 0.35


def test_a_pattern_within_one_video_is_no_shortcut():
    """In each video another tree is always right. A single question does not give away which."""
    rng = Random(3)
    questions = []
    for video in range(60):
        usual = NAMES[video % len(NAMES)]
        for _ in range(8):
            options = (usual, *rng.sample([name for name in NAMES if name != usual], 3))
            order = tuple(rng.sample(options, 4))
            questions.append(ChoiceQuestion(f"v{video}", "goal", "Which tree is it?", order, order.index(usual)))
    assert accuracy_of("most frequent answer", questions).interval[0] < 0.25


def test_one_video_is_refused():
    with pytest.raises(ValueError, match="choice questions of 1 videos; a rule is fitted to other videos, so give two"):
        measure_shortcuts(make_questions(lambda rng, options: 0, videos=1))


def test_lvr_baselines_prints_a_table_of_a_release(lvr, release):
    status, out, _ = lvr("baselines", release)
    assert status == 0
    head, _, *rows = out.strip().split("\n")
    assert "overall (" in head
    names = [row.split("|")[1].strip() for row in rows]
    assert names[:3] == ["always one letter", "longest option", "most frequent answer"] and names[-1] == "guessing"


def test_lvr_baselines_names_a_release_that_is_none(lvr, tmp_path):
    status, _, err = lvr("baselines", tmp_path)
    assert status == 2 and "manifest" in err


def test_samples_become_choice_questions_in_the_order_of_their_letters(release):
    from schemas.release import open_release, read_table

    files = [file for file in open_release(str(release)).files if file.path.endswith(".parquet")]
    samples = [sample for file in files for sample in read_table(str(release), file)]
    found = choice_questions(samples)
    assert len(found) == sum(sample.kind == "choice" for sample in samples)
    assert all("ABCD"[each.right] in {sample.final_answer for sample in samples} for each in found)
