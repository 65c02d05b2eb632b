"""Synthesises the film's sound: chords or noise under every shot, and a cue where an event has one.

Sound is mono at 24 kHz, so that one frame is exactly 960 samples. Noise is seeded by the shot's number, so the same
script always gives the same sound.
"""

import wave
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from operators.demo.films.script import FPS, Ambience, Cue, FilmScript
from operators.demo.films.timeline import PlacedShot, place_shots
from operators.demo.films.truth import event_frames

SAMPLE_RATE = 24_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS

Wave = NDArray[np.floating]

_CHORD_HZ: dict[Ambience, tuple[float, ...]] = {
    "calm": (196.0, 246.94, 293.66, 392.0),
    "bright": (261.63, 329.63, 392.0, 523.25),
    "tense": (146.83, 155.56, 220.0),
    "sad": (174.61, 207.65, 261.63),
    "sea": (130.81, 196.0),
    "wind": (164.81,),
    "crowd": (220.0, 277.18, 329.63),
    "engine": (73.42, 110.0, 146.83),
}
"""Equal-tempered notes, A4 = 440 Hz."""

_NOISE: dict[Ambience, tuple[float, int, float]] = {
    "sea": (0.5, 24, 0.16),
    "wind": (0.4, 40, 0.3),
    "crowd": (0.35, 6, 1.7),
    "engine": (0.12, 10, 8.0),
}
"""Level, smoothing in samples (more is darker) and swells per second."""

_CUE: dict[Cue, tuple[tuple[float, ...], float, float]] = {
    "beep": ((880.0,), 0.25, 0.0),
    "horn": ((155.56, 196.0), 1.2, 0.0),
    "bell": ((659.25, 1318.5, 1975.5), 1.4, 3.0),
    "whistle": ((2093.0, 2110.0), 0.6, 0.0),
    "buzz": ((110.0, 116.0, 220.0), 0.5, 0.0),
    "chime": ((1046.5, 1318.5, 1568.0), 1.0, 2.5),
    "thump": ((65.41, 98.0), 0.35, 9.0),
}
"""Notes in Hz, seconds, and decay per second (0 holds the tone)."""

_CHORD_SAMPLES = 10 * SAMPLE_RATE
_LONGEST_CUE = round(max(seconds for _, seconds, _ in _CUE.values()) * SAMPLE_RATE)
"""Samples. Chords are made in multiples of ten seconds, so that shots share them."""


def write_sound(script: FilmScript, path: Path) -> None:
    """Write the film's sound as 16-bit WAV of exactly the film's length, shot by shot."""
    tail = np.zeros(0, np.float32)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        for shot in place_shots(script):
            samples = (shot.end - shot.start) * SAMPLES_PER_FRAME
            track = np.zeros(max(samples + _LONGEST_CUE, len(tail)), np.float32)
            track[: len(tail)] = tail
            track[:samples] += _ambience(shot)
            for event in shot.shot.events:
                if event.cue:
                    first = (event_frames(shot, event)[0] - shot.start) * SAMPLES_PER_FRAME
                    sound = _cue(event.cue)
                    track[first : first + len(sound)] += sound
            file.writeframes(np.rint(np.clip(track[:samples], -1, 1) * 32_767).astype("<i2").tobytes())
            tail = track[samples:]


def _ambience(placed: PlacedShot) -> Wave:
    samples = (placed.end - placed.start) * SAMPLES_PER_FRAME
    kind = placed.shot.ambience
    if kind == "silence":
        return np.zeros(samples, np.float32)
    seconds = np.arange(samples, dtype=np.float32) / SAMPLE_RATE
    bed = _chord(kind, -(-samples // _CHORD_SAMPLES))[:samples]
    if kind in _NOISE:
        level, smoothing, swells = _NOISE[kind]
        noise = _smooth_noise(samples, smoothing, seed=placed.index)
        bed = 0.3 * bed + level * noise * (0.7 + 0.3 * np.sin(2 * np.pi * swells * seconds))
    return 0.3 * bed * _edges(samples, 0.08)


@lru_cache(32)
def _chord(kind: Ambience, parts: int) -> Wave:
    """The sum of the notes. Each is struck every two seconds, half a second after the one before."""
    seconds = np.arange(parts * _CHORD_SAMPLES, dtype=np.float32) / SAMPLE_RATE
    notes, total = _CHORD_HZ[kind], np.zeros_like(seconds)
    for rank, note in enumerate(notes):
        since = (seconds - 0.5 * rank) % 2.0
        total += np.sin(2 * np.pi * note * seconds) * (0.35 + 0.65 * np.exp(-2.0 * since))
    return total / len(notes)


def _smooth_noise(samples: int, smoothing: int, *, seed: int) -> Wave:
    white = np.random.default_rng(seed).standard_normal(samples + smoothing, dtype=np.float32)
    sums = np.cumsum(white, dtype=np.float64)
    return ((sums[smoothing:] - sums[:-smoothing]) / (2 * np.sqrt(smoothing))).astype(np.float32)


def _cue(cue: Cue) -> Wave:
    notes, length, decay = _CUE[cue]
    samples = round(length * SAMPLE_RATE)
    seconds = np.arange(samples, dtype=np.float32) / SAMPLE_RATE
    tone = sum(np.sin(2 * np.pi * note * seconds) for note in notes) / len(notes)
    return (0.45 * tone * np.exp(-decay * seconds) * _edges(samples, 0.01)).astype(np.float32)


def _edges(samples: int, seconds: float) -> Wave:
    """A gain of 1 that rises and falls over `seconds` at the ends, to avoid clicks."""
    ramp = np.arange(samples, dtype=np.float32) / (seconds * SAMPLE_RATE)
    return np.minimum(1.0, np.minimum(ramp, ramp[::-1]))
