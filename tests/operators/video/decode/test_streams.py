import av
import pytest

from operators.video.analysis.decode_once import decode_once
from operators.video.analysis.key_frames import propose
from operators.video.clips.cut import cut_clip
from operators.video.decode.frames import frames_at
from operators.video.decode.packets import UnreadableVideo, open_video
from operators.video.decode.probe import main_audio_stream, probe
from operators.video.decode.streams import sounds_with
from schemas.config import Detector, SplitConfig
from schemas.tables import Cut
from schemas.video.container import moving_pictures
from tests.support.videos import HEIGHT, WIDTH, broadcast, counting_video, make, number_on, two_pictures

DEFAULT_FIRST = ("-disposition:v:0", "default", "-disposition:v:1", "0")


def chosen(path):
    """Indices of the video streams, the chosen one first, and of the audio streams that belong to it."""
    with av.open(str(path)) as container:
        pictures = moving_pictures(container)
        sounds = sounds_with(container, pictures[0])
        return [stream.index for stream in pictures], [stream.index for stream in sounds]


def test_the_only_picture_and_its_sound_are_chosen(tmp_path):
    assert chosen(counting_video(tmp_path / "v.mp4", seconds=1, beep_at=0)) == ([0], [1])


def test_of_a_broadcast_the_largest_picture_is_chosen_with_the_sound_of_its_programme(tmp_path):
    path = broadcast(tmp_path / "v.ts")
    pictures, sounds = chosen(path)
    with av.open(str(path)) as container:
        streams = [container.streams[index] for index in (*pictures, *sounds)]
        assert [stream.id for stream in streams] == [0x101, 0x100, 0x103, 0x104]
        assert [stream.language for stream in streams[2:]] == ["fin", "eng"]
        other = container.streams[pictures[1]]
        assert [stream.id for stream in sounds_with(container, other)] == [0x102]


def test_programmes_are_found_in_m2ts_too(tmp_path):
    data = broadcast(tmp_path / "v.ts").read_bytes()
    packets = [data[position : position + 188] for position in range(0, len(data), 188)]
    (tmp_path / "v.m2ts").write_bytes(b"".join(bytes(4) + packet for packet in packets))
    assert chosen(tmp_path / "v.m2ts") == chosen(tmp_path / "v.ts")


def test_sound_that_no_programme_names_goes_with_every_picture(tmp_path):
    assert chosen(two_pictures(tmp_path / "v.ts"))[1] == [2]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_default_picture_is_chosen_where_exactly_one_is_marked(tmp_path, suffix):
    assert chosen(two_pictures(tmp_path / f"v.{suffix}", *DEFAULT_FIRST))[0] == [0, 1]
    both = ("-disposition:v:0", "default", "-disposition:v:1", "default")
    assert chosen(two_pictures(tmp_path / f"v.{suffix}", *both))[0] == [1, 0]


def test_of_equal_pictures_the_first_is_chosen(tmp_path):
    film = counting_video(tmp_path / "film.mp4", seconds=1)
    path = make(tmp_path / "v.mkv", "-i", str(film), "-map", "0:v", "-map", "0:v", "-c", "copy", "-disposition:v", "0")
    assert chosen(path)[0] == [0, 1]


def test_covers_and_stills_are_no_films(tmp_path):
    film = counting_video(tmp_path / "film.mp4", seconds=1)
    cover = ("-f", "lavfi", "-i", "color=s=640x640", "-map", "1", "-map", "0", "-c:v:0", "mjpeg", "-frames:v:0", "1")
    streams = make(tmp_path / "still.mp4", "-i", str(film), *cover, "-c:v:1", "copy")
    assert chosen(streams)[0] == [1, 0]
    attached = make(tmp_path / "c.mp4", "-i", str(film), *cover, "-c:v:1", "copy", "-disposition:v:0", "attached_pic")
    with av.open(str(attached)) as container:
        assert len(container.streams.video) == 2
        assert len(moving_pictures(container)) == 1


