"""The stories of the demo films, one module each."""

from operators.demo.films.script import FilmScript
from operators.demo.films.stories.lost_parcel import lost_parcel
from operators.demo.films.stories.mountain_rally import mountain_rally
from operators.demo.films.stories.robot_gardener import robot_gardener


def film_scripts() -> dict[str, FilmScript]:
    """Every demo film's script by its id, in the order in which they are rendered."""
    scripts = (lost_parcel(), mountain_rally(), robot_gardener())
    return {script.film_id: script for script in scripts}
