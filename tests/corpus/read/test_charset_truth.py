"""Which charset a page is in, against pages with known text and against texts encoded here."""

from __future__ import annotations

import codecs
import gzip
import html
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from charset_normalizer import from_bytes

from sishu.corpus.read.charset import decode
from sishu.corpus.read.warc import read_pages
from tests.shared_data import shared_data

TEXTS = {
    "English": (
        "A naïve résumé of the café: “the price is £5” – it costs more than half of that.",
        "The old house stood at the end of the street, and nobody had lived in it for years. “Façade” is "
        "what the architect called it; the neighbours said other things – none of them polite. In the café "
        "they remembered the day on which the last tenant left, with two suitcases and a piano for £20.",
    ),
    "Simplified": (
        "我们学习手动创建卷，以便日后修改。",
        "这一章讨论大规模部署系统，而不是安装单台计算机。我们学习手动创建卷，以便日后修改最初的选择。"
        "春天来了，孩子们在院子里放风筝，老人坐在门口晒太阳。他说，今年的收成比去年好，粮食价格也涨了不少。",
    ),
    "Traditional": (
        "我們學習手動建立磁碟區，以便日後修改。",
        "這一章討論大規模部署系統，而不是安裝單台電腦。我們學習手動建立磁碟區，以便日後修改最初的選擇。"
        "春天來了，孩子們在院子裡放風箏，老人坐在門口曬太陽。他說，今年的收成比去年好，糧食價格也漲了不少。",
    ),
    "Japanese": (
        "この章では別の視点から説明します。",
        "この章では、前章までに説明した側面を異なる視点からもう一度取り上げます。すなわち配備です。"
        "春になると子供たちは庭で凧を揚げ、お年寄りは門の前で日なたぼっこをします。"
        "今年の収穫は去年より多いそうです。",
    ),
    "Korean": (
        "이 장에서는 배포 시스템에 대하여 배웁니다.",
        "이 장에서는 한 대의 컴퓨터에 설치하는 것이 아니라 대규모 배포 시스템에 대하여 배웁니다. "
        "봄이 오면 아이들은 마당에서 연을 날리고 노인들은 문 앞에서 햇볕을 쬡니다. "
        "올해 수확은 작년보다 많다고 합니다.",
    ),
    "Russian": (
        "Эта глава возвращается к уже описанным аспектам.",
        "Эта глава возвращается к некоторым аспектам, уже описанным ранее, но в другом ракурсе. Весной дети "
        "запускают во дворе воздушного змея, а старики сидят у ворот и греются на солнце.",
    ),
    "German": (
        "Für größere Übungen müßte man häufig Äpfel schälen.",
        "Dieses Kapitel greift einige Aspekte noch einmal auf: für größere Übungen müßte man häufig ändern, "
        "was früher gewählt worden ist. Im Frühling lassen Kinder Drachen steigen, und die Älteren sitzen "
        "draußen.",
    ),
    "Greek": (
        "Αυτό το κεφάλαιο επανέρχεται σε ορισμένα ζητήματα.",
        "Αυτό το κεφάλαιο επανέρχεται σε ορισμένα ζητήματα που περιγράφηκαν νωρίτερα, από άλλη οπτική γωνία. "
        "Την άνοιξη τα παιδιά πετούν χαρταετό στην αυλή και οι γέροι κάθονται στην πόρτα.",
    ),
    "Polish": (
        "Zażółć gęślą jaźń, mówił później każdy źrebak.",
        "Ten rozdział wraca do niektórych zagadnień opisanych już wcześniej, ale z innej strony. Wiosną "
        "dzieci puszczają latawce na podwórzu, a starzy ludzie siedzą przed bramą i grzeją się w słońcu.",
    ),
    "Turkish": (
        "Bu bölümde bazı konuları başka bir açıdan göreceğiz.",
        "Bu bölümde daha önce açıklanan bazı konulara başka bir açıdan yeniden değineceğiz. İlkbaharda "
        "çocuklar avluda uçurtma uçurur, yaşlılar kapının önünde oturup güneşlenir.",
    ),
    "Hebrew": (
        "פרק זה חוזר לכמה נושאים שתוארו כבר קודם.",
        "פרק זה חוזר לכמה נושאים שתוארו כבר קודם, אך מנקודת מבט אחרת. באביב הילדים מעיפים עפיפונים בחצר "
        "והזקנים יושבים ליד השער ומתחממים בשמש.",
    ),
    "Thai": (
        "บทนี้จะกล่าวถึงการติดตั้งระบบอีกครั้ง",
        "บทนี้จะกลับมากล่าวถึงบางเรื่องที่ได้อธิบายไว้แล้วในมุมมองอื่น เมื่อถึงฤดูใบไม้ผลิ เด็กๆ เล่นว่าวในลานบ้าน และคนชรานั่งอยู่หน้าประตู",
    ),
}
"""Of each language a short text and a long one."""

