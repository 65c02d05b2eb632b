"""Joins H.264 of two encoders in one track: the parameter sets of both side by side, told apart by their numbers.

A track has one decoder configuration (avcC, ISO/IEC 14496-15, 5.3.3.1). It may hold several parameter sets, and each
picture names its own, so pictures of another encoder can stand beside those of the source when their sets' numbers
differ. That takes no parameter sets inside the frames, which players of `avc1` tracks need not look for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PROFILES = {"Constrained Baseline": "baseline", "Baseline": "baseline", "Main": "main", "High": "high"}
"""Profiles that the encoder can be held to, by ffmpeg's names, with x264's names: no track mixes profiles."""

_MOST_SETS = 32
"""Numbers of sequence parameter sets are less than this (ITU-T H.264, 7.4.2.1.1)."""


class CannotJoin(ValueError):
    """The parameter sets cannot share a track."""


@dataclass(frozen=True)
class Configuration:
    """A parsed avcC."""

    header: bytes
    """Version, profile, compatibility, level, size of lengths."""
    sequence_sets: tuple[bytes, ...]
    picture_sets: tuple[bytes, ...]
    extension: bytes
    """What profiles above Main say of chroma and bit depth."""

    @classmethod
    def parse(cls, extradata: bytes) -> Configuration:
        """Raises `CannotJoin` if it is no avcC, or one of lengths shorter than four bytes."""
        if len(extradata) < 7 or extradata[0] != 1 or extradata[4] & 3 != 3:
            raise CannotJoin("the source's parameter sets are not an avcC with lengths of four bytes")
        sequence_sets, position = _sets(extradata, 6, extradata[5] & 31)
        picture_sets, position = _sets(extradata, position + 1, extradata[position])
        return cls(extradata[:5], sequence_sets, picture_sets, extradata[position:])

    def __bytes__(self) -> bytes:
        return b"".join(
            (
                self.header,
                bytes([0xE0 | len(self.sequence_sets)]),
                *(len(unit).to_bytes(2) + unit for unit in self.sequence_sets),
                bytes([len(self.picture_sets)]),
                *(len(unit).to_bytes(2) + unit for unit in self.picture_sets),
                self.extension,
            )
        )


def free_number(source: bytes) -> int:
    """A number that none of the source's parameter sets has, for the encoder to use.

    Raises:
        CannotJoin: the source's configuration cannot be read, or has no free number.
    """
    configuration = Configuration.parse(source)
    used = {_sequence_number(unit) for unit in configuration.sequence_sets}
    used |= {_picture_number(unit) for unit in configuration.picture_sets}
    number = min(set(range(_MOST_SETS)) - used, default=None)
    if number is None:
        raise CannotJoin("the source uses every number of a parameter set")
    return number


def joined(source: bytes, encoded: Sequence[bytes]) -> bytes:
    """The source's decoder configuration with the parameter sets of encoded pieces.

    Raises:
        CannotJoin: two different sets have one number, or the profiles differ.
    """
    whole = Configuration.parse(source)
    for piece in map(Configuration.parse, encoded):
        if piece.header[1] != whole.header[1]:
            raise CannotJoin(f"the encoder wrote profile {piece.header[1]}, not the source's {whole.header[1]}")
        whole = Configuration(
            whole.header[:3] + bytes([max(whole.header[3], piece.header[3])]) + whole.header[4:],
            tuple(dict.fromkeys(whole.sequence_sets + piece.sequence_sets)),
            tuple(dict.fromkeys(whole.picture_sets + piece.picture_sets)),
            whole.extension,
        )
    sequence_numbers = [_sequence_number(unit) for unit in whole.sequence_sets]
    picture_numbers = [_picture_number(unit) for unit in whole.picture_sets]
    if len(set(sequence_numbers)) < len(sequence_numbers) or len(set(picture_numbers)) < len(picture_numbers):
        raise CannotJoin("two different parameter sets have one number")
    return bytes(whole)


def _sets(data: bytes, position: int, count: int) -> tuple[tuple[bytes, ...], int]:
    units = []
    for _ in range(count):
        beyond = position + 2 + int.from_bytes(data[position : position + 2])
        units.append(data[position + 2 : beyond])
        position = beyond
    return tuple(units), position


def _sequence_number(unit: bytes) -> int:
    return _exp_golomb(unit[4:8])  # after the unit's own byte come profile, constraints and level


def _picture_number(unit: bytes) -> int:
    return _exp_golomb(unit[1:5])


def _exp_golomb(data: bytes) -> int:
    """The unsigned Exp-Golomb number that data begins with (ITU-T H.264, 9.1)."""
    bits = "".join(f"{byte:08b}" for byte in data)
    zeros = bits.index("1")
    return int(bits[zeros : 2 * zeros + 1], 2) - 1
