"""Demo films: stories drawn by a program, with their ground truth.

    render_demo_films(Path("films"))

The pipeline can be run, tested and measured on them without any download. Every shot boundary, text, object and event
is known to the frame.
"""

from operators.demo.films.gallery import render_demo_films, write_manifest

__all__ = ["render_demo_films", "write_manifest"]
