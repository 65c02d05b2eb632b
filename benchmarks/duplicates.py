"""Time, memory, recall and precision of the checks over a whole dataset.

    python -m benchmarks.duplicates [--questions 150000] [--videos 18000] [--listed 20000] [--seed 0]

Questions are drawn from patterns over a vocabulary, so that many share a pattern and an answer without being the same.
One in fifty repeats a question about another video: with the same words, with others for a few of them, or with its
options in another order.
"""

from __future__ import annotations

import argparse
import random
import resource
import time

from operators.curation.balance import find_longest_surplus
from operators.curation.contamination import ListedQuestions
from operators.curation.duplicates import find_duplicates
from operators.curation.evaluation_lists import ListedItem
from schemas.provenance import Provenance
from schemas.tables import Question, QuestionCategory, QuestionKind

VOCABULARY = {
    "person": "woman man chef guide girl boy driver teacher referee singer farmer nurse pilot dog keeper captain",
    "where": "kitchen garden workshop harbour station stadium market school forest office stable church hall ship",
    "does": "opens closes lifts drops paints repairs washes carries hides finds throws breaks counts measures sells",
    "what": "door box letter lamp rope bottle net basket wheel painting map radio violin bucket sign engine coat",
    "when": "bell siren rain storm film race dinner concert",
}
PATTERNS = (
    "What does the {person} in the {where} do right after the {when} ends?",
    "Why does the {person} go back to the {where} before the {when} ends?",
    "Which object does the {person} {does} in the {where} when the {when} ends?",
    "What happens in the {where} after the {person} {does} the {what} and before the {when} ends?",
    "How many times does the {person} {does} the {what} before the {when} ends?",
    "Where is the {what} when the {when} ends for the last time?",
    "What does the person do at the end?",
)
REWORDED = (("right after", "directly after"), ("in the", "inside the"), ("Why does", "For what reason does"))


def main() -> None:
    """Measure, and print a line for each check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("questions", 150_000), ("videos", 18_000), ("listed", 20_000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    questions, planted = make_questions(draw, options.questions, options.videos)
    group_of = {question.video_id: int(question.video_id[1:]) for question in questions}
    print(f"{len(questions):,} questions of {options.videos:,} videos, {len(planted):,} planted duplicates")
    before, started = _peak_mb(), time.process_time()
    found = find_duplicates(questions, group_of, 0.8)
    seconds = time.process_time() - started
    print(f"duplicates: {seconds:.1f} s, {_peak_mb() - before:.0f} MB, {len(found):,} found")
    for kind in sorted(set(planted.values())):
        own = [name for name, each in planted.items() if each == kind]
        print(f"  {kind}: {sum(name in found for name in own):,} of {len(own):,} planted ones")
    by_id = {question.question_id: question for question in questions}
    others = [(by_id[name], duplicate.kept) for name, duplicate in found.items() if name not in planted]
    same = sum(one.question == kept.question and one.answer == kept.answer for one, kept in others)
    print(f"  not planted: {len(others):,}, of which {same:,} have the same question and answer by accident")
    listed = [ListedItem(f"list, line {n}", frozenset(), _listed_text(draw)) for n in range(options.listed)]
    started = time.process_time()
    lists = ListedQuestions(listed, 0.5)
    hits = sum(lists.find(question.question) is not None for question in questions)
    print(f"contamination: {time.process_time() - started:.1f} s, {hits:,} hits in {options.listed:,} listed questions")
    started = time.process_time()
    surplus = len(find_longest_surplus(questions))
    print(f"longest option: {time.process_time() - started:.1f} s, {surplus:,} to drop")


def make_questions(draw: random.Random, count: int, videos: int) -> tuple[list[Question], dict[str, str]]:
    """Questions in random order, and the kind of each planted duplicate by its id."""
    questions: list[Question] = []
    planted: dict[str, str] = {}
    for number in range(count):
        kind = QuestionKind.CHOICE if draw.random() < 52 / 124 else QuestionKind.OPEN
        text = _text(draw)
        answers = [_answer(draw) for _ in range(4 if kind is QuestionKind.CHOICE else 1)]
        video, name = f"v{draw.randrange(videos)}", f"q{number}"
        if questions and draw.random() < 0.02:
            original = draw.choice(questions)
            kind, text, answers = original.kind, original.question, [*(original.options or [original.answer])]
            answers = [original.answer, *(each for each in answers if each != original.answer)]
            planted[name] = draw.choice(["same words", "reworded", "options in another order"])
            if planted[name] == "reworded":
                reworded = next((pair for pair in REWORDED if pair[0] in text), ("the", "a"))
                text = text.replace(*reworded)
        options = tuple(draw.sample(answers, len(answers))) if kind is QuestionKind.CHOICE else ()
        questions.append(_question(name, video, kind, text, options, answers[0]))
    return questions, planted


def _text(draw: random.Random) -> str:
    return draw.choice(PATTERNS).format_map(_draw_words(draw))


def _draw_words(draw: random.Random) -> dict[str, str]:
    return {name: draw.choice(choices.split()) for name, choices in VOCABULARY.items()}


def _listed_text(draw: random.Random) -> str:
    """A question that one in a hundred times may be in the dataset, too. Otherwise its words are in another order."""
    text = _text(draw)
    return text if draw.random() < 0.01 else " ".join(draw.sample(text.split(), len(text.split())))


def _answer(draw: random.Random) -> str:
    return "the {person} {does} the {what} in the {where}".format_map(_draw_words(draw))


def _question(name: str, video: str, kind: QuestionKind, text: str, options: tuple[str, ...], answer: str) -> Question:
    return Question(
        question_id=name, video_id=video, category=QuestionCategory.PLOT, kind=kind, writer="model", question=text,
        options=options, answer=answer, evidence=(), derivation=None, provenance=Provenance(model="m"),
    )  # fmt: skip


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
