"""Questions about the outcome of goals: which attempt succeeds, how many it takes, what is reached and what is not."""

from __future__ import annotations

from operators.questions.facts.index import FactIndex, are_clear
from operators.questions.facts.subjects import each_goal
from operators.questions.facts.template import BOTH, ONLY_CHOICE, ONLY_OPEN, Statement, template
from operators.questions.facts.templates.goal import goal_evidence, has_own_aim, show_goal
from operators.questions.facts.wording import narrate, seen_at, spans_of
from schemas.facts import EventFact, GoalFact
from schemas.tables import QuestionCategory

GOAL = QuestionCategory.GOAL


@template(
    "facts_success",
    GOAL,
    each_goal,
    "{Person} wants to {aim}. Which attempt works?",
    "What does {person} do in order to {aim} that succeeds?",
    "Of the things that {person} tries in order to {aim}, which one works?",
)
def success(index: FactIndex, goal_id: str) -> Statement | None:
    return _attempt(index, index.goals[goal_id], succeeded=True)


@template(
    "facts_failure",
    GOAL,
    each_goal,
    "{Person} wants to {aim}. Which attempt fails?",
    "What does {person} do in order to {aim} without success?",
    "Of the things that {person} tries in order to {aim}, which one does not work?",
)
def failure(index: FactIndex, goal_id: str) -> Statement | None:
    return _attempt(index, index.goals[goal_id], succeeded=False)


def _attempt(index: FactIndex, goal: GoalFact, *, succeeded: bool) -> Statement | None:
    """The only attempt of the goal's actor with this outcome, if there are others with the opposite one."""
    own = [each for each in attempts_for(index, goal) if each.actor == goal.actor]
    found = [each for each in own if each.succeeded is succeeded]
    if not index.complete or len(found) != 1 or len(own) < 2 or not has_own_aim(index, goal):
        return None
    if any(each.event_id not in index.unique_ids for each in own) or not are_clear(own):
        return None
    event, name = found[0], index.name(goal.actor)
    others = [
        each.phrase
        for each in index.events
        if each.succeeded is not None and each.phrase != event.phrase and (each in own or each.actor != goal.actor)
    ]
    works = "works" if succeeded else "does not work"
    return Statement(
        fields={"person": name, "aim": goal.aim},
        answer=event.phrase,
        wrong=tuple(dict.fromkeys(others)),
        evidence=spans_of(own),
        chain=(
            (
                f"I go through what {name} tries in order to {goal.aim}.",
                f"I watch each attempt of {name} to {goal.aim}.",
            ),
            *_narrate_attempts(index, own),
            (
                f"So the attempt that {works} is this: {name} {event.phrase}.",
                f"So the one that {works} is that {name} {event.phrase}.",
            ),
        ),
    )


@template(
    "facts_attempts",
    GOAL,
    each_goal,
    "How many attempts does {person} make in order to {aim}?",
    "How many times does {person} try to {aim}, whether it works or not?",
)
def attempts(index: FactIndex, goal_id: str) -> Statement | None:
    goal = index.goals[goal_id]
    all_attempts = attempts_for(index, goal)
    if not index.complete or len(all_attempts) < 2 or not are_clear(all_attempts) or not has_own_aim(index, goal):
        return None
    if any(each.actor != goal.actor for each in all_attempts):
        return None
    name, number = index.name(goal.actor), str(len(all_attempts))
    return Statement(
        fields={"person": name, "aim": goal.aim},
        answer=number,
        wrong=(),
        evidence=spans_of(all_attempts),
        chain=(
            (f"I count what {name} tries in order to {goal.aim}.", f"I note each attempt of {name} to {goal.aim}."),
            *_narrate_attempts(index, all_attempts),
            (f"That makes {number} attempts.", f"So the number of attempts is {number}."),
        ),
        kinds=ONLY_OPEN,
    )


@template(
    "facts_who_reaches",
    GOAL,
    each_goal,
    "Who gets what they want in the end?",
    "Which of them reaches their aim?",
    "Whose effort leads to what was wanted?",
)
def who_reaches(index: FactIndex, goal_id: str) -> Statement | None:
    return _outcome(index, index.goals[goal_id], reached=True, asks_who=True)


