"""Reports the cost of each stage of a finished run per minute of video: `python benchmarks/stages.py OUT/runs/RUN`.

Reads the metrics of the run. Reused work items cost nothing and are counted separately, so measure a run that reused
none.
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from operators.store.run_folder import RunFolder
from schemas.tables import Video


def main(url: str) -> None:
    folder = RunFolder.open(url)
    ingested = [
        commit
        for partition in range(folder.run.partitions)
        for commit in folder.record("ingest", partition).commits.values()
    ]
    videos = [video for commit in ingested for video in folder.store.get_rows(commit.rows_sha256, Video)]
    minutes = sum(video.duration_us for video in videos) / 60e6
    totals: dict[str, Counter[str]] = {}
    for stage in folder.metrics():
        totals.setdefault(stage.stage, Counter()).update(
            wall=stage.wall_seconds, cpu=stage.cpu_seconds, models=stage.phase_seconds.get("models", 0.0),
            rows=stage.rows, reused=stage.reused, requests=sum(stage.requests.values()),
            tokens_in=stage.tokens_in, tokens_out=stage.tokens_out,
        )  # fmt: skip
    print(f"{len(videos)} videos, {minutes:.1f} minutes; seconds per minute of video")
    print(f"{'stage':12}{'cpu':>8}{'wall':>8}{'models':>8}{'rows':>8}{'reused':>8}{'sent':>8}{'in':>9}{'out':>8}")
    for name, total in totals.items():
        print(
            f"{name:12}{total['cpu'] / minutes:8.2f}{total['wall'] / minutes:8.2f}{total['models'] / minutes:8.2f}"
            f"{total['rows']:8.0f}{total['reused']:8.0f}{total['requests']:8.0f}{total['tokens_in']:9.0f}"
            f"{total['tokens_out']:8.0f}"
        )


if __name__ == "__main__":
    main(sys.argv[1])
