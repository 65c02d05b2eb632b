"""Questions about goals: what somebody wants and why, which action serves it, whether it is reached."""

from __future__ import annotations

from operators.questions.facts.index import FactIndex
from operators.questions.facts.subjects import each_goal
from operators.questions.facts.template import Statement, template
from operators.questions.facts.wording import Step, seen_at, sentence, spans_of
from schemas.base import Span
from schemas.facts import EventFact, GoalFact
from schemas.tables import QuestionCategory

GOAL = QuestionCategory.GOAL


@template(
    "facts_wants",
    GOAL,
    each_goal,
    "What does {person} want to do?",
    "What is {person} trying to achieve?",
    "What is the aim of {person} in this video?",
)
def wants(index: FactIndex, goal_id: str) -> Statement | None:
    goal = index.goals[goal_id]
    if not is_only_goal(index, goal) or not goal_evidence(index, goal):
        return None
    name = index.name(goal.actor)
    return Statement(
        fields={"person": name},
        answer=f"to {goal.aim}",
        wrong=other_aims(index, goal),
        evidence=spans_of(goal_evidence(index, goal)),
        chain=(
            (f"I watch {name} to find out what all of it is for.", f"I pay attention to what {name} is after."),
            *show_goal(index, goal),
            (f"So {name} wants to {goal.aim}.", f"So the aim of {name} is to {goal.aim}."),
        ),
    )


@template(
    "facts_who_wants",
    GOAL,
    each_goal,
    "Who wants to {aim}?",
    "Whose aim is it to {aim}?",
    "Who is trying to {aim}?",
)
def who_wants(index: FactIndex, goal_id: str) -> Statement | None:
    goal = index.goals[goal_id]
    same = [each for each in index.goals.values() if each.aim == goal.aim]
    if len(same) != 1 or not goal_evidence(index, goal):
        return None
    name = index.name(goal.actor)
    return Statement(
        fields={"aim": goal.aim},
        answer=name,
        wrong=tuple(each for each in index.actor_names() if each != name),
        evidence=spans_of(goal_evidence(index, goal)),
        chain=(
            (f"I have to find somebody whose aim it is to {goal.aim}.", "I watch what each of them is after."),
            *show_goal(index, goal),
            (f"So it is {name} who wants to {goal.aim}.", f"So the one who wants this is {name}."),
        ),
    )


def is_only_goal(index: FactIndex, goal: GoalFact) -> bool:
    """Whether nobody else has this aim, and its actor has no other."""
    return all(each == goal or (each.actor != goal.actor and each.aim != goal.aim) for each in index.goals.values())


def other_aims(index: FactIndex, goal: GoalFact) -> tuple[str, ...]:
    """What the others want."""
    aims = {each.aim for each in index.goals.values() if each.actor == goal.actor}
    return tuple({f"to {each.aim}": None for each in index.goals.values() if each.aim not in aims})


def goal_evidence(index: FactIndex, goal: GoalFact) -> tuple[Span, ...]:
    """Where one sees what is wanted: the first part that shows it, or else the actor's first action for it."""
    own: list[EventFact] = [each for each in index.by_goal.get(goal.goal_id, []) if each.actor == goal.actor]
    return (*goal.shown[:1],) or (*own[:1],)


def show_goal(index: FactIndex, goal: GoalFact) -> tuple[Step, ...]:
    """The step of a chain that finds out what is wanted."""
    name = index.name(goal.actor)
    if goal.shown:
        time = seen_at(goal.shown[0])
        return (
            (
                f"At {time} one can see that {name} wants to {goal.aim}.",
                f"At {time} {name} makes clear what the aim is: to {goal.aim}.",
            ),
        )
    own = next(each for each in index.by_goal[goal.goal_id] if each.actor == goal.actor)
    clause, time = index.clause(own), seen_at(own)
    return ((f"At {time} {clause}, in order to {goal.aim}.", f"{sentence(clause)} at {time}: a step to {goal.aim}."),)


TEMPLATES = (wants, who_wants)
