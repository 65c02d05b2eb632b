"""A replay of a video's events in order of time, for the second derivation of answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from schemas.facts import VideoFacts


class Replay:
    """What one notes who watches the events of a video from its start to its end. Events are named by their ids."""

    def __init__(self, facts: VideoFacts) -> None:
        self.facts = facts
        self.goals = facts.goals
        self._events = {each.event_id: each for each in facts.events}
        self._names = {each.entity_id: each.name for each in facts.entities}
        self._goals = {each.goal_id: each for each in facts.goals}
        self.causes = {(cause, each.event_id) for each in facts.events for cause in each.causes}
        self.starts: list[str] = []
        """Events in the order in which they start."""
        self.ends: list[str] = []
        """Events in the order in which they end."""
        self._overlapping: dict[str, set[str]] = {each: set() for each in self._events}
        self._seen_before: dict[str, list[str]] = {}
        self._run()

    def _run(self) -> None:
        """Go through all starts and ends. An end comes before a start at the same time."""
        marks = [(each.start_us, 1, name) for name, each in self._events.items()]
        marks += [(each.end_us, 0, name) for name, each in self._events.items()]
        going_on: set[str] = set()
        for _, is_start, name in sorted(marks):
            if not is_start:
                going_on.discard(name)
                self.ends.append(name)
                continue
            for other in going_on:
                self._overlapping[name].add(other)
                self._overlapping[other].add(name)
            going_on.add(name)
            self._seen_before[name] = list(self.ends)
            self.starts.append(name)

    def knows(self, names: Iterable[str]) -> bool:
        """Whether there are such entities, events or goals."""
        return all(each in self._events or each in self._names or each in self._goals for each in names)

    def name(self, entity: str) -> str:
        return self._names[entity]

    def clause(self, event: str) -> str:
        """The event as a clause."""
        return f"{self._names[self._events[event].actor]} {self._events[event].phrase}"

    def phrase(self, event: str) -> str:
        return self._events[event].phrase

    def actor(self, event: str) -> str:
        return self._events[event].actor

    def object(self, event: str) -> str | None:
        return self._events[event].object

    def place_of(self, event: str) -> Iterator[str]:
        """The name of the event's place, if it is known."""
        place = self._events[event].place
        if place is not None:
            yield self._names[place]

    def going_on_with(self, event: str) -> set[str]:
        """The events that overlap with an event."""
        return self._overlapping[event]

    def ends_before_start_of(self, event: str) -> list[str]:
        """The events that are over when the event starts, in the order in which they ended."""
        return self._seen_before[event]

    def starts_after_end_of(self, event: str) -> list[str]:
        """The events that start when the event is over, in order."""
        return [each for each in self.starts if event in self._seen_before[each]]

    def aim(self, goal: str) -> str:
        return self._goals[goal].aim

    def wanted_by(self, goal: str) -> str:
        return self._goals[goal].actor
