"""How far questions from facts are answered without the video, over many films that are simulated and not rendered.

    python -m benchmarks.shortcuts --films 200 --minutes 3 5

Prints two tables in Markdown, by category and by template, see `operators.report.shortcuts`. A rule that is well above
guessing shows that the questions follow a pattern.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from random import Random

from operators.commands.baselines import format_table
from operators.demo.films.grammar import make_film
from operators.questions.facts.derive import derive
from operators.report.shortcuts import ChoiceQuestion, measure_shortcuts
from schemas.tables import QuestionKind


def questions_of(seed: int, minutes: tuple[float, float], per_template: int) -> list[tuple[str, ChoiceQuestion]]:
    """The choice questions about one film, each with its template."""
    film = make_film(seed, minutes)
    found = derive(film.facts, film.duration_us, [QuestionKind.CHOICE], per_template, Random(seed))
    return [
        (
            each.template,
            ChoiceQuestion(str(seed), each.category, each.question, each.options, each.options.index(each.answer)),
        )
        for each in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, nargs=2, default=(3.0, 5.0))
    parser.add_argument("--per-template", type=int, default=2)
    arguments = parser.parse_args()
    work = partial(questions_of, minutes=tuple(arguments.minutes), per_template=arguments.per_template)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.films)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = [each for film in pool.map(work, seeds) for each in film]
    print(f"{len(found)} choice questions about {arguments.films} films\n")
    print(format_table(measure_shortcuts([question for _, question in found])))
    by_template = measure_shortcuts([replace(question, group=template) for template, question in found])
    rules = list(dict.fromkeys(each.name for each in by_template))
    print(f"\n| template | questions | {' | '.join(rules)} |\n|{'---|' * (len(rules) + 2)}")
    for group in dict.fromkeys(each.group for each in by_template):
        row = {each.name: each for each in by_template if each.group == group}
        figures = " | ".join(f"{100 * row[rule].accuracy:.1f}" for rule in rules)
        print(f"| {group} | {next(iter(row.values())).questions} | {figures} |")


if __name__ == "__main__":
    main()
