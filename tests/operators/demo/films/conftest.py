"""A short script with every kind of transition, and its film, rendered once for all tests of the package."""

import pytest

from operators.demo.films.film import RenderedFilm, render_film
from operators.demo.films.script import (
    Distractor,
    Event,
    FilmScript,
    MovingObject,
    OnScreenText,
    Region,
    Shot,
    Transition,
)
from schemas.tables import VideoCategory


@pytest.fixture(scope="session")
def short_script() -> FilmScript:
    car = MovingObject(name="red car", kind="car", colour="red", path=((0.4, -100, 340), (2.0, 740, 340)))
    return FilmScript(
        film_id="short_film",
        title="A Short Film",
        category=VideoCategory.FILM,
        synopsis="A red car crosses the desert.",
        shots=(
            Shot(
                scene="harbour",
                seconds=2.0,
                texts=(OnScreenText(text="AT THE HARBOUR", start=0.4, end=1.6),),
                distractors=(Distractor(kind="flash", start=1.0, seconds=0.32),),
            ),
            Shot(
                scene="desert",
                seconds=2.4,
                ambience="silence",
                objects=(car,),
                texts=(OnScreenText(text="TAXI STOP", start=0.4, end=1.2, region=Region.TOP_LEFT, style="sign"),),
                events=(Event(name="the red car passes", participants=("red car",), cue="horn"),),
            ),
            Shot(scene="forest", seconds=1.6, enter=Transition(kind="dissolve", seconds=0.8)),
            Shot(scene="kitchen", seconds=1.6, enter=Transition(kind="fade", seconds=0.8), ambience="bright"),
            Shot(scene="street", seconds=1.2),
        ),
    )


@pytest.fixture(scope="session")
def short_film(short_script, tmp_path_factory) -> RenderedFilm:
    return render_film(short_script, tmp_path_factory.mktemp("short"))
