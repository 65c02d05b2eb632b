import errno
import shutil
from dataclasses import replace
from itertools import chain

import av
import numpy as np
import pytest
from av.stream import Disposition

from operators.video.analysis.analysis import analyse
from operators.video.clips.packaging import PUBLISHED_SOUND, MediaError, packaging, write_media
from operators.video.clips.remux import COPIED_VIDEO
from operators.video.decode.frames import frames_at
from operators.video.decode.probe import probe
from schemas.tables import Packaging
from tests.support.videos import (
    HEIGHT,
    Part,
    broadcast,
    counting_video,
    damage,
    loud_tenths,
    make,
    number_on,
    recording,
    two_pictures,
)
from tests.support.zoo import MPEG4, SAMPLES, VP8, Sample

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "15", "-pix_fmt", "yuv420p")
NEW = [
    Sample("g711.mkv", H264, sound=("-c:a", "pcm_alaw", "-ar", "8000")),
    Sample("truehd.mkv", H264, sound=("-c:a", "truehd", "-strict", "-2", "-ar", "48000")),
    Sample("vorbis.mkv", H264, sound=("-c:a", "libvorbis"), tracks=2),
    Sample("vp8_opus.webm", VP8, sound=("-c:a", "libopus")),
    Sample("amr.3gp", MPEG4, sound=("-c:a", "libopencore_amrnb", "-ar", "8000", "-ac", "1")),
    Sample("pcm.mov", H264, sound=("-c:a", "pcm_s16le")),
    Sample("adpcm.avi", MPEG4, sound=("-c:a", "adpcm_ms")),
]
OF_ZOO = {
    "plain.mov": Packaging.KEEP, "fragments.mp4": Packaging.KEEP, "edited.mp4": Packaging.KEEP,
    "plain.mkv": Packaging.COPY, "plain.ts": Packaging.COPY, "plain.flv": Packaging.COPY, "hevc.ts": Packaging.COPY,
    "vp9.webm": Packaging.COPY, "av1.webm": Packaging.COPY, "open_gop.ts": Packaging.COPY,
    "thinned.mkv": Packaging.COPY, "late.ts": Packaging.COPY, "jump.mkv": Packaging.COPY, "hlg.mkv": Packaging.COPY,
    "h264.avi": Packaging.SOUND, "vp8.webm": Packaging.BOTH, "theora.ogv": Packaging.BOTH,
    "wmv2.wmv": Packaging.BOTH, "h263.3gp": Packaging.PICTURE, "sorenson.flv": Packaging.PICTURE,
    "mpeg2.mpg": Packaging.BOTH, "mpeg2.vob": Packaging.PICTURE, "mpeg4.avi": Packaging.BOTH,
    "plain.gif": Packaging.PICTURE, "mjpeg.avi": Packaging.BOTH, "prores.mov": Packaging.PICTURE,
    "mpeg4.mp4": Packaging.PICTURE,
    "rv20.rm": Packaging.PICTURE, "interlaced.ts": Packaging.PICTURE,
}  # fmt: skip
OF_NEW = {
    "g711.mkv": Packaging.SOUND, "truehd.mkv": Packaging.SOUND, "vorbis.mkv": Packaging.SOUND,
    "vp8_opus.webm": Packaging.PICTURE, "amr.3gp": Packaging.BOTH, "pcm.mov": Packaging.SOUND,
    "adpcm.avi": Packaging.BOTH,
}  # fmt: skip
EXPECTED = OF_ZOO | OF_NEW
MADE = [sample for sample in (*SAMPLES, *NEW) if sample.file in EXPECTED]
AC3, MP2, MP3 = ("-c:a", "ac3"), ("-c:a", "mp2"), ("-c:a", "libmp3lame")


def publish_file(tmp_path, path):
    """Publish a file as MP4. Returns the probe of the source, the probe of the MP4, and the packaging used."""
    video = probe(path)
    how = packaging(video)
    write_media(video, how, video.index.frame_times_us, tmp_path / "published.mp4")
    return video, probe(tmp_path / "published.mp4"), how


