"""Text out of PDFs, of which some are made to do harm."""

import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.corpus.document import Document
from sishu.corpus.read import pdf
from sishu.corpus.read.pdf import paragraphs, read_pdf
from sishu.corpus.read.sources import read_documents_or_pages

LATIN = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
CHINESE = (
    b"<</Type/Font/Subtype/Type0/BaseFont/STSong-Light/Encoding/UniGB-UCS2-H/DescendantFonts["
    b"<</Type/Font/Subtype/CIDFontType0/BaseFont/STSong-Light"
    b"/CIDSystemInfo<</Registry(Adobe)/Ordering(GB1)/Supplement 0>>>>]>>"
)
ENGLISH_LINES = [
    "The school opens at eight and closes when the last of the pupils has gone home, which may be late",
    "in winter, for there is a stove in the great room and there is none in many of their houses, and so",
    "they stay.",
    "A second paragraph follows, and it is long enough to reach the margin of the page on its first line",
    "but no further than here.",
]
CHINESE_LINES = [
    "私塾是旧时私人设立的教学处所，一般只有一个教师，采用个别教学法，没有一定的教材和学",
    "习年限，学生多为附近人家的子弟，也有从远方来的。",
    "学而时习之，不亦说乎？",
]


def make_pdf(pages: list[bytes], font: bytes = LATIN, extra: bytes = b"", trailer: bytes = b"") -> bytes:
    """A PDF with the given content streams."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(pages)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), kids),
        font,
    ]
    for n, content in enumerate(pages):
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F 3 0 R>>>>"
            b"/Contents %d 0 R>>" % (5 + 2 * n)
        )
        objects.append(b"<<%s/Length %d>>stream\n%s\nendstream" % (extra, len(content), content))
    out, places = bytearray(b"%PDF-1.4\n"), []
    for n, one in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (n, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    end = b"trailer<</Size %d/Root 1 0 R%s>>startxref %d %%%%EOF" % (size, trailer, len(out))
    return bytes(out) + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + end


def english(lines: list[str]) -> bytes:
    shown = b" ".join(b"(%s) Tj T*" % line.encode() for line in lines)
    return b"BT /F 9 Tf 12 TL 50 750 Td " + shown + b" ET"


def chinese(lines: list[str]) -> bytes:
    shown = b" ".join(b"<%s> Tj T*" % line.encode("utf-16-be").hex().encode() for line in lines)
    return b"BT /F 9 Tf 12 TL 50 750 Td " + shown + b" ET"


def read(path: Path, data: bytes) -> tuple[str, str]:
    path.write_bytes(data)
    with path.open("rb") as file:
        return read_pdf(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.pdf"


def test_lines_become_paragraphs(file: Path) -> None:
    first, second = " ".join(ENGLISH_LINES[:3]), " ".join(ENGLISH_LINES[3:])
    text, reason = read(file, make_pdf([english(ENGLISH_LINES), english(["2", "Short."])]))
    assert text == f"{first}\n{second}\nShort.\n" and not reason
    text, reason = read(file, make_pdf([chinese(CHINESE_LINES)], CHINESE))
    assert text == "".join(CHINESE_LINES[:2]) + "\n" + CHINESE_LINES[2] + "\n" and not reason


def test_a_word_divided_at_the_margin(file: Path) -> None:
    text, _ = read(file, make_pdf([english(["The exam-", "ination was long."])]))
    assert text == "The examination was long.\n"


def test_verses_and_labels_stay_apart() -> None:
    assert (
        paragraphs("床前明月光\r\n疑是地上霜\r\n举头望明月\r\n低头思故乡")
        == "床前明月光\n疑是地上霜\n举头望明月\n低头思故乡"
    )
    assert paragraphs("name 1\r\nname 2") == "name 1\nname 2"
    assert paragraphs("- 17 -") == paragraphs("") == paragraphs(" \r\n ") == ""


@given(st.text(max_size=400))
def test_nothing_is_lost_but_spaces_and_page_numbers(page: str) -> None:
    kept = "".join(paragraphs(page).split())
    whole = "".join(page.replace("\ufffe", "").split())
    assert kept in whole
    if not any(pdf._PAGE_NUMBER.fullmatch(line.strip()) for line in page.replace("\ufffe", "").splitlines()):
        assert kept == whole


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged PDF"),
        (b"%PDF-1.4 nothing else", "damaged PDF"),
        (make_pdf([english(["words"])])[:300], "damaged PDF"),
        (make_pdf([]), "damaged PDF"),
        (make_pdf([b"0 0 100 100 re f"]), "PDF without text"),
        (make_pdf([english(["x"])]).replace(b"/Kids[4 0 R]", b"/Kids[2 0 R]"), "PDF with damaged pages"),
        (
            make_pdf(
                [english(["x"])],
                trailer=b"/ID[<00><00>]/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<" + b"11" * 32 + b">/U<"
                + b"22" * 32 + b">>>",
            ),
            "encrypted PDF",
        ),
        # a hundred bytes that ask for a hundred gigabytes, and a page that asks for hours
        (
            make_pdf(
                [zlib.compress(zlib.compress(zlib.compress(bytes(1 << 28)) * 40))],
                extra=b"/Filter[/FlateDecode/FlateDecode/FlateDecode]",
            ),
            None,
        ),
        (
            make_pdf([zlib.compress(english(["x" * 80]) * 2_000_000, 1)], extra=b"/Filter/FlateDecode"),
            "PDF that takes too much time or memory",
        ),
    ],
    ids=["empty", "head", "cut", "no pages", "image", "loop", "encrypted", "bomb", "slow"],
)  # fmt: skip
def test_what_cannot_be_read_is_said(
    file: Path, data: bytes, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, "MAX_MEMORY_BYTES", 500_000_000)
    text, said = read(file, data)
    assert text == "" and said == (reason or said) != ""


def test_time_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MAX_SECONDS", 1)
    data = make_pdf([zlib.compress(b"0 0 m 1 1 l S " * 5_000_000, 1)] * 5, extra=b"/Filter/FlateDecode")
    assert read(file, data) == ("", "PDF that takes too much time or memory")


def test_long_ones_are_cut(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_pdf([english([f"page {n} of ten thousand"]) for n in range(10_000)])
    text, reason = read(file, data)
    assert text.count("\n") == pdf.MAX_PAGES and reason == "PDF cut because it is too long"
    monkeypatch.setattr(pdf, "MAX_TEXT_BYTES", 50)
    text, reason = read(file, data)
    assert (
        text == "page 0 of ten thousand\npage 1 of ten thousand\n"
        and reason == "PDF cut because it is too long"
    )


def test_nothing_is_imported_from_where_the_command_runs(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unicodedata.py").write_text("raise SystemExit(9)")
    (tmp_path / "pypdfium2.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert read(file, make_pdf([english(["words"])])) == ("words\n", "")


def test_as_a_source(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(make_pdf([english(ENGLISH_LINES)]))
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "c.PDF").write_bytes(make_pdf([b""]))
    reports: list[str] = []
    items = list(read_documents_or_pages(tmp_path, reports.append))
    assert [item.url for item in items] == ["a.pdf"]
    assert isinstance(items[0], Document) and items[0].text.startswith("The school opens")
    assert reports == ["damaged PDF: b.pdf", "PDF without text: c.PDF"]


def test_by_another_writer(file: Path) -> None:
    """Chinese in an embedded font, as fpdf2 writes it, where there is such a font."""
    fpdf = pytest.importorskip("fpdf", reason="needs fpdf2")
    font = Path(os.environ.get("SISHU_TEST_FONT", "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"))
    if not font.exists():
        pytest.skip("needs a Chinese font (SISHU_TEST_FONT)")
    writer = fpdf.FPDF()
    writer.add_font("zh", fname=str(font), collection_font_number=2)
    writer.add_page()
    writer.set_font("zh", size=11)
    said = "私塾是旧时私人设立的教学处所。学而时习之，不亦说乎？" * 8
    writer.multi_cell(0, 6, said)
    text, reason = read(file, bytes(writer.output()))
    assert text == said + "\n" and not reason
