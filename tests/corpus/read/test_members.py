"""Archives of zstandard as the Archive Team makes them: a dictionary before the first frame."""

import gzip
import sys
from pathlib import Path

import pytest

from sishu.corpus.read import members
from tests.corpus.archives import read
from tests.corpus.read.test_warc import numbered

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def skippable(content: bytes, kind: int = 0) -> bytes:
    return bytes((0x50 + kind, 0x2A, 0x4D, 0x18)) + len(content).to_bytes(4, "little") + content


RECORDS = numbered(60, 400)
DICTIONARY = zstd.train_dict(RECORDS * 20, 4_000)
FRAMES = [zstd.compress(one, zstd_dict=DICTIONARY) for one in RECORDS]
PLAIN_DICTIONARY = skippable(DICTIONARY.dict_content, 0xD)
PACKED_DICTIONARY = skippable(zstd.compress(DICTIONARY.dict_content), 0xD)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.warc.zst"


@pytest.mark.parametrize("dictionary", [PLAIN_DICTIONARY, PACKED_DICTIONARY])
def test_frames_with_a_dictionary(file: Path, dictionary: bytes) -> None:
    expected, _ = read(file, b"".join(RECORDS))
    assert read(file, dictionary + b"".join(FRAMES)) == (expected, {})
    frames = [bytearray(one) for one in FRAMES]
    frames[20][30] ^= 0xFF
    pages, reasons = read(file, dictionary + b"".join(frames))
    assert pages == expected[:20] + expected[21:] and reasons == {"damaged zstd frame": 1}
    pages, reasons = read(file, (dictionary + b"".join(FRAMES))[:-30])
    assert pages == expected[:59] and reasons == {"cut": 1}


def test_frames_to_be_skipped(file: Path) -> None:
    expected, _ = read(file, b"".join(RECORDS))
    data = skippable(b"note") + PACKED_DICTIONARY + skippable(b"") + FRAMES[0] + skippable(b"x" * 70_000, 7)
    assert read(file, data + b"".join(FRAMES[1:]) + skippable(b"end")) == (expected, {})
    packed = b"".join(zstd.compress(one) for one in RECORDS)
    assert read(file, skippable(b"note") + packed) == (expected, {})


@pytest.mark.parametrize(
    "dictionary",
    [
        skippable(b"no dictionary at all", 0xD),
        skippable(b"\x28\xb5\x2f\xfd no frame", 0xD),
        skippable(zstd.compress(bytes(members.MAX_DICTIONARY_BYTES + 1)), 0xD),
    ],
)
def test_a_damaged_dictionary_is_reported(file: Path, dictionary: bytes) -> None:
    pages, reasons = read(file, dictionary + b"".join(FRAMES))
    assert pages == [] and reasons == {"damaged zstd dictionary": 1, "damaged zstd frame": 1}
    pages, reasons = read(file, dictionary + zstd.compress(RECORDS[0]))
    assert len(pages) == 1 and reasons == {"damaged zstd dictionary": 1}


@pytest.mark.parametrize("data", [skippable(b"x"), PLAIN_DICTIONARY[:100], skippable(b"x")[:6], b"\x50\x2a"])
def test_nothing_behind(file: Path, data: bytes) -> None:
    assert read(file, data)[0] == []


def test_the_first_bytes_are_those_of_the_first_whole_member(file: Path) -> None:
    broken = bytearray(gzip.compress(RECORDS[0], mtime=0))
    broken[12] ^= 0xFF
    pages, reasons = read(file, bytes(broken) + gzip.compress(RECORDS[1]))
    assert [page.url for page in pages] == ["http://a/1"] and reasons == {"damaged gzip member": 1}
