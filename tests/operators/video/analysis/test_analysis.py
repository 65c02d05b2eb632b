import numpy as np
import pytest

from operators.video.analysis.analysis import FrameSampling, analyse
from operators.video.decode.packets import UnreadableVideo
from operators.video.decode.probe import probe
from schemas.config import Detector
from tests.support.videos import counting_video, damage, make, shots_video


def test_shots_begin_at_exact_frame_times_and_are_judged_from_one_decode(tmp_path):
    analysis = analyse(probe(shots_video(tmp_path / "v.mp4", [1.5, 2.0, 1.0])))
    assert analysis.shot_starts(Detector.ADAPTIVE, 3.0) == (0, 1_500_000, 3_500_000)
    assert analysis.shot_starts(Detector.CONTENT, 27.0) == (0, 1_500_000, 3_500_000)
    assert analysis.shot_starts(Detector.CONTENT, 250.0) == (0,)
    with pytest.raises(ValueError, match="TransNetV2 has judged 0 of 135 frames"):
        analysis.shot_starts(Detector.TRANSNET, 0.5)
    with pytest.raises(AssertionError, match="histogram"):
        analysis.shot_starts("histogram", 0.5)


def test_shots_of_a_variable_rate_begin_where_they_are_shown(tmp_path):
    steady = shots_video(tmp_path / "steady.mp4", [2.0, 2.0])
    chosen = ("-vf", "select='lt(n,45)+not(mod(n,3))'", "-fps_mode", "passthrough", "-enc_time_base", "1/90000")
    video = probe(make(tmp_path / "v.mp4", "-i", str(steady), *chosen))
    assert video.variable_frame_rate
    assert analyse(video).shot_starts(Detector.ADAPTIVE, 3.0) == (0, 2_000_000)


def test_every_frame_is_measured_once(tmp_path):
    video = probe(counting_video(tmp_path / "v.ts", beep_at=0))
    analysis = analyse(video)
    np.testing.assert_array_equal(analysis.times_us, video.index.frame_times_us)
    assert len(analysis.motion) == len(analysis.sharpness) == len(analysis.brightness) == 120
    assert analysis.unreadable_us == 0
    assert len(analysis.damaged_us) == 0


def test_measures_match_what_the_film_shows(tmp_path):
    def still(name, graph):
        made = make(
            tmp_path / name, "-f", "lavfi", "-i", graph, "-t", "1", "-pix_fmt", "yuv420p", "-preset", "ultrafast"
        )
        return analyse(probe(made)).statistics(0, 1_000_000)

    white, black = still("white.mp4", "color=white:s=320x180"), still("black.mp4", "color=black:s=320x180")
    assert white.brightness == pytest.approx(1, abs=0.02)
    assert black.brightness == pytest.approx(0, abs=0.02)
    assert white.motion == black.motion == 0
    clear, blurred = still("clear.mp4", "testsrc2=s=320x180"), still("blurred.mp4", "testsrc2=s=320x180,gblur=4")
    assert clear.sharpness > 4 * blurred.sharpness
    assert clear.motion > 0.005
    blinking = still("blink.mp4", "color=white:s=320x180,geq=lum='235-219*mod(N,2)':cb=128:cr=128")
    assert blinking.motion == pytest.approx(1, abs=0.03)


def test_a_cut_at_the_start_of_a_span_is_not_motion(tmp_path):
    graph = "color=white:s=320x180:d=1[a];color=black:s=320x180:d=1[b];[a][b]concat"
    made = make(tmp_path / "v.mp4", "-filter_complex", graph, "-pix_fmt", "yuv420p", "-preset", "ultrafast")
    analysis = analyse(probe(made))
    assert analysis.statistics(1_000_000, 2_000_000).motion == 0
    assert analysis.statistics(0, 2_000_000).motion > 0.01


def test_a_span_without_a_frame_of_its_own_is_measured_from_the_one_standing(tmp_path):
    video = probe(make(tmp_path / "v.mp4", "-f", "lavfi", "-i", "color=white:s=64x64:r=1:d=3", "-preset", "ultrafast"))
    statistics = analyse(video).statistics(1_200_000, 1_800_000)
    assert (statistics.frame_count, statistics.motion) == (0, 0.0)
    assert statistics.brightness == pytest.approx(1, abs=0.02)


def test_black_and_frozen_frames_are_counted(tmp_path):
    """The video is one second of noise, one of a still picture and one of black."""
    moving, still = (
        "nullsrc=s=160x96:r=20:d=1,geq=random(1)*255:128:128",
        "testsrc2=s=160x96:r=20:d=1,loop=19:1:0,trim=end_frame=20",
    )
    graph = f"{moving}[a];{still},setpts=N/20/TB[b];color=black:s=160x96:r=20:d=1[c];[a][b][c]concat=n=3"
    made = make(tmp_path / "v.mkv", "-filter_complex", graph, "-pix_fmt", "yuv420p", "-c:v", "ffv1")
    analysis = analyse(probe(made))
    moving, still, black = (analysis.statistics(second * 1_000_000, (second + 1) * 1_000_000) for second in range(3))
    assert (moving.black, still.black, black.black) == (0, 0, 1)
    assert (moving.frozen, still.frozen, black.frozen) == (0, 1, 1)


class Network:
    """Stand-in for the shot network. Keeps its frames and returns their mean brightness as transition probabilities."""

    def __init__(self, shown):
        self.shown = shown

    def add(self, rgb):
        self.shown.append(rgb)

    def probabilities(self):
        return np.array([rgb.mean() for rgb in self.shown], np.float32) / 255


