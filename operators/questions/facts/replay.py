"""A replay of a video's events in order of time, for the second derivation of answers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from schemas.base import Box, Span
from schemas.facts import EventFact, GoalFact, VideoFacts


class Replay:
    """What one notes who watches the events of a video from its start to its end. Events are named by their ids."""

    def __init__(self, facts: VideoFacts) -> None:
        self.goals: dict[str, GoalFact] = {each.goal_id: each for each in facts.goals}
        self.fact: dict[str, EventFact] = {each.event_id: each for each in facts.events}
        self.causes = {(cause, each.event_id) for each in facts.events for cause in each.causes}
        self.first_seen = {each.entity_id: each.spans[0].start_us for each in facts.entities if each.spans}
        self.starts: list[str] = []
        """Events in the order in which they start."""
        self.ends: list[str] = []
        """Events in the order in which they end."""
        self.hands: list[tuple[str, str, str]] = []
        """All holders of a thing: thing, holder, and the event that shows it, in order of time."""
        self.held_during: dict[str, dict[str, str]] = {}
        """Holder by thing, for each event, of all things that do not change hands from its start to its end."""
        self._tracks = facts.tracks
        self._names = {each.entity_id: each.name for each in facts.entities}
        self._going_on: dict[str, set[str]] = {each: set() for each in self.fact}
        self._over_before: dict[str, list[str]] = {}
        self._run()

    def _run(self) -> None:
        """Go through all starts and ends. An end comes before a start at the same time."""
        marks = [(each.start_us, 1, name) for name, each in self.fact.items()]
        marks += [(each.end_us, 0, name) for name, each in self.fact.items()]
        going_on: dict[str, dict[str, str]] = {}
        holder: dict[str, str] = {}
        for _, is_start, name in sorted(marks):
            event, thing = self.fact[name], str(self.fact[name].object)
            if is_start:
                for other in going_on:
                    self._going_on[name].add(other)
                    self._going_on[other].add(name)
                self._over_before[name] = list(self.ends)
                self.starts.append(name)
                if event.action in ("give", "put", "lose"):
                    if thing not in holder:
                        self.hands.append((thing, event.actor, name))
                    holder.pop(thing, None)
                    for held in going_on.values():
                        held.pop(thing, None)
                going_on[name] = dict(holder)
            else:
                self.ends.append(name)
                self.held_during[name] = going_on.pop(name)
                if event.action in ("take", "give"):
                    holder[thing] = event.actor if event.action == "take" else str(event.recipient)
                    self.hands.append((thing, holder[thing], name))

    def knows(self, names: Iterable[str]) -> bool:
        """Whether there are such entities, events or goals."""
        return all(each in self.fact or each in self._names or each in self.goals for each in names)

    def name(self, entity: str | None) -> str:
        """The name of an entity; empty if there is none."""
        return self._names.get(entity, "") if entity else ""

    def clause(self, event: str) -> str:
        return f"{self._names[self.fact[event].actor]} {self.fact[event].phrase}"

    def place(self, event: str) -> str:
        """The name of the event's place; empty if it is not known."""
        return self.name(self.fact[event].place)

    def going_on_with(self, event: str) -> set[str]:
        """The events that overlap with an event."""
        return self._going_on[event]

    def before(self, event: str) -> list[str]:
        """The events that are over when the event starts, in the order in which they ended."""
        return self._over_before[event]

    def after(self, event: str) -> list[str]:
        """The events that start when the event is over, in order."""
        return [each for each in self.starts if event in self._over_before[each]]

    def where(self, **fields: object) -> list[str]:
        """The events whose fields have these values, in order of start."""
        return [
            each for each in self.starts if all(getattr(self.fact[each], key) == value for key, value in fields.items())
        ]

    def leads_to(self, event: str) -> set[str]:
        """Every event from which causes lead to this one."""
        found: set[str] = set()
        while more := {cause for cause, effect in self.causes if effect in found | {event}} - found:
            found |= more
        return found

    def pictures(self, span: Span) -> Iterator[dict[str, tuple[float, float]]]:
        """The centres of all tracked boxes, at each time in the span at which there is one."""
        near = [each for each in self._tracks if each.times_us[0] < span.end_us and each.times_us[-1] >= span.start_us]
        times = {time for track in near for time in track.times_us if span.start_us <= time < span.end_us}
        for time in sorted(times):
            yield {
                track.entity: _centre(track.boxes[bisect_right(track.times_us, time) - 1])
                for track in near
                if track.times_us[0] <= time <= track.times_us[-1]
            }


def _centre(box: Box) -> tuple[float, float]:
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
