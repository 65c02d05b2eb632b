"""Dense captions of a film by program: what every shot shows, and what happens in it."""

from collections.abc import Collection, Iterator, Sequence

from operators.demo.films.grammar.casting import PREPOSITIONS, Entity
from operators.demo.films.grammar.staging import StagedShot
from operators.demo.films.grammar.world import Event, Goal, World
from operators.demo.films.script import FPS, FRAME_US
from schemas.facts import EntityKind
from schemas.tables import Annotation

_LIGHT = {"day": "by day", "dusk": "at dusk", "night": "at night"}


def captions_of(world: World, staged: Sequence[StagedShot]) -> tuple[Annotation, ...]:
    """One caption for each shot. The first one in which somebody is seen describes them."""
    captions = []
    described: set[str] = set()
    for shot in staged:
        end = shot.start + round(shot.shot.seconds * FPS)
        text = " ".join(_sentences(world, shot, described))
        described |= set(shot.entities.values())
        captions.append(Annotation(start_us=shot.start * FRAME_US, end_us=end * FRAME_US, kind="caption", text=text))
    return tuple(captions)


def _sentences(world: World, shot: StagedShot, described: Collection[str]) -> Iterator[str]:
    scene = shot.shot.scene
    if scene not in world.entities:
        yield f'A dark card reads "{" / ".join(text.text for text in shot.shot.texts)}".'
        return
    place = f"{PREPOSITIONS[scene]} {world.name(scene)} {_LIGHT[shot.shot.light]}"
    shown = {each: world.entities[each] for each in shot.entities.values()}
    beings = [
        entity.name if key in described else _describe(entity)
        for key, entity in shown.items()
        if entity.kind in (EntityKind.PERSON, EntityKind.ANIMAL)
    ]
    things = [each.name for each in shown.values() if each.kind not in (EntityKind.PERSON, EntityKind.ANIMAL)]
    view = "A closer view" if shot.shot.zoom > 1 else "A wide view"
    seen = _listed(beings) if beings else "nobody"
    yield f"{view} {place} shows {seen}."
    if things:
        yield f"{_capital(_listed(things))} can be seen too."
    happenings = [(event.start, _event_sentence(world, event)) for event in shot.events]
    for goal in shot.goals:
        happenings += [(start, _goal_sentence(world, goal)) for start, end in goal.shown if _overlaps(shot, start, end)]
    for _, sentence in sorted(happenings):
        yield sentence
    for text in shot.shot.texts:
        yield f'A text reads "{text.text}".'


def _overlaps(shot: StagedShot, start: int, end: int) -> bool:
    return shot.start <= start and end <= shot.start + round(shot.shot.seconds * FPS)


def _event_sentence(world: World, event: Event) -> str:
    outcome = {True: ", with success", False: ", without success", None: ""}[event.succeeded]
    return f"{_capital(world.name(event.actor))} {event.phrase}{outcome}."


def _goal_sentence(world: World, goal: Goal) -> str:
    pictures = _listed([world.name(each) for each in goal.pictures])
    motive = f", because {goal.motive}" if goal.motive else ""
    bubble = f"A thought bubble over {world.name(goal.actor)} shows {pictures}"
    return f"{bubble}: {world.name(goal.actor)} wants to {goal.aim}{motive}."


def _describe(entity: Entity) -> str:
    return f"{entity.name} (with {entity.appearance})" if entity.appearance else entity.name


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
