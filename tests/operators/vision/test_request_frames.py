from pathlib import Path

import pytest

from operators.execution.stage import Context
from operators.store.content_store import SourceUnavailable, Store
from operators.vision.request_frames import fetch_frame_source
from schemas.config import BuildConfig
from tests.support.rows import make_video, of_file


@pytest.fixture
def context(tmp_path):
    config = BuildConfig(source=str(tmp_path), out=str(tmp_path))
    return Context("caption", "film", config, {}, {}, Store(str(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    "width, fps, side, proxy_is_enough",
    [(1920, 2, 640, True), (1920, 2.1, 640, False), (1920, 1, 641, False), (640, 1, 2048, True)],
)
def test_frame_source_is_the_proxy_where_it_shows_enough(tmp_path, context, width, fps, side, proxy_is_enough):
    made, source = tmp_path / "made.mp4", tmp_path / "source.mp4"
    made.write_bytes(b"proxy")
    source.write_bytes(b"source")
    uri = context.files.put_file(made)
    video = of_file(make_video("film"), source).model_copy(update={"proxy_uri": uri, "width": width})
    assert fetch_frame_source(context, video, fps, side).read_bytes() == (b"proxy" if proxy_is_enough else b"source")
    assert fetch_frame_source(context, video.model_copy(update={"proxy_uri": None}), fps, side) == Path(source)


def test_frame_source_is_not_a_file_that_changed_since_it_was_ingested(tmp_path, context):
    source = tmp_path / "source.mp4"
    source.write_bytes(b"one film")
    video = of_file(make_video("film"), source)
    source.write_bytes(b"another!")
    with pytest.raises(SourceUnavailable, match="has changed since it was ingested; run the build again") as changed:
        fetch_frame_source(context, video, 2, 640)
    assert changed.value.reason == "source_changed"
