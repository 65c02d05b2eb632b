"""Joins H.264 of two encoders in one track, with the parameter sets of both under different ids.

A track has one decoder configuration (avcC, ISO/IEC 14496-15, 5.3.3.1). It may hold several parameter sets, and each
picture refers to its own. Pictures of another encoder can therefore share a track with those of the source if the ids
of their parameter sets differ. This requires that there are no parameter sets inside the frames, which players of
`avc1` tracks need not search for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PROFILES = {"Constrained Baseline": "baseline", "Baseline": "baseline", "Main": "main", "High": "high"}
"""x264's names of the profiles that the encoder can be restricted to, by ffmpeg's names. No track mixes profiles."""

_MOST_SETS = 32
"""Ids of sequence parameter sets are less than this (ITU-T H.264, 7.4.2.1.1)."""


class CannotJoin(ValueError):
    """The parameter sets cannot share a track."""


@dataclass(frozen=True)
class Configuration:
    """A parsed avcC."""

    header: bytes
    """Version, profile, compatibility, level and size of the length field."""
    sequence_sets: tuple[bytes, ...]
    picture_sets: tuple[bytes, ...]
    extension: bytes
    """Chroma format and bit depth, which profiles above Main state here."""

    @classmethod
    def parse(cls, extradata: bytes) -> Configuration:
        """Parse the extradata of an H.264 stream.

        Raises:
            CannotJoin: it is no avcC, or its NAL unit lengths have fewer than four bytes.
        """
        if len(extradata) < 7 or extradata[0] != 1 or extradata[4] & 3 != 3:
            raise CannotJoin("the source's parameter sets are not an avcC with lengths of four bytes")
        sequence_sets, position = _parse_sets(extradata, 6, extradata[5] & 31)
        picture_sets, position = _parse_sets(extradata, position + 1, extradata[position])
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


def free_set_id(source: bytes) -> int:
    """The smallest parameter set id that the source does not use, for the encoder.

    Raises:
        CannotJoin: the source's configuration cannot be parsed, or has no free id.
    """
    configuration = Configuration.parse(source)
    used = {_sequence_set_id(unit) for unit in configuration.sequence_sets}
    used |= {_picture_set_id(unit) for unit in configuration.picture_sets}
    number = min(set(range(_MOST_SETS)) - used, default=None)
    if number is None:
        raise CannotJoin("the source uses every number of a parameter set")
    return number


def join_configurations(source: bytes, encoded: Sequence[bytes]) -> bytes:
    """The source's decoder configuration with the parameter sets of encoded pieces added.

    Args:
        source: avcC of the source.
        encoded: avcC of each piece.

    Raises:
        CannotJoin: two different sets have the same id, the profiles differ, or a configuration cannot be parsed.
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
    sequence_ids = [_sequence_set_id(unit) for unit in whole.sequence_sets]
    picture_ids = [_picture_set_id(unit) for unit in whole.picture_sets]
    if len(set(sequence_ids)) < len(sequence_ids) or len(set(picture_ids)) < len(picture_ids):
        raise CannotJoin("two different parameter sets have one number")
    return bytes(whole)


def _parse_sets(data: bytes, position: int, count: int) -> tuple[tuple[bytes, ...], int]:
    units = []
    for _ in range(count):
        beyond = position + 2 + int.from_bytes(data[position : position + 2])
        units.append(data[position + 2 : beyond])
        position = beyond
    return tuple(units), position


def _sequence_set_id(unit: bytes) -> int:
    return _exp_golomb(unit[4:8])  # the unit's own byte, profile, constraints and level precede it


def _picture_set_id(unit: bytes) -> int:
    return _exp_golomb(unit[1:5])


def _exp_golomb(data: bytes) -> int:
    """Decode the unsigned Exp-Golomb number at the start of the data (ITU-T H.264, 9.1)."""
    bits = "".join(f"{byte:08b}" for byte in data)
    zeros = bits.index("1")
    return int(bits[zeros : 2 * zeros + 1], 2) - 1
