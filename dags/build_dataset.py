"""Airflow DAG that builds a long-video reasoning dataset."""

from airflow.sdk import dag

from operators.airflow.params import build_params
from operators.airflow.tasks import DEFAULT_ARGS, build_tasks

DOC = """
### Long videos in, a verified reasoning dataset out

Give a **source** (a folder of videos, a manifest or Shot2Story's annotations) and an **out** folder or bucket, and
trigger. Every other setting has a default; sections open with a click.

| tasks | what happens |
|---|---|
| `preflight`, `plan` | checks models, programs and the output; groups the videos into partitions |
| `partition` | per group of videos: ingest, split, caption, outline, question, reason, difficulty, package |
| `assemble`, `shard` | splits by source video; WebDataset tars and Parquet |
| `report`, `publish` | one HTML page; the next version, or *skipped* when its content is published already |

**Running it again costs only what changed.** Every video of every stage is kept under a key of all it depends on,
and every model answer in a journal; a cleared task, a new run or another partition size resumes from there.

**When a task fails:** its log ends with what failed, the value and what to do. Outages (a model server, the disk) are
tried again by themselves; wrong settings fail immediately. Clear the failed task to resume.

**Models** are the Connections `lvr_captioner`, `lvr_reasoner`, `lvr_judge` and `lvr_target` (OpenAI-compatible; extra
`{"model": "..."}`). Without any, captions are measured and a small model inside the worker answers.

**Pools**: `lvr_decode` (CPU) and `lvr_models` (tasks that wait for models).
"""


@dag(
    dag_id="build_dataset",
    dag_display_name="Build a dataset",
    description="From long videos to a verified, published reasoning dataset.",
    schedule=None,
    tags=["longvideo", "build"],
    default_args=DEFAULT_ARGS,
    params=build_params(),
    doc_md=DOC,
    max_active_tasks=64,
    max_active_runs=4,
    is_paused_upon_creation=False,
)
def build_dataset() -> None:
    build_tasks()


build_dataset()
