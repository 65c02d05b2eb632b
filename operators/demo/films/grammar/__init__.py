"""A story grammar: films without end, each with all facts about it.

    film = make_film(seed=1, minutes=(3, 5))
    film.facts

A plot changes a small world by its rules (`world`, `plot`), and what happened is then staged as shots (`staging`). So
the facts are right by construction. Nothing here renders: `operators.demo.films.film` draws the scripts.
"""

from operators.demo.films.grammar.film import Film, Texts, make_facts, make_film

__all__ = ["Film", "Texts", "make_facts", "make_film"]
