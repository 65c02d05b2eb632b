"""Scores what the pipeline measures against films whose truth is known.

    python -m benchmarks.truth [--films 10] [--minutes 2..3] [--detectors adaptive content] [--folder FILMS]

Renders films (`lvr films`) or takes a folder of them, runs the stages `ingest`, `split` and `caption` of a build, and
prints one table in Markdown: shot boundaries by kind of transition for each detector, on-screen texts, colours, motion
and faces. If the environment names a captioner (`LVR_CAPTIONER_URL`, ...), its objects and actions are scored too.
An interval of 95 % is that of a bootstrap over films, as the things in one film are not independent.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from random import Random
from typing import TypeVar, get_args

from benchmarks.truth_scores import Figures, Ratio, score_captioner, score_faces, score_pixels, score_shots, score_texts
from operators.build import new_run_id, plan_build
from operators.demo.films.film import truth_path_of
from operators.demo.films.grammar.film import Texts
from operators.demo.films.grammar.rendering import parse_minutes, render_films
from operators.demo.films.script import FilmTruth
from operators.execution.runner import run_stage
from operators.models.session import MEASURED
from operators.store.run_folder import RunFolder
from operators.video.analysis.analysis_file import read_analysis
from schemas.base import Row
from schemas.config import BuildConfig, CaptionConfig, Decode, Detector, SplitConfig
from schemas.manifest import FactsFile
from schemas.tables import Caption, Clip, Video

DETECTORS = {
    "adaptive": SplitConfig(write_clips=False),
    "content": SplitConfig(write_clips=False, detector=Detector.CONTENT),
    "key frames": SplitConfig(write_clips=False, decode=Decode.KEY_FRAMES),
    "transnet": SplitConfig(write_clips=False, detector=Detector.TRANSNET),
}
DRAWS = 1000
"""Number of bootstrap samples."""
R = TypeVar("R", bound=Row)


def score_films(
    folder: Path,
    out: Path,
    detectors: Sequence[str],
    caption: CaptionConfig = CaptionConfig(),  # noqa: B008
) -> list[Figures]:
    """Run the stages on a folder of films with their manifest, and score every film.

    Args:
        out: the build's store. What it holds already is not computed again.
        detectors: names of `DETECTORS`. Clips and captions are those of the default, `adaptive`.
    """
    folders = {name: run_stages(folder, out, DETECTORS[name], caption, "ingest") for name in detectors}
    measured = run_stages(folder, out, DETECTORS["adaptive"], caption, "ingest", "split", "caption")
    starts = {name: _shot_starts(found) for name, found in folders.items()}
    clips, captions = list(read_rows(measured, "split", Clip)), list(read_rows(measured, "caption", Caption))
    has_captioner = measured.run.config.models.captioner.model != MEASURED
    scored = []
    for video in read_rows(measured, "ingest", Video):
        film = folder / f"{video.video_id}.mp4"
        truth = FilmTruth.model_validate_json(truth_path_of(film).read_bytes())
        facts = FactsFile.model_validate_json(film.with_suffix(".facts.json").read_bytes()).facts
        assert facts is not None
        own_clips = [each for each in clips if each.video_id == video.video_id]
        own = [each for each in captions if each.video_id == video.video_id]
        figures = {
            **score_shots(truth, {name: found[video.video_id] for name, found in starts.items()}),
            **score_texts(truth, own),
            **score_pixels(film, facts, own_clips),
        }
        figures |= score_captioner(facts, own_clips, own) if has_captioner else score_faces(facts, own)
        scored.append(figures)
    return scored


def run_stages(source: Path, out: Path, split: SplitConfig, caption: CaptionConfig, *stages: str) -> RunFolder:
    """Run stages of a build of the films, with the models that the environment names."""
    config = BuildConfig(source=str(source / "manifest.json"), out=str(out), split=split, caption=caption)
    folder = plan_build(config, new_run_id("truth"))
    for stage in stages:
        for partition in range(folder.run.partitions):
            run_stage(folder, stage, partition)
    return folder


def read_rows(folder: RunFolder, stage: str, model: type[R]) -> Iterator[R]:
    """All rows of a finished stage."""
    for partition in range(folder.run.partitions):
        for commit in folder.record(stage, partition).commits.values():
            yield from folder.store.get_rows(commit.rows_sha256, model)


def _shot_starts(folder: RunFolder) -> dict[str, tuple[int, ...]]:
    """Shot start times of each video by the run's detector."""
    split = folder.run.config.split
    with tempfile.TemporaryDirectory() as scratch:
        return {
            video.video_id: read_analysis(folder.store.fetch(video.analysis_uri, Path(scratch))).shot_starts(
                split.detector, split.shot_threshold
            )
            for video in read_rows(folder, "ingest", Video)
        }


def format_scores(films: Sequence[Figures]) -> str:
    """The table of all figures. What no film has is skipped."""
    lines = [f"| over {len(films)} films | n | figure | 95 % |", "|---|---|---|---|"]
    for name in films[0]:
        ratios = [film[name] for film in films]
        total = add_up(ratios)
        if total.bottom:
            low, high = bootstrap_interval(ratios)
            lines.append(f"| {name} | {total.count} | {total.top / total.bottom:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


def add_up(ratios: Sequence[Ratio]) -> Ratio:
    """The ratio over all films."""
    return reduce(Ratio.__add__, ratios)


def bootstrap_interval(ratios: Sequence[Ratio]) -> tuple[float, float]:
    """Percentile interval of 95 % of a ratio whose parts are sums over films (Efron 1979)."""
    rng = Random(0)
    drawn = [add_up(rng.choices(ratios, k=len(ratios))) for _ in range(DRAWS)]
    values = sorted(each.top / each.bottom for each in drawn if each.bottom)
    return values[int(0.025 * len(values))], values[int(0.975 * len(values))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="films that `lvr films` has written; otherwise they are rendered")
    parser.add_argument("--films", type=int, default=10)
    parser.add_argument("--minutes", type=parse_minutes, default=(2.0, 3.0))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--texts", choices=get_args(Texts), default="many")
    parser.add_argument(
        "--detectors", nargs="+", choices=list(DETECTORS), default=["adaptive", "content", "key frames"]
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "films"
        if options.folder is None:
            wanted = {"minutes": options.minutes, "seed": options.seed, "texts": options.texts}
            render_films(folder, count=options.films, progress=print, **wanted)
        print(f"\n{format_scores(score_films(folder, Path(scratch) / 'build', options.detectors))}")


if __name__ == "__main__":
    main()
