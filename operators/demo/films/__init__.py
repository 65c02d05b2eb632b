"""Sample videos: story films drawn by a program, with their ground truth.

    render_samples(Path("samples"))

The pipeline can be run, tested and measured on them without any download. Every shot boundary, text, object and event
is known to the frame.
"""

from operators.demo.films.gallery import render_samples, write_manifest

__all__ = ["render_samples", "write_manifest"]
