import av
import pytest

from operators.video.clips.splice import PROFILES, CannotJoin, Configuration, free_set_id, join_configurations
from tests.support.videos import make


def configuration(path):
    """The parameter sets (extradata) of an MP4's video stream."""
    with av.open(str(path)) as container:
        return bytes(container.streams.video[0].codec_context.extradata)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Encode a video and return its parameter sets: `encoded(profile, number)`, where `number` is the SPS id."""
    folder = tmp_path_factory.mktemp("splice")

    def of(profile="high", number=0, size="64x64"):
        options = ("-c:v", "libx264", "-profile:v", profile, "-x264-params", f"sps-id={number}", "-pix_fmt", "yuv420p")
        picture = ("-f", "lavfi", "-i", f"testsrc2=s={size}:r=5:d=1")
        return configuration(make(folder / f"{profile}_{number}_{size}.mp4", *picture, *options))

    return of


def test_a_configuration_is_read_and_written_as_it_was(encoded):
    data = encoded()
    parsed = Configuration.parse(data)
    assert bytes(parsed) == data
    assert (len(parsed.sequence_sets), len(parsed.picture_sets)) == (1, 1)


def test_the_free_set_id_is_one_that_no_set_has(encoded):
    assert free_set_id(encoded(number=0)) == 1
    assert free_set_id(encoded(number=3)) == 0
    assert free_set_id(join_configurations(encoded(number=0), [encoded(number=1)])) == 2


def test_sets_of_two_encoders_stand_side_by_side(encoded):
    source, piece = encoded(number=0, size="64x64"), encoded(number=1, size="64x64")
    both = Configuration.parse(join_configurations(source, [piece, piece]))
    assert both.sequence_sets == tuple(Configuration.parse(each).sequence_sets[0] for each in (source, piece))
    assert both.picture_sets == tuple(Configuration.parse(each).picture_sets[0] for each in (source, piece))
    assert both.header[3] == max(source[3], piece[3])


def test_two_different_sets_of_one_number_cannot_share_a_track(encoded):
    with pytest.raises(CannotJoin, match="have one number"):
        join_configurations(encoded(size="64x64"), [encoded(size="96x64")])


def test_profiles_are_not_mixed(encoded):
    with pytest.raises(CannotJoin, match="profile 77, not the source's 100"):
        join_configurations(encoded("high"), [encoded("main", number=1)])


@pytest.mark.parametrize("data", [b"", b"\0\0\0\1\x67\x42", b"\1\x64\0\x1f\xfc\xe1\0"])
def test_what_is_no_configuration_cannot_be_joined(data):
    with pytest.raises(CannotJoin, match="not an avcC"):
        free_set_id(data)


def test_the_profiles_are_those_that_ffmpeg_and_x264_call_so(tmp_path):
    for ffmpeg_name, x264_name in PROFILES.items():
        options = ("-c:v", "libx264", "-profile:v", x264_name, "-pix_fmt", "yuv420p")
        path = make(tmp_path / "v.mp4", "-f", "lavfi", "-i", "testsrc2=s=64x64:r=5:d=1", *options)
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.profile in (ffmpeg_name, "Constrained Baseline")