@template(
    "facts_who_misses",
    GOAL,
    each_goal,
    "Who does not get what they want in the end?",
    "Which of them never reaches their aim?",
    "Whose effort does not lead to what was wanted?",
)
def who_misses(index: FactIndex, goal_id: str) -> Statement | None:
    return _outcome(index, index.goals[goal_id], reached=False, asks_who=True)


@template(
    "facts_reached",
    GOAL,
    each_goal,
    "Which of these aims is reached in the end?",
    "Several things are tried in this video. Which of these aims is achieved?",
    open_wordings=("Which of the aims that people have in this video is reached in the end?",),
)
def reached(index: FactIndex, goal_id: str) -> Statement | None:
    return _outcome(index, index.goals[goal_id], reached=True, asks_who=False)


@template(
    "facts_missed",
    GOAL,
    each_goal,
    "Which of these aims is not reached in the end?",
    "Several things are tried in this video. Which of these aims is never achieved?",
    open_wordings=("Which of the aims that people have in this video is not reached in the end?",),
)
def missed(index: FactIndex, goal_id: str) -> Statement | None:
    return _outcome(index, index.goals[goal_id], reached=False, asks_who=False)


def _outcome(index: FactIndex, goal: GoalFact, *, reached: bool, asks_who: bool) -> Statement | None:
    """A goal with this outcome, or whose goal it is, among others with the opposite outcome."""
    events = index.by_goal.get(goal.goal_id, [])
    if goal.reached is not reached or not events or not goal_evidence(index, goal):
        return None
    goals = index.goals.values()
    opposite = [each for each in goals if each.reached is not reached and each.reached is not None]
    same = [each for each in goals if each not in opposite]
    name, final = index.name(goal.actor), events[-1]
    if asks_who:
        answer, mixed = name, {each.actor for each in same} | {goal.actor}
        if any(each.actor == goal.actor for each in opposite):
            return None
        wrong = tuple(dict.fromkeys(index.name(each.actor) for each in opposite if each.actor not in mixed))
        is_only = mixed == {goal.actor}
    else:
        answer = f"to {goal.aim}"
        aims = {each.aim for each in same}
        wrong = tuple(dict.fromkeys(f"to {each.aim}" for each in opposite if each.aim not in aims))
        if goal.aim in {each.aim for each in opposite}:
            return None
        is_only = same == [goal]
    result = "is reached" if reached else "is not reached"
    return Statement(
        fields={},
        answer=answer,
        wrong=wrong,
        evidence=spans_of((*goal_evidence(index, goal), final)),
        chain=(
            ("I follow what each of them wants and how it ends.", "I compare the aims with how the video ends."),
            *show_goal(index, goal),
            (
                f"The last thing that is done for it is at {seen_at(final)}: {index.clause(final)}.",
                f"At {seen_at(final)} {index.clause(final)}; nothing more is done for it after that.",
            ),
            (f"With that the aim {result}.", f"In the end this aim {result}."),
            (
                f"So the answer is {answer}." if asks_who else f"So the answer is: {answer}.",
                f"So what fits is {answer}.",
            ),
        ),
        kinds=BOTH if is_only and index.complete else ONLY_CHOICE,
    )


def attempts_for(index: FactIndex, goal: GoalFact) -> list[EventFact]:
    """The attempts that serve a goal, successful or not."""
    return [each for each in index.by_goal.get(goal.goal_id, []) if each.succeeded is not None]


def _narrate_attempts(index: FactIndex, attempts: list[EventFact]) -> tuple[tuple[str, ...], ...]:
    steps: list[tuple[str, ...]] = []
    for told, each in zip(narrate(index, attempts), attempts, strict=True):
        result = ("That works.", "With success.") if each.succeeded else ("It does not work.", "Nothing comes of it.")
        steps += [told, result]
    return tuple(steps)


TEMPLATES = (success, failure, attempts, who_reaches, who_misses, reached, missed)
