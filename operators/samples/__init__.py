"""Sample videos: story films drawn by program, with their ground truth.

    render_samples(Path("samples"))

The pipeline can be tried, tested and measured on them without downloading anything: every shot boundary, text, object
and event is known to the frame.
"""

from operators.samples.gallery import render_samples, write_manifest

__all__ = ["render_samples", "write_manifest"]