def test_spans_decoded_concurrently_give_the_same_measures_and_samples(tmp_path):
    video = probe(make(tmp_path / "v.mp4", "-f", "lavfi", "-i", "testsrc2=s=320x180:d=22:r=20", "-g", "40", "-bf", "3"))
    outcomes = []
    for workers in (1, 3):
        sampled, tiny = [], []
        analysis = analyse(
            video,
            samplings=[
                FrameSampling(2, lambda time_us, frame, seen=sampled: seen.append((time_us, frame.to_ndarray())))
            ],
            network=Network(tiny),
            workers=workers,
        )
        outcomes.append((analysis, sampled, tiny))
    (sequential, sequential_sampled, sequential_tiny), (parallel, parallel_sampled, parallel_tiny) = outcomes
    for name in ("times_us", "motion", "sharpness", "brightness", "dark", "descriptors", "transition"):
        np.testing.assert_array_equal(getattr(parallel, name), getattr(sequential, name))
    for name in ("times_us", "content"):
        np.testing.assert_array_equal(getattr(parallel.scores, name), getattr(sequential.scores, name))
    assert [time_us for time_us, _ in sequential_sampled] == [500_000 * number for number in range(44)]
    assert [rgb.shape for rgb in sequential_tiny] == [(27, 48, 3)] * 440
    assert [time_us for time_us, _ in sequential_sampled] == [time_us for time_us, _ in parallel_sampled]
    pictures = [[picture for _, picture in sampled] for sampled in (sequential_sampled, parallel_sampled)]
    for one, other in (pictures, (sequential_tiny, parallel_tiny)):
        assert all(np.array_equal(picture, same) for picture, same in zip(one, other, strict=True))


def test_a_grid_takes_the_first_frame_of_each_cell(tmp_path):
    """The frame rate is variable: every frame of the first second, then one frame every 0.7 seconds."""
    chosen = ("-vf", "select='lt(n,30)+not(mod(n,21))'", "-fps_mode", "passthrough")
    video = probe(counting_video(tmp_path / "v.mp4", *chosen))
    sampled = []
    analyse(video, samplings=[FrameSampling(2, lambda time_us, frame: sampled.append(time_us))])
    times = video.index.frame_times_us
    first = {int(time) // 500_000: int(time) for time in times[::-1]}
    assert sampled == sorted(first.values())


def test_boundary_distance_separates_similar_shots_from_different_ones(tmp_path):
    colours = ("red", "red", "blue")
    graph = "".join(
        f"color={colour}:s=160x96:r=20:d=1,drawbox=x={20 + 40 * (colour == 'blue')}:w=30:h=60:c=white:t=fill[{n}];"
        for n, colour in enumerate(colours)
    )
    made = make(tmp_path / "v.mp4", "-filter_complex", f"{graph}[0][1][2]concat=n=3", "-pix_fmt", "yuv420p")
    alike, unlike = analyse(probe(made)).shot_boundary_distance((0, 1_000_000, 2_000_000))
    assert alike < 0.05
    assert unlike > 0.5


def test_a_hash_survives_a_smaller_copy_and_not_another_film(tmp_path):
    original = shots_video(tmp_path / "v.mp4", [1, 1, 1])
    smaller = make(tmp_path / "smaller.webm", "-i", str(original), "-s", "160x90", "-c:v", "libvpx", "-b:v", "200k")
    other = make(tmp_path / "other.mp4", "-f", "lavfi", "-i", "life=s=320x180:mold=10:seed=1:r=30", "-t", "3")
    hashes = [int(analyse(probe(path)).perceptual_hash(), 16) for path in (original, smaller, other)]
    assert (hashes[0] ^ hashes[1]).bit_count() <= 40
    assert (hashes[0] ^ hashes[2]).bit_count() > 120


def damaged(source, target, begin, end):
    """Copy a file with random bytes in the share [begin, end) of its `mdat` box."""
    data = bytearray(source.read_bytes())
    first, last = data.index(b"mdat") + 8, len(data)
    begin, end = (int(first + share * (last - first)) for share in (begin, end))
    data[begin:end] = np.random.default_rng(0).bytes(end - begin)
    target.write_bytes(data)
    return target


def test_what_is_left_of_a_damaged_video_is_used(tmp_path):
    whole = counting_video(tmp_path / "whole.mp4", "-movflags", "+faststart", "-g", "10")
    video = probe(damaged(whole, tmp_path / "hole.mp4", 0.4, 0.6))
    analysis = analyse(video)
    assert 60 < len(analysis.times_us) < 120
    assert 300_000 < analysis.unreadable_us < 1_200_000


def test_a_frame_that_the_decoder_has_to_make_up_in_part_is_named(tmp_path):
    path = counting_video(tmp_path / "v.mp4", "-g", "10", "-bf", "0", "-x264-params", "scenecut=0")
    damage(path, 40, begin=0.5, end=0.6)
    analysis = analyse(probe(path))
    assert analysis.damaged_us.tolist() == [analysis.times_us[40]]


def test_a_video_that_is_mostly_damage_is_unreadable(tmp_path):
    whole = counting_video(tmp_path / "whole.mp4", "-movflags", "+faststart", "-g", "10")
    video = probe(damaged(whole, tmp_path / "ruin.mp4", 0.2, 1.0))
    with pytest.raises(UnreadableVideo, match=r"ruin\.mp4: .* s of 4\.0 s cannot be decoded") as raised:
        analyse(video)
    assert raised.value.reason == "damaged"