CODECS = {
    "English": ("cp1252",),
    "Simplified": ("gb2312", "gbk", "gb18030"),
    "Traditional": ("big5", "big5hkscs", "gb18030"),
    "Japanese": ("shift_jis", "cp932", "euc_jp", "iso2022_jp"),
    "Korean": ("euc_kr", "cp949"),
    "Russian": ("cp1251", "koi8_r", "iso8859_5"),
    "German": ("latin-1", "cp1252"),
    "Greek": ("cp1253", "iso8859_7"),
    "Polish": ("cp1250", "iso8859_2"),
    "Turkish": ("cp1254",),
    "Hebrew": ("cp1255",),
    "Thai": ("cp874",),
}
ANYWHERE = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-16-be mark")
EXTRA = {"gb18030": "𠮷㐀", "big5hkscs": "嘅喺㗎"}
"""Characters that only this codec of its family has, in four bytes or beyond the standard."""

LABEL = {
    "latin-1": "iso-8859-1", "cp1252": "windows-1252", "cp1251": "windows-1251", "koi8_r": "koi8-r",
    "iso8859_5": "iso-8859-5", "cp1253": "windows-1253", "iso8859_7": "iso-8859-7", "cp1250": "windows-1250",
    "iso8859_2": "iso-8859-2", "cp1254": "windows-1254", "cp1255": "windows-1255", "cp874": "windows-874",
    "shift_jis": "Shift_JIS", "cp932": "windows-31j", "euc_jp": "EUC-JP", "iso2022_jp": "ISO-2022-JP",
    "euc_kr": "EUC-KR", "cp949": "ks_c_5601-1987", "big5hkscs": "Big5-HKSCS", "utf-8-sig": "utf-8",
    "utf-16-le": "utf-16le", "utf-16-be": "utf-16be", "utf-16-be mark": "utf-16",
}  # fmt: skip
MANY_BYTES = ("gb", "big5", "shift", "cp932", "euc", "cp949", "iso2022", "utf")


def packed(text: str, codec: str) -> bytes:
    if codec == "utf-16-be mark":
        return codecs.BOM_UTF16_BE + text.encode("utf-16-be")
    return text.encode(codec)


def page(text: str, meta: str = "", late: str = "") -> str:
    declaration = f'<meta charset="{meta}">' if meta else ""
    far = "<!-- " + "x" * 5000 + f' --><meta charset="{late}">' if late else ""
    return f"<html><head>{declaration}{far}<title>{text}</title></head><body><p>{text}</p></body></html>"


def cases() -> list[tuple[str, str, int, str, bytes, str]]:
    """(declared how, language and codec, 0 short or 1 long, page, its bytes, the header)."""
    found = []
    for name, texts in TEXTS.items():
        for codec in (*CODECS[name], *ANYWHERE):
            label = LABEL.get(codec, codec)
            for size, text in enumerate(texts):
                text = text + EXTRA.get(codec, "") if size else text
                text = text if codec.startswith("utf") else text.encode(codec, "ignore").decode(codec)
                wrong = "gbk" if not codec.startswith("gb") else "iso-8859-1"
                for how, meta, late, header in (
                    ("right, in the header", "", "", f"text/html; charset={label}"),
                    ("right, in the page", label, "", "text/html"),
                    ("right, far down in the page", "", label, "text/html"),
                    ("not at all", "", "", "text/html"),
                    ("wrong: utf-8", "", "", "text/html; charset=utf-8"),
                    ("wrong: latin-1", "iso-8859-1", "", "text/html; charset=iso-8859-1"),
                    ("wrong: another of many bytes", "", "", f"text/html; charset={wrong}"),
                    ("wrong in the header, right in the page", label, "", "text/html; charset=utf-8"),
                    ("right in the header, wrong in the page", "utf-8", "", f"text/html; charset={label}"),
                ):
                    source = page(text, meta, late)
                    found.append((how, f"{name} {codec}", size, source, packed(source, codec), header))
    return found


def by_normalizer(body: bytes, _: str) -> str:
    best = from_bytes(body).best()
    return "" if best is None else str(best).removeprefix("\ufeff")


