"""Makes a film by the story grammar: chapters of quests are tried until they fill the time, then staged as shots."""

import copy
import math
import random
from dataclasses import dataclass
from typing import Literal, NamedTuple

from operators.demo.films.grammar.captions import captions_of
from operators.demo.films.grammar.facts import facts_of
from operators.demo.films.grammar.quests import Quests
from operators.demo.films.grammar.scenario import Scenario
from operators.demo.films.grammar.staging import Stage, StagedShot, card
from operators.demo.films.grammar.world import NoColourLeft, World
from operators.demo.films.scenes import Light
from operators.demo.films.script import FPS, FilmScript, Transition
from schemas.errors import BadInput
from schemas.facts import VideoFacts
from schemas.tables import Annotation, VideoCategory

Texts = Literal["none", "few", "many"]
_LIGHTS: tuple[Light, ...] = ("day", "dusk", "night")
_SHORTEST_MINUTES = 0.5
_TRIALS = 12
"""Chapters that are tried, smaller and smaller, before the film is full."""


class Film(NamedTuple):
    """A film that can be rendered, and the facts about it."""

    script: FilmScript
    facts: VideoFacts
    captions: tuple[Annotation, ...]
    """One dense caption for each shot."""

    @property
    def duration_us(self) -> int:
        """Length in microseconds."""
        return sum(round(shot.seconds * FPS) for shot in self.script.shots) * 1_000_000 // FPS


@dataclass
class _Story:
    world: World
    stage: Stage
    rng: random.Random
    chapters: int = 0


def make_facts(seed: int, minutes: float | tuple[float, float], index: int = 0) -> VideoFacts:
    """The facts about film number `index` of a seed, which is not rendered."""
    return make_film(seed, minutes, index=index).facts


def make_film(seed: int, minutes: float | tuple[float, float], texts: Texts = "none", index: int = 0) -> Film:
    """Film number `index` of a seed, always the same.

    Args:
        minutes: length of the film, or its bounds.
        texts: whether the screen also shows titles (`few`), or titles and what people want (`many`).

    Raises:
        BadInput: the bounds are not in order, or too short for a story.
    """
    low, high = minutes if isinstance(minutes, tuple) else (minutes, minutes)
    if not _SHORTEST_MINUTES <= low <= high < math.inf:
        raise BadInput(f"a film of {low} to {high} minutes cannot be made; give bounds in order, from 0.5 minutes")
    rng = random.Random(f"{seed}/{index}")
    shortest, longest = round(low * 60 * FPS), round(high * 60 * FPS)
    target = rng.randint(shortest, longest)
    world = World(rng)
    story = _Story(world, Stage(world, rng, story_texts=texts == "many"), rng)
    shots: list[StagedShot] = []
    if texts != "none":
        story.stage.show_card(["A STORY"])
    while story.stage.frames < target:
        # Finished shots are kept apart, so that a trial does not copy them.
        finished, story.stage.shots = story.stage.shots, []
        if (longer := _add_chapter(story, longest, texts)) is None:
            story.stage.shots = finished
            break
        shots += finished
        story = longer
    _fill(story, shortest)
    shots += story.stage.shots
    if texts != "none":
        hero = story.world.name(story.world.goals[0].actor)
        shots[0] = shots[0]._replace(shot=card(["A STORY OF", hero.upper()]))
    script = FilmScript(
        film_id=f"story_{seed}_{index:04d}",
        title=_title(story.world),
        category=VideoCategory.FILM,
        synopsis=_synopsis(story.world),
        shots=tuple(each.shot for each in shots),
    )
    return Film(script, facts_of(story.world, shots, script), captions_of(story.world, shots))


def _add_chapter(story: _Story, longest: int, texts: Texts) -> _Story | None:
    """The story with one more chapter that fits into the time, or None if none does."""
    for trial in range(_TRIALS):
        seconds = (longest - story.stage.frames) / FPS
        longer = copy.deepcopy(story)
        longer.rng.seed(f"{story.rng.random()}/{trial}")
        most = 3 if trial < _TRIALS // 3 and seconds > 150 else 2 if trial < _TRIALS // 2 and seconds > 90 else 1
        depth = min(2 if seconds > 120 else 1 if seconds > 50 else 0, (_TRIALS - 1 - trial) // 3)
        try:
            _run_chapter(longer, longer.rng.randint(1, most), longer.rng.randint(min(1, depth), depth), texts,
                         small=trial > _TRIALS // 2 or seconds < 60)  # fmt: skip
        except NoColourLeft:
            continue
        if longer.stage.frames <= longest:
            return longer
    return None


def _run_chapter(story: _Story, count: int, depth: int, texts: Texts, *, small: bool) -> None:
    stage, rng = story.stage, story.rng
    if story.chapters:
        stage.enter = Transition(kind="fade", seconds=1.2)
        stage.light = _LIGHTS[(_LIGHTS.index(stage.light) + 1) % 3]
        if texts != "none":
            stage.show_card([f"CHAPTER {story.chapters + 1}"])
        if rng.random() < 0.4:
            stage.show_montage(rng.sample(story.world.line, min(4, len(story.world.line))))
    story.chapters += 1
    planner = Quests(story.world, rng, depth)
    quests = [planner.plan(small=small) for _ in range(count)]
    current = quests[0]
    while quests:
        if current not in quests or rng.random() < 0.4:
            current = rng.choice(quests)
        if next(current, quests) is quests:
            quests.remove(current)
        if acts := story.world.take_acts():
            stage.stage(acts)


def _fill(story: _Story, shortest: int) -> None:
    """Lengthen the film to the shortest length: people pass the time, and the last shot lasts a little longer."""
    stage = story.stage
    while shortest - stage.frames > 6 * FPS:
        Scenario(story.world, story.rng).pass_time(stage.light == "night")
        stage.stage(story.world.take_acts())
    if (missing := shortest - stage.frames) > 0:
        stage.lengthen(missing)


def _title(world: World) -> str:
    goal = world.goals[0]
    what = [world.name(each).removeprefix("the ") for each in (goal.actor, goal.pictures[0])]
    return "The " + " and the ".join(each.title().replace(" In ", " in ") for each in what)


def _synopsis(world: World) -> str:
    hopes = [f"{world.name(goal.actor)} wants to {goal.aim}" for goal in world.goals[:6]]
    return "; ".join(hopes).capitalize() + "."