def numbers(path, times_us):
    frames = [frame.rgb for frame in frames_at(path, times_us)]
    return [number_on(rgb[:: max(1, len(rgb) // HEIGHT)]) for rgb in frames]


@pytest.mark.parametrize("sample", MADE, ids=lambda sample: sample.file)
def test_any_video_is_published_with_its_frames_its_times_and_its_sound(tmp_path, sample):
    path = sample.render(tmp_path)
    video = probe(path)
    assert packaging(video) is EXPECTED[sample.file]
    if EXPECTED[sample.file] is Packaging.KEEP:
        return
    video, media, how = publish_file(tmp_path, path)
    with av.open(str(media.path)) as container:
        assert container.format.name.startswith("mov")
        assert len(container.streams.video) == 1
        assert all(stream.codec_context.codec.canonical_name in PUBLISHED_SOUND for stream in container.streams.audio)
    assert media.codec in COPIED_VIDEO
    if how in (Packaging.COPY, Packaging.SOUND):
        np.testing.assert_allclose(media.index.key_frame_times_us, video.index.key_frame_times_us, atol=1000)
    np.testing.assert_allclose(media.index.frame_times_us, video.index.frame_times_us, atol=1000)
    assert media.duration_us == pytest.approx(video.duration_us, abs=1000)
    assert len(media.audio_tracks) == sample.tracks
    assert (media.transfer, media.primaries) == (video.transfer, video.primaries)
    assert abs(media.width - video.width) <= 2 and abs(media.height - video.height) <= 2
    assert numbers(media.path, media.index.frame_times_us.tolist()) == list(sample.numbers)


def loud_from(path, stream=0):
    """Time at which the sound is first loud, in seconds on the video's timeline; None if it never is."""
    with av.open(str(path)) as container:
        for frame in container.decode(audio=stream):
            samples = np.abs(frame.to_ndarray()).max(axis=0) / (1 if frame.format.name == "fltp" else 32768)
            if (samples > 0.1).any():
                return float(frame.pts * frame.time_base) + np.argmax(samples > 0.1) / frame.sample_rate
    return None


@pytest.mark.parametrize("codec", ["aac", "libvorbis", "pcm_alaw"])
@pytest.mark.parametrize("late", [-0.7, 0.0, 0.6])
def test_sound_is_heard_when_it_was(tmp_path, codec, late):
    """The sound begins before the picture, with it or after it. Its beep comes after 1.2 s."""
    film = counting_video(tmp_path / "film.mkv", "-c:a", codec, seconds=2, beep_at=1.2)
    moved = ("-itsoffset", str(late), "-i", str(film), "-map", "0:v", "-map", "1:a", "-c", "copy")
    source = make(tmp_path / "v.mkv", "-i", str(film), *moved)
    video, media, _ = publish_file(tmp_path, source)
    assert loud_from(media.path) == pytest.approx(1.2 + late, abs=0.03)
    (was,), (now,) = video.audio_tracks, media.audio_tracks
    assert now.start_us == pytest.approx(max(0, was.start_us), abs=50_000)
    assert now.end_us == pytest.approx(was.end_us, abs=50_000)
    for options in ({}, {"ignore_editlist": "1"}):
        with av.open(str(media.path), options=options) as container:
            assert min(packet.pts for packet in container.demux(video=0) if packet.size) == 0


def test_the_main_sound_comes_first_and_each_keeps_its_language(tmp_path):
    sounds = [text for f in (220, 440) for text in ("-f", "lavfi", "-i", f"sine=r=48000:d=1:f={f}")]
    maps = ("-map", "0", "-map", "1", "-map", "2", "-c:v", "copy", "-c:a:0", "libvorbis", "-c:a:1", "aac")
    named = ("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=swe")
    marked = ("-disposition:a:0", "0", "-disposition:a:1", "default")
    film = counting_video(tmp_path / "film.mp4", seconds=1)
    _, media, how = publish_file(tmp_path, make(tmp_path / "v.mkv", "-i", str(film), *sounds, *maps, *named, *marked))
    assert how is Packaging.SOUND
    assert [track.language for track in media.audio_tracks] == ["swe", "eng"]
    assert media.audio_stream == media.audio_tracks[0].stream
    with av.open(str(media.path)) as container:
        assert [bool(each.disposition & Disposition.default) for each in container.streams.audio] == [True, False]


def test_of_several_pictures_only_the_chosen_one_is_in_the_mp4(tmp_path):
    for path in (broadcast(tmp_path / "v.ts"), two_pictures(tmp_path / "v.mp4", "-disposition:v:1", "0")):
        _, media, how = publish_file(tmp_path, path)
        assert how is Packaging.COPY
        assert numbers(media.path, media.index.frame_times_us.tolist()) == list(range(60))
        with av.open(str(media.path)) as container:
            assert len(container.streams.video) == 1


def test_frames_that_an_edit_list_hides_are_not_published(tmp_path):
    """A copy cannot drop the hidden frames, because others reference them. The picture is therefore encoded."""
    whole = two_pictures(tmp_path / "whole.mp4", "-disposition:v:1", "0")
    edited = make(tmp_path / "v.mp4", "-ss", "0.5", "-i", str(whole), "-map", "0", "-c", "copy")
    video, media, how = publish_file(tmp_path, edited)
    assert video.edited and how is Packaging.PICTURE
    assert numbers(media.path, media.index.frame_times_us.tolist()) == list(range(15, 60))


def test_what_is_encoded_is_upright_and_keeps_its_shape(tmp_path):
    shape = ("-vf", "setsar=4/3", "-c:v", "mpeg4", "-q:v", "2")
    film = counting_video(tmp_path / "film.mp4", *shape, seconds=1)
    turned = make(tmp_path / "v.mp4", "-display_rotation", "90", "-display_hflip", "-i", str(film), "-c", "copy")
    video, media, how = publish_file(tmp_path, turned)
    assert how is Packaging.PICTURE
    assert (video.mirrored, video.rotation, media.mirrored, media.rotation) == (True, 90, False, 0)
    assert (media.width, media.height) == (video.width, video.height - 1) == (64, 212)
    (seen,), (expected,) = (list(frames_at(path, [500_000])) for path in (media.path, turned))
    assert np.abs(seen.rgb.astype(int) - expected.rgb[:212]).mean() < 5


@pytest.mark.parametrize("name", ["v.mkv", "v.mov"])
def test_the_shape_of_pixels_that_the_container_alone_states_is_copied(tmp_path, name):
    film = counting_video(tmp_path / "film.mp4", seconds=1)
    sound = ("-f", "lavfi", "-i", "anullsrc=r=44100", "-c:a", "pcm_s16le", "-shortest")
    video, media, how = publish_file(
        tmp_path, make(tmp_path / name, "-i", str(film), *sound, "-c:v", "copy", "-aspect", "5:1")
    )
    assert how is Packaging.SOUND
    assert (media.width, media.height, media.sample_aspect) == (video.width, video.height, video.sample_aspect)
    assert media.width == 5 * media.height


def test_of_more_channels_than_aac_carries_the_first_two_are_published(tmp_path):
    film = counting_video(tmp_path / "film.mp4", seconds=1)
    sound = ("-f", "lavfi", "-i", "anullsrc=cl=hexadecagonal", "-c:a", "pcm_s16le", "-shortest")
    video, media, how = publish_file(tmp_path, make(tmp_path / "v.mov", "-i", str(film), *sound, "-c:v", "copy"))
    assert (how, video.audio_tracks[0].channels, media.audio_tracks[0].channels) == (Packaging.SOUND, 16, 2)


def test_most_of_a_damaged_video_is_published(tmp_path):
    path = counting_video(tmp_path / "v.avi", "-c:v", "mpeg4", "-q:v", "3", "-bf", "0", seconds=2)
    damage(path, 20, 0, 1)
    video = probe(path)
    decoded_us = analyse(video).times_us
    assert len(decoded_us) < video.frame_count
    write_media(video, packaging(video), decoded_us, tmp_path / "published.mp4")
    media = probe(tmp_path / "published.mp4")
    assert len(decoded_us) - 2 <= media.frame_count <= video.frame_count
    assert number_on(next(iter(frames_at(media.path, [1_500_000]))).rgb) == 45


def test_a_copy_that_fails_is_encoded_and_an_mp4_that_lacks_frames_is_an_error(tmp_path):
    video = probe(counting_video(tmp_path / "v.mkv", "-c:v", "mpeg4", "-q:v", "3", seconds=1, beep_at=0))
    write_media(video, Packaging.COPY, video.index.frame_times_us, tmp_path / "published.mp4")
    assert probe(tmp_path / "published.mp4").codec == "mpeg4"  # MP4 allows it, though not every player does
    index = replace(video.index, frame_times_us=np.append(video.index.frame_times_us, 1_010_000))
    with pytest.raises(MediaError, match=r"v\.mkv: 30 of its 31 frames are in the MP4"):
        write_media(replace(video, index=index), Packaging.PICTURE, index.frame_times_us, tmp_path / "lacking.mp4")


def test_the_same_video_gives_the_same_bytes(tmp_path):
    source = counting_video(tmp_path / "v.webm", "-c:v", "libvpx", "-c:a", "libvorbis", seconds=1, beep_at=0)
    video = probe(source)
    for name in ("a.mp4", "b.mp4"):
        write_media(video, packaging(video), video.index.frame_times_us, tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("name, codecs", [("v.mkv", ()), ("v.webm", ("-c:v", "libvpx", "-c:a", "libvorbis"))])
def test_a_full_disk_is_no_fault_of_the_video(tmp_path, small_disk, name, codecs):
    video = probe(counting_video(tmp_path / name, *codecs, seconds=4, beep_at=0))
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 16_000))
    with pytest.raises(OSError, match="No space left on device") as full:
        write_media(video, packaging(video), video.index.frame_times_us, small_disk / "published.mp4")
    assert full.value.errno == errno.ENOSPC


def test_each_zoo_sample_that_is_expected_is_there():
    assert {sample.file for sample in MADE} == set(EXPECTED)


@pytest.mark.parametrize("name", ["v.ts", "v.mp4"])
def test_a_recording_that_changes_its_picture_is_published_in_one_size(tmp_path, name):
    wide = Part(width=320, height=128)
    path = recording(tmp_path / name, Part(), wide, wide)
    analysis = analyse(probe(path))
    video = probe(path).with_formats(analysis.formats)
    assert packaging(video) is Packaging.PICTURE
    write_media(video, packaging(video), analysis.times_us, tmp_path / "published.mp4")
    publish_file = tmp_path / "published.mp4"
    (one,) = analyse(probe(publish_file)).formats
    times_us = probe(publish_file).index.frame_times_us
    assert (one.width, one.height) == (video.width, video.height) == (320, 128)
    assert [number_on(frame.rgb) for frame in frames_at(publish_file, times_us.tolist())] == list(range(180))
    np.testing.assert_allclose(times_us, analysis.times_us, atol=100)


@pytest.mark.parametrize(
    "parts, how, becomes",
    [
        ([Part(), Part(layout="5.1"), Part(layout="mono")], Packaging.SOUND, (48000, 6)),
        ([Part(), Part(rate=44100), Part()], Packaging.SOUND, (48000, 2)),
        ([Part(layout="7.1(wide)"), Part()], Packaging.SOUND, (48000, 8)),
        ([Part(sound=AC3), Part(sound=AC3, layout="5.1")], Packaging.SOUND, (48000, 6)),
        ([Part(sound=MP3), Part(sound=MP3, rate=32000)], Packaging.SOUND, (48000, 2)),
        ([Part(sound=MP2, layout="mono"), Part(sound=MP2)], Packaging.SOUND, (48000, 2)),
        ([Part(sound=MP3), Part(sound=MP3)], Packaging.COPY, (48000, 2)),
    ],
    ids=["channels", "rate", "7.1", "ac3", "mp3", "mp2", "unchanged"],
)
def test_sound_that_changes_is_published_as_one_and_stays_in_time(tmp_path, parts, how, becomes):
    _, media, done = publish_file(tmp_path, recording(tmp_path / "v.ts", *parts))
    loud, seen = loud_tenths(media.path)
    assert (done, seen) == (how, {becomes})
    heard = [range(20 * number + 11, 20 * number + 19) for number in range(len(parts))]
    around = [range(20 * number + 10, 20 * number + 22) for number in range(len(parts))]
    assert set(chain(*heard)) <= set(loud) <= set(chain(*around))
    assert numbers(media.path, media.index.frame_times_us.tolist()) == list(range(60 * len(parts)))


def test_an_mp4_whose_sound_changes_is_not_kept(tmp_path):
    """Players configure their decoder from the track header, which describes only the first part."""
    same = recording(tmp_path / "same.mp4", Part(sound=AC3), Part(sound=AC3))
    changing = recording(tmp_path / "changing.mp4", Part(sound=AC3), Part(sound=AC3, layout="5.1"))
    assert packaging(probe(same)) is Packaging.KEEP
    assert packaging(probe(changing)) is Packaging.SOUND
