"""Caption -> Outline: the scenes of a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from operators.execution.stage import SOURCE, Context, Stage
from operators.questions.scenes import plan_scenes, summarize_by_program
from schemas.base import Row
from schemas.tables import Caption, Outline, Scene, Source


def run(context: Context, captions: Sequence[Caption], sources: Sequence[Source]) -> Iterator[Row]:
    """Yield the outline of each video that has captions."""
    for source in sources:
        own = [caption for caption in captions if caption.video_id == source.source_id]
        if own:
            yield Outline(
                video_id=source.source_id,
                category=source.category,
                summary="",
                scenes=tuple(map(_make_scene, plan_scenes(own))),
                entities=(),
                provenance=(),
            )


def _make_scene(captions: Sequence[Caption]) -> Scene:
    summary = summarize_by_program(captions)
    return Scene(start_us=captions[0].start_us, end_us=captions[-1].end_us, title="", summary=summary)


STAGE = Stage(
    name="outline",
    version=1,
    row=Outline,
    reads={"captions": "caption", "sources": SOURCE},
    source_columns=("source_id", "category"),
    run=run,
    section=lambda config: None,
)
