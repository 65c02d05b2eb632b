from dataclasses import replace
from pathlib import Path

import pytest
import torch

from schemas.errors import BadInput
from tests.support.properties import given, settings, st
from trainer_plugin.data.features import FeatureFolder, from_float8, is_float8, read_features, to_float8
from trainer_plugin.types import Grid, VideoClip, VideoSource

CLIP = VideoClip(VideoSource("film", "film.mp4"), (0, 1, 2, 3, 4, 5), (32, 64), Grid(3, 2, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("where", ["local", "s3"])
def test_features_of_some_temporal_patches_are_read(where, dtype, tmp_path, request):
    url = str(tmp_path / "features") if where == "local" else request.getfixturevalue("s3_bucket") + "/features"
    features = torch.randn(24, 5).to(dtype)
    assert FeatureFolder(url, "tower").find(CLIP) is None
    FeatureFolder(url, "tower").write(CLIP, features)
    clip = replace(CLIP, features=FeatureFolder(url, "tower").find(CLIP))
    assert torch.equal(read_features(clip, 0, 3), features)
    assert torch.equal(read_features(clip, 1, 3), features[8:])


@pytest.mark.parametrize(
    "other, what",
    [
        ({"frame_times_us": (0, 1, 2, 3, 4, 6)}, "frame_times_us"),
        ({"size": (64, 64)}, "size"),
        ({"video": VideoSource("film", "elsewhere.mp4")}, None),
    ],
)
def test_features_of_other_frames_are_refused_and_the_address_does_not_matter(tmp_path, other, what):
    ref = FeatureFolder(str(tmp_path), "tower").write(CLIP, torch.zeros(24, 5))
    clip = replace(CLIP, features=ref, **other)
    if what is None:
        assert read_features(clip, 0, 1).shape == (8, 5)
        return
    with pytest.raises(BadInput, match=rf"film\.\w+\.safetensors: other {what} than requested"):
        read_features(clip, 0, 1)
    with pytest.raises(BadInput, match="of video film are of other frames or another size than requested"):
        FeatureFolder(str(tmp_path), "tower").find(replace(CLIP, **other))


def test_features_of_another_tower_are_refused(tmp_path):
    FeatureFolder(str(tmp_path), "before training").write(CLIP, torch.zeros(24, 5))
    folder = FeatureFolder(str(tmp_path), "after training")
    with pytest.raises(BadInput, match="other tower than requested; encode the videos into another folder"):
        read_features(replace(CLIP, features=folder.find(CLIP)), 0, 1)
    with pytest.raises(BadInput, match="other tower than requested"):
        folder.check([CLIP])
    with pytest.raises(BadInput, match=r"\(its tower is before training, this model's is after training\)"):
        folder.check_tower()
    for tower, where in (("before training", tmp_path), ("any", tmp_path / "none")):
        FeatureFolder(str(where), tower).check_tower()
    FeatureFolder(str(tmp_path), "before training").check([CLIP])


KNOWN = replace(CLIP, video=VideoSource("film", "film.mp4", 0, 100, "a" * 64))


@pytest.mark.parametrize(("name", "other"), [("sha256", {"sha256": "b" * 64}), ("bytes", {"size": 101})])
def test_features_of_another_video_of_the_same_name_are_refused(tmp_path, name, other):
    ref = FeatureFolder(str(tmp_path), "tower").write(KNOWN, torch.zeros(24, 5))
    with pytest.raises(BadInput, match=f"other {name} than requested"):
        read_features(replace(KNOWN, features=ref, video=replace(KNOWN.video, **other)), 0, 1)
    assert len(read_features(replace(CLIP, features=ref), 0, 1)) == 8  # of unknown content
    ref = FeatureFolder(str(tmp_path / "earlier"), "tower").write(CLIP, torch.zeros(24, 5))
    assert len(read_features(replace(KNOWN, features=ref), 0, 1)) == 8  # a file without its video's hash


# --- float8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float8_features_are_read_in_their_dtype(tmp_path, dtype):
    features = torch.randn(24, 500).to(dtype)
    folder = FeatureFolder(str(tmp_path), "tower")
    clip = replace(CLIP, features=folder.write(CLIP, features, float8=True))
    expected = from_float8(*to_float8(features), dtype)
    assert torch.equal(read_features(clip, 0, 3), expected)
    assert torch.equal(read_features(clip, 1, 2), expected[8:16])
    assert is_float8(clip)
    assert Path(clip.features.url).stat().st_size < 24 * 500 * 1.1
    assert not is_float8(replace(CLIP, features=folder.write(CLIP, features)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_of_float8_is_as_documented(dtype):
    random = torch.Generator().manual_seed(0)
    features = (torch.randn(500, 1000, generator=random) * torch.randn(500, 1, generator=random).exp()).to(dtype)
    error = from_float8(*to_float8(features), dtype).float() - features.float()
    assert 0.026 < float(error.norm() / features.float().norm()) < 0.0275
    large = features.float().abs() > 2**-14 * features.float().abs().amax(-1, keepdim=True)
    assert float((error.abs() / features.float().abs())[large].max()) < 0.0589


rows = st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=3, max_size=3)


@settings(deadline=None)
@given(st.lists(rows, min_size=1, max_size=4), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_float8_does_not_round_twice(values, dtype):
    limit = 2.0**15 if dtype is torch.float16 else 2.0**60  # float16's largest values would be rounded to infinity
    features = torch.tensor(values).clamp(-limit, limit).to(dtype)
    once = from_float8(*to_float8(features), dtype)
    assert once.isfinite().all()
    assert torch.equal(from_float8(*to_float8(once), dtype), once)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (lambda whole: whole[:-1], "it is cut off; remove it, and encode the video again"),
        (lambda whole: whole[:40], "its header is damaged"),
        (lambda whole: b"\xff" * len(whole), "its header is damaged"),
        (lambda whole: b"", "its header is damaged"),
        (lambda whole: (2).to_bytes(8, "little") + b"[]", "its header is damaged"),
        (lambda whole: whole.replace(b"F32", b"F31"), "its header is damaged"),
        (lambda whole: whole.replace(b"F32", b"F8_E4M3"), "its header is damaged"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, complaint):
    ref = FeatureFolder(str(tmp_path), "tower").write(CLIP, torch.zeros(24, 5))
    path = Path(ref.url)
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(BadInput, match=rf"film\.\w+\.safetensors: {complaint}"):
        read_features(replace(CLIP, features=ref), 1, 3)


def test_a_deleted_file_is_refused_by_name(tmp_path):
    ref = FeatureFolder(str(tmp_path), "tower").write(CLIP, torch.zeros(24, 5))
    Path(ref.url).unlink()
    with pytest.raises(BadInput, match=r"film\.\w+\.safetensors: deleted since the run began"):
        read_features(replace(CLIP, features=ref), 1, 3)


def test_a_folder_holds_a_video_in_several_sizes(tmp_path):
    folder = FeatureFolder(str(tmp_path), "tower")
    clips = {1.0: CLIP, 2.0: replace(CLIP, size=(16, 32))}
    for value, clip in clips.items():
        folder.write(clip, torch.full((24, 5), value))
    for value, clip in clips.items():
        assert clip in folder
        assert read_features(replace(clip, features=folder.find(clip)), 0, 1).unique() == value
    assert folder.find(replace(CLIP, video=VideoSource("fil", "fil.mp4"))) is None
