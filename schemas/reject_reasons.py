"""All reasons of rejects: what each means, what to do, and which code decides it.

`docs/rejects.md` shows this table. After a change, write it again with `python -m schemas.reject_reasons`. The words
are stored in the tables of rejects, so they are never renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Fault(StrEnum):
    """What a reject is about. Rejects of `machine` and `file` are temporary: the next run tries again."""

    CONTENT = "content"
    """The video, the list's entry or the model's answer. The reject is kept until its inputs change or it is
    replayed."""
    MACHINE = "machine"
    """The machine or the moment."""
    FILE = "file"
    """One file alone was removed or replaced, but its folder or server is still there."""


@dataclass(frozen=True)
class RejectReason:
    """One reason, in sentences for people."""

    meaning: str
    fix: str
    """What to do."""
    fault: Fault = Fault.CONTENT


@dataclass(frozen=True)
class ReasonGroup:
    """Reasons that the same code gives."""

    title: str
    stages: tuple[str, ...]
    """Stages whose rejects have these reasons. `plan` is planning."""
    code: tuple[str, ...]
    """Files and folders of the code that decides."""
    reasons: Mapping[str, RejectReason]


_FILE_CUT_OFF = "The file was cut off: its index is missing, no frame can be read, or more than half is missing."
_OUT_OF_TOKENS = "The model ran out of tokens before its answer was valid, even with all of its context."
_MORE_TOKENS = (
    "Set `thinking_tokens` or `sampling.repetition_penalty` of the role's model, or serve it with a longer context."
)
_STOPPED_BY_FILTER = "Change the prompt, or use a model or server without that filter."

_OTHER_CAPTIONER = "Nothing; many mean that another captioner or prompt is needed."

REASON_GROUPS = (
    ReasonGroup(
        "Planning",
        ("plan",),
        ("operators/sources",),
        {
            "annotation": RejectReason(
                "A segment of Shot2Story's annotations, a sentence of ActivityNet's, or a video's id in them, cannot "
                "be used. The others are.",
                "Correct the row that the message names.",
            ),
            "build_output": RejectReason(
                "The file is a part of what a build has made.", "Name the videos that were built from."
            ),
            "duplicate_id": RejectReason(
                "Another entry has the same id. The first one is used.", "Give one of them another `source_id`."
            ),
            "facts": RejectReason(
                "The file of facts about a video is not of that form, or its facts contradict each other. The video is "
                "not used.",
                "Correct the field that the message names (docs/annotations.md), or remove the file.",
            ),
            "facts_without_video": RejectReason(
                "A file of facts has no video of its name next to it.", "Restore the video, or remove the file."
            ),
            "manifest_row": RejectReason("A row of the list cannot be read.", "Correct the field that is named."),
            "missing_file": RejectReason(
                "The list names a file that is not there, though its folder is.",
                "Restore the file, or remove its entry.",
                Fault.FILE,
            ),
            "not_allowed": RejectReason(
                "The list may not open this address: it is outside of `allowed_roots`, a chain, or has a segment `..`.",
                "Allow its folder or site, give the plain address, or remove the entry.",
            ),
            "unfinished_download": RejectReason(
                "The file is named like an unfinished download.", "Finish it, or rename it if it is complete."
            ),
            "unreachable": RejectReason(
                "The file's folder, bucket or server does not answer or is empty.",
                "Mount it or correct the address, or remove the entry.",
            ),
            "unreadable_uri": RejectReason(
                "The address is invalid or not UTF-8, may not be read, or needs a driver that is not installed.",
                "Correct the address or the rights, or install the driver.",
            ),
        },
    ),
    ReasonGroup(
        "Files and disks",
        ("ingest", "split", "caption", "outline", "question", "reason", "difficulty", "package", "shard"),
        (
            "operators/execution/runner.py",
            "operators/sources/access.py",
            "operators/store/content_store.py",
            "operators/stages/split.py",
            "operators/stages/shard.py",
        ),
        {
            "missing_file": RejectReason(
                "A source video was removed after the plan, though its folder is there.",
                "Restore it and run again.",
                Fault.FILE,
            ),
            "source_changed": RejectReason(
                "A source video is no longer the file that was planned or ingested.",
                "Run the build again, which ingests the new file.",
                Fault.FILE,
            ),
            "system_error": RejectReason(
                "A file cannot be read at the moment: a disk, a mount, a server, rights, or an object that the store "
                "has lost.",
                "Repair what the message names and run again.",
                Fault.MACHINE,
            ),
        },
    ),
    ReasonGroup(
        "Child processes",
        ("ingest", "split", "caption", "difficulty", "package"),
        ("operators/process/isolate.py",),
        {
            "crashed": RejectReason(
                "The process that worked on the video died, as when a decoder crashes.",
                "Check or convert the file, then `lvr replay`.",
            ),
            "killed": RejectReason(
                "The machine ended the process, as when memory runs out.",
                "Use fewer workers or more memory, and run again.",
                Fault.MACHINE,
            ),
            "out_of_memory": RejectReason(
                "The process needed more memory than one video may.", "Check the file: its frames may be huge."
            ),
            "output_too_large": RejectReason(
                "A written file exceeded the limit for one video.", "Check the file, or divide it first."
            ),
            "timeout": RejectReason(
                "The time limit of the stage has passed.", "Check the file. `lvr replay` tries it again."
            ),
        },
    ),
    ReasonGroup(
        "Reading a video",
        ("ingest", "split", "caption", "difficulty"),
        ("operators/video", "operators/stages/ingest.py"),
        {
            "clock_goes_back": RejectReason(
                "The times of many frames repeat earlier ones, as in joined recordings.",
                "Remux it, e.g. to MKV, so that its times increase.",
            ),
            "clock_jumps": RejectReason(
                "Most of the time between its first and last frame has no frames, or its times are implausibly large.",
                "Fetch the file again.",
            ),
            "damaged": RejectReason(
                "Half of the video or more, or a frame that is needed, cannot be decoded.", "Fetch the file again."
            ),
            "empty_file": RejectReason("The file has no bytes.", "Fetch it again."),
            "encrypted": RejectReason(
                "Picture or sound is encrypted.", "Get a copy that is not protected, or remove it from the source."
            ),
            "no_frame_size": RejectReason(
                "The header gives no frame size that can be decoded.", "Fetch it again, or scale it down."
            ),
            "no_timestamps": RejectReason(
                "Its frames have no times, or times that can only be guessed.", "Convert it, e.g. to MP4."
            ),
            "no_video_stream": RejectReason("The file has no moving picture.", "Remove it from the source."),
            "not_a_video": RejectReason(
                "The file is in none of the containers that are read.", "Convert it, or remove it from the source."
            ),
            "one_frame": RejectReason("It has a single frame, so it is a picture.", "Remove it from the source."),
            "too_large": RejectReason("Its frames have more pixels than are decoded.", "Scale it down first."),
            "unknown_codec": RejectReason("There is no decoder for its picture.", "Convert it, e.g. to H.264."),
        },
    ),
    ReasonGroup(
        "Files that were cut off",
        ("ingest", "split", "difficulty"),
        ("operators/video",),
        {"truncated": RejectReason(_FILE_CUT_OFF, "Fetch it again.")},
    ),
    ReasonGroup(
        "Files and captions that were cut off",
        ("caption",),
        ("operators/models", "operators/video"),
        {
            "truncated": RejectReason(
                f"{_OUT_OF_TOKENS} If the message is about the file: {_FILE_CUT_OFF}",
                f"{_MORE_TOKENS} A file is fetched again.",
            )
        },
    ),
    ReasonGroup(
        "Parts of a video",
        ("ingest",),
        ("operators/stages/ingest.py",),
        {
            "partly_damaged": RejectReason(
                "Less than half of the video is missing or cannot be decoded. The rest is used.",
                "Fetch the file again to have all of it.",
            ),
        },
    ),
    ReasonGroup(
        "Files of clips",
        ("split",),
        ("operators/stages/split.py",),
        {
            "cut_failed": RejectReason(
                "No frame starts in the clip, or no file of it passes the read-back check. It is used without a file.",
                "Build with `split.write_clips=false` if no files are needed, or convert the video.",
            ),
        },
    ),
    ReasonGroup(
        "Requests to models",
        ("caption", "outline", "question", "reason"),
        ("operators/models",),
        {
            "blocked": RejectReason("The server's content filter stopped it.", _STOPPED_BY_FILTER),
            "empty": RejectReason(
                "The model answered nothing, also when called again.", "`lvr replay`, or use another model."
            ),
            "request_failed": RejectReason(
                "The server fails at this request (HTTP 5xx, a timeout or a lost connection), and answers others.",
                "See the server's own log; then `lvr replay`, or send fewer or smaller frames.",
            ),
            "schema": RejectReason(
                "The answer does not fit the prompt's schema, also when called again.",
                "`lvr replay`, or use another model.",
            ),
            "too_long": RejectReason(
                "The request is longer than the model's context.",
                "Serve the model with a longer context, or send fewer or smaller frames.",
            ),
        },
    ),
    ReasonGroup(
        "Captions",
        ("caption",),
        ("operators/vision/caption_quality.py",),
        {
            "bad_caption_copy": RejectReason(
                "The caption repeats that of the clip before, although the pictures differ, also when requested again.",
                _OTHER_CAPTIONER,
            ),
            "bad_caption_long": RejectReason(
                "The caption is far longer than a description of a clip, also when requested again.", _OTHER_CAPTIONER
            ),
            "bad_caption_refusal": RejectReason(
                "The captioner apologises or speaks of itself, also when requested again.", _OTHER_CAPTIONER
            ),
            "bad_caption_repetition": RejectReason(
                "The caption repeats itself, also when requested again.", _OTHER_CAPTIONER
            ),
            "bad_caption_short": RejectReason(
                "The caption is too short for a description, also when requested again.", _OTHER_CAPTIONER
            ),
            "bad_caption_truncated": RejectReason(
                "The captioner ran out of tokens in the middle of the caption, also when requested again.",
                "Raise `max_tokens` in the front matter of the prompt.",
            ),
            "injection": RejectReason(
                "The caption holds an instruction to a model, perhaps from a text on screen, in all answers.",
                "Nothing: the clip is not used.",
            ),
        },
    ),
    ReasonGroup(
        "Speech",
        ("caption",),
        ("operators/speech/transcription.py",),
        {
            "speech_refused": RejectReason(
                "The transcription endpoint does not accept the video's sound. Its captions are made without speech.",
                "See the server's log, or use another server.",
            ),
        },
    ),
    ReasonGroup(
        "Answers of the reasoner",
        ("outline", "question", "reason"),
        (
            "operators/models",
            "operators/questions/chains.py",
            "operators/questions/entities.py",
            "operators/questions/evidence.py",
            "operators/stages/outline.py",
        ),
        {
            "bad_evidence": RejectReason(
                "The evidence lies outside the video, or ends before it begins.", "`lvr replay`, or use another model."
            ),
            "mixed_up_mentions": RejectReason(
                "Mentions of people or things were linked twice or do not exist. They are not linked with any other.",
                "Nothing; many mean that another reasoner is needed.",
            ),
            "truncated": RejectReason(
                _OUT_OF_TOKENS, f"Raise `max_tokens` in the front matter of the prompt. {_MORE_TOKENS}"
            ),
        },
    ),
    ReasonGroup(
        "Checks of questions",
        ("outline", "question", "reason"),
        (
            "operators/stages/outline.py",
            "operators/stages/question.py",
            "operators/questions/gates",
            "operators/questions/chain_checks.py",
            "operators/questions/chains.py",
            "operators/questions/spatial.py",
        ),
        {
            "answer_missing": RejectReason(
                "The right answer is not among the options.", "Nothing; many mean that another reasoner is needed."
            ),
            "answerable_blind": RejectReason(
                "The judge answered it without the video.", "Nothing, or set `verify.blind_share`."
            ),
            "bad_options": RejectReason(
                "There are not four different options, or an open question has some.",
                "Nothing; many mean that another reasoner is needed.",
            ),
            "cut_text": RejectReason(
                "The question or the chain of thought ends without a mark: it was cut off, or is none.",
                "Nothing; many mean that `max_tokens` of the prompt is too small.",
            ),
            "evidence_outside": RejectReason(
                "The evidence lies outside of what was captioned.", "See the rejects of stage caption."
            ),
            "evidence_too_wide": RejectReason(
                "The evidence covers more than a minute and more than half of the video, or more than ten minutes.",
                "Nothing; many mean that the prompt or the reasoner should change.",
            ),
            "injection": RejectReason(
                "A text instructs its reader instead of being about the video.",
                "Check the captions of its evidence: the video may show or speak such a text.",
            ),
            "long_answer": RejectReason(
                "An open answer has too many words to be compared.",
                "Nothing; many mean that the prompt or the reasoner should change.",
            ),
            "longest_answer": RejectReason(
                "The right option is much longer than the others, which gives it away.",
                "Nothing; many mean that the prompt or the reasoner should change.",
            ),
            "meta_talk": RejectReason(
                "It speaks of captions, clips or option letters, not of the video.",
                "Nothing; many mean that the prompt or the reasoner should change.",
            ),
            "names_one_moment": RejectReason(
                "It finds its moment by a time alone, so that nothing else of the video has to be seen.",
                "Nothing; many mean that the prompt or the reasoner should change.",
            ),
            "near_duplicate": RejectReason(
                "Another question of the video is the same, perhaps in other words.",
                "Nothing; many mean that `question.seconds_per_question` is too small for these videos.",
            ),
            "no_evidence": RejectReason(
                "No part of the video is named as evidence.", "Nothing; many mean that another reasoner is needed."
            ),
            "not_grounded": RejectReason(
                "The judge did not find its answer in the captions of its evidence.",
                "Nothing; many mean that another reasoner or judge is needed.",
            ),
            "not_unique": RejectReason(
                "The judge answered it otherwise from the whole video, without being told the evidence.",
                "Nothing, or set `verify.timeline=false`.",
            ),
            "not_visible": RejectReason(
                "The viewer did not find its answer in frames of its evidence.",
                "Nothing; many mean that the captioner states what is not shown, or that the viewer is too weak.",
            ),
            "facts_outside_video": RejectReason(
                "A fact lies after the end of the video, so that the facts are about another one or its times are "
                "wrong. No question is derived from them.",
                "Correct the times, or name the facts of this video.",
            ),
            "proof_failed": RejectReason(
                "The answer of a derived question does not follow from the captions, or from the facts.",
                "Please report it: the two derivations disagree.",
            ),
            "refused_text": RejectReason("A text is a model's refusal.", "`lvr replay`, or use another reasoner."),
            "states_answer": RejectReason(
                "The reasoner's wording of a fact about places states the answer.",
                "Nothing; many mean that another reasoner is needed.",
            ),
            "too_short": RejectReason(
                "The question has too few words.", "Nothing; many mean that another reasoner is needed."
            ),
            "unnamed_thing": RejectReason(
                "The reasoner's wording of a fact about places does not name a thing that the fact is about.",
                "Nothing; many mean that another reasoner is needed.",
            ),
            "yes_or_no": RejectReason(
                "An open question is answered by yes or no, which is guessed half of the time.",
                "Nothing; many mean that the prompt or the reasoner should change.",
            ),
        },
    ),
    ReasonGroup(
        "Checks of chains of thought",
        ("reason",),
        ("operators/questions/chain_checks.py", "operators/questions/chains.py"),
        {
            "chain_conclusion": RejectReason(
                "The end of the chain of thought does not state the question's answer.",
                "Nothing; many mean that the prompt or the reasoner should change.",
            ),
            "chain_disagrees": RejectReason(
                "No chain of thought arrives at the question's answer, not even with the answer given.",
                "Nothing, or raise `reason.chains`; many mean that answers are wrong or the reasoner is too weak.",
            ),
            "chain_length": RejectReason(
                "The chain of thought only asserts its conclusion, or is far too long.",
                "Nothing; many mean that the prompt or the reasoner should change.",
            ),
            "chain_not_followed": RejectReason(
                "A reader of the chain of thought, without the video, does not arrive at the question's answer.",
                "Nothing; many mean that another reasoner or judge is needed.",
            ),
            "chain_quote": RejectReason(
                "The chain of thought names or quotes what is neither in the captions near its evidence nor in the "
                "question.",
                "Nothing; many mean that another reasoner is needed.",
            ),
            "chain_repeats": RejectReason(
                "The chain of thought repeats itself.",
                "Nothing; many mean that the reasoner needs a repetition penalty.",
            ),
            "chain_swapped": RejectReason(
                "A reader arrives at the question's answer also with the chain of thought of another question.",
                "Nothing: the question does not need the video.",
            ),
            "chain_time": RejectReason(
                "A time in the chain of thought is not near its evidence.",
                "Nothing; many mean that another reasoner is needed.",
            ),
            "chain_unsupported": RejectReason(
                "The chain of thought states what the captions near its evidence do not support.",
                "Nothing; many mean that another reasoner or judge is needed.",
            ),
        },
    ),
    ReasonGroup(
        "Answers to questions",
        ("outline", "question", "reason", "difficulty"),
        (
            "operators/stages/outline.py",
            "operators/questions/chains.py",
            "operators/questions/gates",
            "operators/questions/trials.py",
            "operators/questions/writing.py",
            "operators/stages/difficulty.py",
        ),
        {
            "context_too_small": RejectReason(
                "Not even one scene of the video fits into the model's context with the prompt and room to answer.",
                "Serve the model with a larger context, or set `models.<role>.context_tokens`.",
            ),
            "unanswered": RejectReason(
                "Too few of the trials of a check were answered for a decision.",
                "See the message for the model's reasons; `lvr replay`, or use another model.",
            ),
        },
    ),
    ReasonGroup(
        "Frames for the target",
        ("difficulty",),
        ("operators/stages/difficulty.py",),
        {
            "frame_shape": RejectReason(
                "One side of the video's frames is more than 200 times the other, which no model accepts.",
                "Crop it, or remove it from the source.",
            ),
        },
    ),
    ReasonGroup(
        "Published media",
        ("package",),
        ("operators/stages/package.py",),
        {
            "media_unavailable": RejectReason(
                "No MP4 that passes the read-back check can be made of the video.",
                "Convert it, or publish proxies or text alone (`shard.media`).",
            ),
        },
    ),
    ReasonGroup(
        "Checks of the whole dataset",
        ("assemble",),
        ("operators/stages/assemble.py",),
        {
            "contaminated": RejectReason(
                "The question is equal or nearly equal to one of an evaluation list, which the message names with its "
                "line.",
                "Nothing, or raise `assemble.contamination_overlap` if they only share common words.",
            ),
            "duplicate_across_videos": RejectReason(
                "A question about another video has nearly the same words and the same answer. The message names it; "
                "it is kept.",
                "Nothing, or raise `assemble.duplicate_similarity`; many mean that questions name too little of their "
                "video.",
            ),
            "longest_option": RejectReason(
                "The right option is the longest by far, and over the dataset the longest option is right more often "
                "than by guessing.",
                "Nothing, or set `assemble.balance_length=false`; many mean that the prompt or the reasoner should "
                "change.",
            ),
        },
    ),
    ReasonGroup(
        "Difficulty of samples",
        ("assemble",),
        ("operators/stages/assemble.py",),
        {
            "needs_review": RejectReason(
                "The target was wrong in all trials, and no viewer answered the question rightly: it is very hard, or "
                "wrong.",
                "Read the question and watch its evidence; set a viewer, or a stronger one; or set "
                "`assemble.pass_rates.<split>_min=0`.",
            ),
            "too_easy": RejectReason(
                "The pass rate is above those that the split takes.",
                "Nothing, or a weaker target, or raise `assemble.pass_rates.<split>_max`.",
            ),
            "too_hard": RejectReason(
                "The pass rate is below those that the split takes.",
                "Nothing, or a stronger target, or lower `assemble.pass_rates.<split>_min`.",
            ),
        },
    ),
)
"""All reasons that any code gives, in the order of the pipeline. `tests/schemas/test_reject_reasons.py` checks it."""


def _with_fault(*faults: Fault) -> frozenset[str]:
    return frozenset(
        name for group in REASON_GROUPS for name, reason in group.reasons.items() if reason.fault in faults
    )


MACHINE_REASONS = _with_fault(Fault.MACHINE, Fault.FILE)
"""Reject reasons for which the machine or the moment is at fault, not the video."""

FILE_REASONS = _with_fault(Fault.FILE)
"""Machine reasons that concern one file alone: it was removed or replaced, but its folder or server is still there."""


def find_reason(stage: str, name: str) -> RejectReason | None:
    """The reason of a stage's rejects; None if this version gives no such reason, as for rejects of another version."""
    found = (group.reasons.get(name) for group in REASON_GROUPS if stage in group.stages)
    return next(filter(None, found), None)


_INTRODUCTION = """\
# Rejects

Every row that planning or a stage drops has one of these reasons. The report shows a run's rejects with their messages.
The table is `schemas/reject_reasons.py`, and `python -m schemas.reject_reasons` writes this page from it.

Rejects with the fault *machine* or *file* are temporary: the next run tries again. The others are kept until their
inputs change, or until `lvr replay` removes them.
"""


def to_markdown() -> str:
    """The page `docs/rejects.md`."""
    parts = [_INTRODUCTION]
    for group in REASON_GROUPS:
        stages, code = (", ".join(f"`{each}`" for each in several) for several in (group.stages, group.code))
        parts.append(f"## {group.title}\n\nStages: {stages}. Decided in {code}.\n")
        parts.append("| reason | what it means | what to do | fault |\n|---|---|---|---|")
        for name, reason in group.reasons.items():
            fault = "" if reason.fault is Fault.CONTENT else f"*{reason.fault}*"
            parts.append(f"| `{name}` | {reason.meaning} | {reason.fix} | {fault} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    Path("docs/rejects.md").write_text(to_markdown(), encoding="utf-8")