def test_a_picture_that_cannot_be_decoded_is_not_chosen(tmp_path):
    data = two_pictures(tmp_path / "v.mkv", large_first=True).read_bytes()
    codec = b"V_MPEG4/ISO/AVC"
    unknown = data.replace(codec, b"V_MPEG4/ISO/XYZ", 1)
    (tmp_path / "one.mkv").write_bytes(unknown)
    assert chosen(tmp_path / "one.mkv")[0] == [1]
    (tmp_path / "none.mkv").write_bytes(unknown.replace(codec, b"V_MPEG4/ISO/XYZ"))
    with pytest.raises(UnreadableVideo, match="no decoder") as raised, open_video(tmp_path / "none.mkv"):
        pass
    assert raised.value.reason == "unknown_codec"


def test_the_main_sound_is_the_default_then_not_for_the_impaired_then_that_of_most_channels(tmp_path):
    film = counting_video(tmp_path / "film.mp4", seconds=1)

    def main(*dispositions):
        """Index of the main audio stream among tracks with 1, 2 and 6 channels and these dispositions."""
        maps = [text for _ in dispositions for text in ("-map", "1")]
        marks = [text for n, mark in enumerate(dispositions) for text in (f"-disposition:a:{n}", mark)]
        channels = [text for n, count in enumerate((1, 2, 6)) for text in (f"-ac:a:{n}", str(count))]
        sound = ("-f", "lavfi", "-i", "sine=d=1", "-map", "0", *maps, "-c:v", "copy", "-c:a", "ac3", *channels, *marks)
        with av.open(str(make(tmp_path / "v.mkv", "-i", str(film), *sound))) as container:
            return main_audio_stream(container).index

    assert main("0", "default", "0") == 2
    assert main("0", "0", "0") == 3
    assert main("0", "0", "visual_impaired") == 2
    assert main("default", "default", "default+comment") == 2


@pytest.mark.parametrize("decode", ["every_frame", "key_frames"])
@pytest.mark.parametrize("make_video", [broadcast, two_pictures], ids=["programmes", "pictures"])
def test_everything_is_made_of_the_chosen_picture(tmp_path, make_video, decode):
    path = broadcast(tmp_path / "v.ts") if make_video is broadcast else two_pictures(tmp_path / "v.mkv", *DEFAULT_FIRST)
    video = probe(path)
    assert (video.width, video.height, video.other_pictures) == (WIDTH, HEIGHT, 1)
    times_us = video.index.frame_times_us.tolist()
    assert [number_on(frame.rgb) for frame in frames_at(path, times_us)] == list(range(60))
    settings = SplitConfig(decode=decode, detector=Detector.ADAPTIVE)
    decoded = decode_once(video, settings, tmp_path / "proxy.mp4", lambda time_us: None, workers=1)
    if decoded.proxy:
        shown = frames_at(decoded.proxy.path, decoded.proxy.times_us.tolist())
        assert [number_on(frame.rgb) for frame in shown] == [0, 15, 30, 45]
    assert propose(video).brightness.std() > 0  # grey frames would have no deviation
    for start_us, end_us, cut in ((0, times_us[20], Cut.COPY), (times_us[11], times_us[19], Cut.ENCODE)):
        assert cut_clip(video, video.index.frame_times_us, start_us, end_us, tmp_path / "clip.mp4") is cut
        clip = probe(tmp_path / "clip.mp4")
        shown = [number_on(frame.rgb) for frame in frames_at(clip.path, clip.index.frame_times_us.tolist())]
        assert shown == [n for n in range(60) if start_us <= times_us[n] < end_us]


def test_the_trainer_reads_the_same_picture(tmp_path):
    pytest.importorskip("torch")
    from trainer_plugin.data.video_decode import read_frames
    from trainer_plugin.types import VideoSource

    for path in (
        broadcast(tmp_path / "v.ts"),
        two_pictures(tmp_path / "first.mp4", *DEFAULT_FIRST),
        two_pictures(tmp_path / "second.mkv", "-disposition:v:1", "default", "-disposition:v:0", "0", large_first=True),
    ):
        frames = read_frames(VideoSource("v", str(path)), [0, 1_000_000], (HEIGHT, WIDTH))
        assert [number_on(frame) for frame in frames] == [0, 30]
