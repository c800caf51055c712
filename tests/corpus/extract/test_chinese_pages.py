"""Chinese news and notices as their sites serve them: what a reader would call the text, and nothing else.

The expectations were written by hand, from the pages as a reader sees them: where the text begins and ends,
and words of what stands around it.
"""

import gzip
import json
import tarfile
from functools import cache
from pathlib import Path

import pytest

from sishu.corpus.extract.html_to_text import html_to_text
from sishu.corpus.judge import heuristics
from sishu.corpus.judge.language import identify
from sishu.corpus.read import charset
from sishu.corpus.read.warc import read_pages
from tests.shared_data import shared_data

EXPECTED = [
    (
        "163/1",
        "2019年，龙湖集团即将迎来赴港上市10周年",
        "这需要龙湖给投资者作一个交代。",
        ["跟贴", "网易公司版权所有"],
    ),
    (
        "163/5",
        "认定诈骗和骚扰，不能省略必要的核实程序",
        "在已有技术手段下尽量避免误伤。",
        ["跟贴", "热点新闻"],
    ),
    ("163/6", "华龙网-新重庆客户端讯 今（9）日", "不应该强迫孩子做他不喜欢做的事情。", ["跟贴", "热点新闻"]),
    (
        "163/8",
        "新华社北京2月29日电 2月28日",
        "不断提高疫情防控的科学性、精准性、针对性。",
        ["跟贴", "热点新闻"],
    ),
    (
        "baijiahao/1",
        "英国汉普郡贝辛斯托克的一位女士放弃了她在殡仪馆的工作",
        "她还将飞往埃及参加国际决赛。",
        ["举报", "版权声明"],
    ),
    ("baijiahao/2", "IT之家9月30日消息 据外媒报道", "有年轻网民表示“没见过也没用过”。", ["举报"]),
    ("baijiahao/4", "前段时间，在某平台举办的“美好奇妙夜晚会”", "只为传播中华文化。", ["举报"]),
    ("cjddsb/1", "为持续推动金融消费者教育和金融知识普及工作", "(文/图 刘玺东 易赛楠)", ["上一篇", "下一篇"]),
    ("cjn/1", "长江网10月4日讯（记者陈智 整合）", "【编辑：姚昊】", ["更多精彩", "相关阅读"]),
    (
        "gsc/1",
        "5月10-12日，2019年中国人文地理学术年会",
        "充分展示了人文地理学的最新研究成果和学科发展盛况。",
        ["友情链接"],
    ),
    (
        "guancha/2",
        "9月3日，在第二届全球IC企业家大会",
        "封测则有30%由外资以及台资在大陆的企业贡献。",
        ["登录", "最新闻"],
    ),
    ("guancha/guancha", "【文/观察者网专栏作者 王文】", "中国无惧“比拼耐力”。", ["登录", "最新闻"]),
    ("huanqiu/1", "执笔/叨叨姐、胡一刀&李小飞刀", "图片均来自网络", ["责编", "版权作品"]),
    ("ifeng/1", "澎湃新闻记者 段彦超 廖艳", "（实习生王金茹对此文亦有贡献）", ["凤凰网", "免责声明"]),
    (
        "ifeng/ifeng",
        "据台媒报道，艺人董又霖6日晚间主持某大型时尚活动",
        "反而成为社交平台的话题人物。",
        ["凤凰网", "免责声明"],
    ),
    ("qq/2", "划重点：", "向科技赋能转型。", ["举报", "热门推荐"]),
    ("qq/qq", "近日，一张截图在朋友圈流传", "扬子晚报记者 张楠", ["举报", "热门推荐"]),
    (
        "shanxi/1",
        "图为山西品牌丝路行（南美站）启动仪式。",
        "南美站活动将先后在巴西、乌拉圭、阿根廷举行。（张巨峰）",
        ["网站地图"],
    ),
    ("xinhuanet/1", "新华社巴黎12月9日电（记者唐霁）", "菲利普将于11日宣布退休", ["纠错", "责任编辑"]),
    ("zsnews/1", "2019年2月27日下午，佛山顺德区大良街道", "促进金融街进一步发展", ["版权所有", "上一篇"]),
]


@cache
def pages() -> dict[str, bytes]:
    path = shared_data("gne-zh-pages") / "gne-zh-pages.tar.gz"
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if file := archive.extractfile(member):
                found["/".join(Path(member.name).with_suffix("").parts[-2:])] = file.read()
    return found


@pytest.mark.parametrize(("page", "beginning", "end", "around"), EXPECTED, ids=[one[0] for one in EXPECTED])
def test_the_text_and_nothing_else(page: str, beginning: str, end: str, around: list[str]) -> None:
    text = html_to_text(charset.decode(pages()[page])[0])
    assert text.startswith(beginning)
    assert end in text[-80:]
    assert not [word for word in around if word in text]
    assert "\ufffd" not in text


def test_no_page_is_decoded_wrong() -> None:
    for name, body in pages().items():
        assert charset.decode(body)[0].count("\ufffd") == body.count("\ufffd".encode()), name


def kept(texts: list[str]) -> float:
    """Share of the texts that FineWeb's rules let through, with the limits for Chinese."""
    return sum(heuristics.select(text, "zh-Hans").reason is None for text in texts) / len(texts)


def test_clean_chinese_pages_are_kept_and_spam_is_not() -> None:
    assert kept([html_to_text(charset.decode(body)[0]) for body in pages().values()]) >= 0.9
    folder = shared_data("warc-docs")
    with gzip.open(folder / "truth.jsonl.gz", "rt", encoding="utf-8") as lines:
        kinds = {one["url"]: (one["kind"], one.get("lang")) for one in map(json.loads, lines)}
    clean, spam = set(), set()
    for page in read_pages(folder / "docs.warc.gz"):
        if kinds.get(page.url) in (("wrapped", "zh"), ("zh_spam", None)):
            text = html_to_text(charset.decode(page.body, page.content_type)[0])
            if kinds[page.url][0] == "zh_spam":
                spam.add(text)
            elif identify(text)[0].startswith("zh"):  # others are hardly translated
                clean.add(text)
    assert len(clean) > 40 and kept(sorted(clean)) >= 0.9
    assert len(spam) == 30 and kept(sorted(spam)) == 0