def measured(
    read: Callable[[bytes, str], str] = lambda body, header: decode(body, header)[0],
) -> tuple[Counter[tuple[str, int]], Counter[tuple[str, int]], list[str]]:
    """How many of each kind and size are read right, how many there are, and which are not."""
    right: Counter[tuple[str, int]] = Counter()
    total: Counter[tuple[str, int]] = Counter()
    missed = []
    for how, codec, size, source, body, header in cases():
        total[how, size] += 1
        if read(body, header) == source:
            right[how, size] += 1
        else:
            missed.append(f"{how}: {codec}, {'long' if size else 'short'}")
    return right, total, missed


def test_texts_of_many_languages_in_many_charsets() -> None:
    """All that is declared rightly anywhere where it is looked for, all long texts that are not declared, and
    nearly all whose declaration is wrong."""
    right, total, missed = measured()
    assert sum(total.values()) > 1_700
    for how, size in total:
        share = right[how, size] / total[how, size]
        if how in ("wrong: latin-1", "wrong: another of many bytes"):
            assert share >= (0.93 if size else 0.9), missed
        elif size or how not in ("right, far down in the page", "not at all", "wrong: utf-8"):
            assert share == 1, missed
        else:  # short Japanese in Shift-JIS
            assert share >= 0.97, missed
    # of two charsets with one byte a character for the same script, nothing contradicts latin-1
    long = {one for one in missed if one.endswith("long") and "many bytes" not in one}
    assert {re.split(": | ", one.partition(": latin-1: ")[2])[0] for one in long} <= {"Polish", "Turkish"}


def test_not_worse_than_charset_normalizer() -> None:
    """Which is what `requests` uses, on the same pages. It is not told the header, so that a wrong one
    does it no harm."""
    right, total, _ = measured()
    peer, _, _ = measured(by_normalizer)
    for kind in total:
        assert right[kind] >= peer[kind] - (total[kind] // 15 if kind[0].startswith("wrong:") else 0), kind
    assert sum(right.values()) > sum(peer.values())


@pytest.mark.parametrize("codec", ["gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"])
def test_a_right_declaration_is_believed_of_the_shortest_text(codec: str) -> None:
    language = {"gb18030": "Simplified", "big5": "Traditional", "euc_kr": "Korean"}.get(codec, "Japanese")
    text = TEXTS[language][1]
    label = codec.replace("_", "-")
    pieces = [text[at : at + size] for size in (2, 4, 8, 16) for at in range(0, len(text) - size, 3)]
    bodies = [page(piece).encode(codec) for piece in pieces]
    right = [
        decode(body, f"text/html; charset={label}")[0] == page(piece)
        for body, piece in zip(bodies, pieces, strict=True)
    ]
    assert sum(right) >= 0.99 * len(right)  # but for bytes that happen to be UTF-8


def test_mixed_and_damaged_pages_keep_what_is_whole() -> None:
    chinese, korean = TEXTS["Simplified"][1], TEXTS["Korean"][1]
    mixed = page(chinese * 4).encode() + "<p>声明</p>".encode("gbk")
    assert chinese in decode(mixed, "text/html")[0]
    dirty = page(chinese * 4).encode("gb18030") + b"\xff\xff<p>"
    assert chinese in decode(dirty, "text/html; charset=gbk")[0]
    cut = page(korean).encode("euc-kr")[:-25]
    assert korean[:40] in decode(cut, "text/html; charset=euc-kr")[0]
    liar = b"\xff\xfe" + page(chinese).encode()
    assert isinstance(decode(liar)[0], str)
    for codec in ("utf-32", "utf-32-le", "utf-32-be"):
        assert decode(page("plain text").encode(codec), f"text/html; charset={codec}")[0].count("\ufffd") >= 0


def test_real_pages_in_every_case_of_the_truth() -> None:
    """Each of fifteen kinds of declaration and charset, text against known text."""
    folder = shared_data("warc-docs")
    with gzip.open(folder / "truth.jsonl.gz") as file:
        rows = [row for row in map(json.loads, file) if row["kind"].startswith("cs_")]
    truth = {row["url"]: row for row in rows}
    bare = partial(re.compile(r"\W+").sub, "")
    right: Counter[str] = Counter()
    for found in read_pages(folder / "docs.warc.gz"):
        if found.url in truth:
            row = truth[found.url]
            plain = bare(html.unescape(re.sub(r"<[^>]*>", "", decode(found.body, found.content_type)[0])))
            lines = [line for line in map(bare, row["gold"].splitlines()) if len(line) >= 4]
            right[row["kind"]] += sum(line in plain for line in lines) >= 0.9 * len(lines)
    assert right == Counter(row["kind"] for row in rows) and len(right) == 15
