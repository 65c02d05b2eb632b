"""Questions about goals: what somebody wants and why, what serves it, who helps."""

from __future__ import annotations

from operators.questions.facts.index import FactIndex
from operators.questions.facts.pools import aims_of_others, names_except, names_in, steps_of_others
from operators.questions.facts.subjects import each_event, each_goal
from operators.questions.facts.template import BOTH, ONLY_CHOICE, Statement, template
from operators.questions.facts.wording import (
    Step,
    at_time,
    event_fields,
    narrate,
    opening,
    seen_at,
    sentence,
    spans_of,
)
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
    if not goal_evidence(index, goal):
        return None
    name = index.name(goal.actor)
    return Statement(
        fields={"person": name},
        answer=f"to {goal.aim}",
        wrong=aims_of_others(index, goal),
        evidence=spans_of(goal_evidence(index, goal)),
        chain=(
            (f"I watch {name} to find out what all of it is for.", f"I pay attention to what {name} is after."),
            *show_goal(index, goal),
            (f"So {name} wants to {goal.aim}.", f"So the aim of {name} is to {goal.aim}."),
        ),
        kinds=kinds_for(index, goal),
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
    if not goal_evidence(index, goal) or not has_own_aim(index, goal):
        return None
    name = index.name(goal.actor)
    named = names_in(index, goal.aim)
    rivals = [index.name(each.actor) for each in index.goals.values() if named & names_in(index, each.aim)]
    return Statement(
        fields={"aim": goal.aim},
        answer=name,
        wrong=names_except(index.actor_names(), name, *rivals),
        evidence=spans_of(goal_evidence(index, goal)),
        chain=(
            (f"I have to find somebody whose aim it is to {goal.aim}.", "I watch what each of them is after."),
            *show_goal(index, goal),
            (f"So it is {name} who wants to {goal.aim}.", f"So the one who wants this is {name}."),
        ),
    )


@template(
    "facts_motive",
    GOAL,
    each_goal,
    "Why does {person} want to {aim}?",
    "What is the reason why {person} wants to {aim}?",
    "{Person} wants to {aim}. For what reason?",
    has_mixed_shapes=True,
)
def motive(index: FactIndex, goal_id: str) -> Statement | None:
    goal = index.goals[goal_id]
    if not goal.motive or not goal_evidence(index, goal):
        return None
    name = index.name(goal.actor)
    # Reasons for other kinds of aims would be recognised: who wants to reach a place, wants to meet somebody there.
    shape = index.shape(goal.aim)
    alike = [each for each in index.goals.values() if index.shape(each.aim) == shape]
    others = {each.motive: None for each in alike if each.motive not in ("", goal.motive)}
    return Statement(
        fields={"person": name, "aim": goal.aim},
        answer=f"because {goal.motive}",
        wrong=tuple(f"because {each}" for each in others),
        evidence=spans_of(goal_evidence(index, goal)),
        chain=(
            (f"I pay attention to what {name} is after, and why.", f"I watch {name} to find out what is behind it."),
            *show_goal(index, goal),
            (f"What is behind it is that {goal.motive}.", f"The video also shows the reason: {goal.motive}."),
            (f"So the reason is this: because {goal.motive}.", f"So it is because {goal.motive}."),
        ),
    )


@template(
    "facts_purpose",
    GOAL,
    each_event,
    "For what purpose does {actor} {infinitive}?",
    "What is the aim of {actor} at the moment when {event}?",
    "{Event}. What is that meant to achieve?",
)
def purpose(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    goal = index.goals[event.goal] if event.goal else None
    if goal is None or goal.actor != event.actor or not goal.shown:
        return None
    if names_in(index, goal.aim) & names_in(index, index.clause(event)):
        return None  # the wording gives the aim away
    name = index.name(goal.actor)
    return Statement(
        fields=event_fields(index, event),
        answer=f"to {goal.aim}",
        wrong=aims_of_others(index, goal),
        evidence=spans_of((*goal_evidence(index, goal), event)),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            at_time(event),
            *show_goal(index, goal),
            (f"That is what {name} is after here as well.", "What is done here serves this aim."),
            (f"So the purpose is to {goal.aim}.", f"So {name} does it in order to {goal.aim}."),
        ),
        kinds=kinds_for(index, goal),
    )


@template(
    "facts_whose_aim",
    GOAL,
    each_event,
    "{Event}. Whose aim does that serve?",
    "Whose plan is helped by the fact that {event}?",
    "For whose purpose is it that {event}?",
)
def whose_aim(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    goal = index.goals[event.goal] if event.goal else None
    if goal is None or goal.actor == event.actor or not goal.shown:
        return None
    name = index.name(goal.actor)
    return Statement(
        fields=event_fields(index, event),
        answer=name,
        wrong=names_except(index.actor_names(), name, index.name(event.actor)),
        evidence=spans_of((*goal_evidence(index, goal), event)),
        chain=(
            *narrate(index, (event,)),
            *show_goal(index, goal),
            ("What is done here serves this aim.", f"That brings {name} closer to it."),
            (f"So it serves the aim of {name}.", f"So the one whose plan is helped is {name}."),
        ),
    )


@template(
    "facts_goal_helper",
    GOAL,
    each_goal,
    "Who else does something so that {person} can {aim}?",
    "{Person} wants to {aim}. Who helps with that?",
    "By whom is {person} helped to {aim}?",
)
def goal_helper(index: FactIndex, goal_id: str) -> Statement | None:
    goal = index.goals[goal_id]
    help_events = [each for each in index.by_goal.get(goal_id, []) if each.actor != goal.actor]
    if len({each.actor for each in help_events}) != 1 or not goal_evidence(index, goal):
        return None
    event, person = help_events[0], index.name(goal.actor)
    name = index.name(event.actor)
    return Statement(
        fields={"person": person, "aim": goal.aim},
        answer=name,
        wrong=names_except(index.actor_names(), name, person),
        evidence=spans_of((*goal_evidence(index, goal), event)),
        chain=(
            *show_goal(index, goal),
            ("I go through the video to find who takes part in that.", "Now I watch who does something for it."),
            *narrate(index, (event,)),
            (f"So the help comes from {name}.", f"So it is {name} who helps."),
        ),
        kinds=BOTH if index.complete else ONLY_CHOICE,
    )


@template(
    "facts_wants_person",
    GOAL,
    each_event,
    "What does {the_one} want to do?",
    "What is the aim of {the_one}?",
)
def wants_person(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    own = [each for each in index.goals.values() if each.actor == event.actor and each.shown]
    if not own or not index.is_sole(event) or event.goal == own[0].goal_id:
        return None
    goal, name = own[0], index.name(event.actor)
    return Statement(
        fields={"the_one": index.the_one(event)},
        answer=f"to {goal.aim}",
        wrong=aims_of_others(index, goal),
        evidence=spans_of((*goal_evidence(index, goal), event)),
        chain=(
            (f"First I have to find out who {event.phrase}.", f"I need to know who {event.phrase}."),
            (f"At {seen_at(event)} I see that it is {name}.", f"It is {name}, at {seen_at(event)}."),
            *show_goal(index, goal),
            (f"So the aim of {name} is to {goal.aim}.", f"So the answer is: to {goal.aim}."),
        ),
        kinds=kinds_for(index, goal),
    )


@template(
    "facts_step",
    GOAL,
    each_event,
    "Which of these does {person} do in order to {aim}?",
    "{Person} wants to {aim}. Which of these is done for it?",
    "Which action of {person} serves the aim to {aim}?",
)
def step(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    goal = index.goals[event.goal] if event.goal else None
    if goal is None or goal.actor != event.actor or event.object is None or not goal.shown:
        return None
    name = index.name(goal.actor)
    return Statement(
        fields={"person": name, "aim": goal.aim},
        answer=event.phrase,
        wrong=steps_of_others(index, event.actor, event.action),
        evidence=spans_of((*goal_evidence(index, goal), event)),
        chain=(
            *show_goal(index, goal),
            (f"I go through what {name} does for it.", f"Now I watch what {name} does to get there."),
            *narrate(index, (event,)),
            (f"So what serves the aim is this: {name} {event.phrase}.", f"So for this aim {name} {event.phrase}."),
        ),
        kinds=ONLY_CHOICE,
    )


@template(
    "facts_first_step",
    GOAL,
    each_goal,
    "What is the first thing that {person} does in order to {aim}?",
    "{Person} wants to {aim}. What does {person} do first for it?",
    "How does {person} begin, in order to {aim}?",
)
def first_step(index: FactIndex, goal_id: str) -> Statement | None:
    goal = index.goals[goal_id]
    own = [each for each in index.by_goal.get(goal_id, []) if each.actor == goal.actor]
    if not index.complete or len(own) < 2 or not has_own_aim(index, goal) or not goal.shown:
        return None
    event, name = own[0], index.name(goal.actor)
    if event.event_id not in index.unique_ids or own[1].start_us < event.end_us or event.object is None:
        return None
    return Statement(
        fields={"person": name, "aim": goal.aim},
        answer=event.phrase,
        wrong=(*(each.phrase for each in own[1:] if each.phrase != event.phrase), *steps_of_others(index, goal.actor)),
        evidence=spans_of((*goal_evidence(index, goal), event)),
        chain=(
            *show_goal(index, goal),
            (f"Now I watch what {name} does about it.", f"I go through what {name} does for it, in order."),
            (
                f"The first step is at {seen_at(event)}: {index.clause(event)}.",
                f"It starts at {seen_at(event)}, when {index.clause(event)}.",
            ),
            (f"So first {name} {event.phrase}.", f"So the beginning is this: {name} {event.phrase}."),
        ),
    )


def kinds_for(index: FactIndex, goal: GoalFact):  # type: ignore[no-untyped-def]
    """Both kinds if the goal's actor has no other goal; otherwise an open question has several right answers."""
    return BOTH if sum(each.actor == goal.actor for each in index.goals.values()) == 1 else ONLY_CHOICE


def has_own_aim(index: FactIndex, goal: GoalFact) -> bool:
    """Whether no other goal has the same aim."""
    return sum(each.aim == goal.aim for each in index.goals.values()) == 1


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
                f"The aim of {name} shows at {time}: to {goal.aim}.",
            ),
        )
    own = next(each for each in index.by_goal[goal.goal_id] if each.actor == goal.actor)
    clause, time = index.clause(own), seen_at(own)
    return ((f"At {time} {clause}, in order to {goal.aim}.", f"{sentence(clause)} at {time}: a step to {goal.aim}."),)


TEMPLATES = (
    wants, who_wants, motive, purpose, whose_aim, goal_helper, wants_person, step, first_step,
)  # fmt: skip
