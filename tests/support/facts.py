"""Facts about a made-up film, for tests: two people, a dog, a key and a letter, in two places."""

from typing import Any

SECOND = 1_000_000


def facts_values() -> dict[str, Any]:
    """A new tree of JSON values that fits `schemas.facts.VideoFacts`, for tests to change."""

    def entity(name: str, kind: str, called: str, *spans: tuple[int, int]) -> dict[str, Any]:
        seen = [{"start_us": start * SECOND, "end_us": end * SECOND} for start, end in spans]
        return {"entity_id": name, "kind": kind, "name": called, "spans": seen}

    def event(name: str, start: int, end: int, actor: str, action: str, phrase: str, **fields: Any) -> dict[str, Any]:
        named = {"event_id": name, "actor": actor, "action": action, "phrase": phrase}
        return {"start_us": start * SECOND, "end_us": end * SECOND, **named, **fields}

    return {
        "entities": [
            entity("anna", "person", "the woman with the green bag", (0, 40), (60, 100)),
            entity("ben", "person", "the man in the red coat", (20, 100)),
            entity("dog", "animal", "the brown dog"),
            entity("key", "thing", "the brass key", (5, 80)),
            entity("letter", "thing", "the blue letter"),
            entity("bakery", "place", "the bakery"),
            entity("harbour", "place", "the harbour"),
        ],
        "events": [
            event("find", 5, 8, "anna", "take", "picks up the brass key", object="key", place="harbour"),
            event("bark", 12, 14, "dog", "bark", "barks at the waves", place="harbour"),
            event("hand", 25, 30, "anna", "give", "gives the brass key to the man in the red coat", object="key",
                  recipient="ben", place="bakery", causes=["find"], goal="help"),
            event("unlock", 62, 66, "ben", "open", "unlocks the bakery", object="bakery", causes=["hand"],
                  goal="enter", succeeded=True),
            event("leave", 75, 78, "ben", "put", "lays the brass key on the counter", object="key", place="bakery"),
        ],
        "goals": [
            {"goal_id": "enter", "actor": "ben", "aim": "get into the bakery", "motive": "the bread is burning",
             "shown": [{"start_us": 20 * SECOND, "end_us": 24 * SECOND}], "reached": True},
            {"goal_id": "help", "actor": "anna", "aim": "help the man in the red coat"},
        ],
        "tracks": [
            {"entity": "key", "times_us": [5 * SECOND, 6 * SECOND],
             "boxes": [{"x0": 0.1, "y0": 0.5, "x1": 0.2, "y1": 0.6}, {"x0": 0.2, "y0": 0.5, "x1": 0.3, "y1": 0.6}]},
        ],
        "complete": True,
    }  # fmt: skip
