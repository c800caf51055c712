"""Spam and pornography go; medicine, law, sex education, novels and news stay, in both languages."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sishu.console import UserError
from sishu.corpus.extract.html_to_text import html_to_text
from sishu.corpus.judge.bad_words import DEFAULT_LIST, REASON, BadWords, Counts
from sishu.corpus.judge.language import identify
from sishu.corpus.read import charset
from sishu.corpus.read.warc import read_pages
from tests.shared_data import shared_data


@pytest.fixture(scope="module")
def bad() -> BadWords:
    return BadWords()


RESPECTABLE = {
    "medicine": """
    The vaginal examination and an ultrasound of the pelvis are performed first. Anal fissures cause
    pain during defecation. Erectile dysfunction is treated with sildenafil (Viagra) or tadalafil
    (Cialis), which must not be taken with nitrates; they are available by prescription. The penis and
    the scrotum are inspected, and semen is analysed for sperm count. Breast cancer screening includes
    palpation of the nipples.""",
    "law": """
    The defendant was convicted of rape and of two counts of sexual assault on a minor. The victim
    testified that he had called her a bitch and a whore and threatened to kill her. The court held that
    the distribution of child pornography, the promotion of prostitution and online gambling without a
    licence are separate offences. The casino operator was fined. The sex offender must register within
    three days.""",
    "sex education": """
    Masturbation is a normal part of growing up. Sexual intercourse can be vaginal, oral or anal; a
    condom protects against infections such as chlamydia. Consent means that both people want to have
    sex, every time. Pornography does not show what sex is like for most people. An orgasm is a reflex.
    Some teenagers are gay, lesbian, bisexual, transgender or queer, and may want to talk to somebody
    they trust.""",
    "minorities": """
    Drag queens, lesbians and gay men marched with transgender activists through Soho. The queer
    community centre helps people who are attacked as faggots in the street. Black, Jewish and Latino
    families settled in the quarter before the war, and the first dyke march was held here in 1993.""",
    "novel": """
    "Shit," said the sergeant, and sat down. "The bastard got away again." Nobody spoke for a long time.
    Rain ran down the window and over the letters of the old casino, and somewhere in the yard a dog was
    barking. He thought of the boy, of the road to the harbour, and of what he would have to tell the
    mother tomorrow.""",
    "birds": """
    Blue tits, great tits and coal tits nest in boxes; a cock pheasant crowed, an ass brayed, and the
    pussy willows were out. Dick Cockburn of Scunthorpe and Essex analysed the titles of the assets.""",
    "医学": """
    患者主诉阴道出血两周，性交后加重，无发热。妇科检查示外阴正常，宫颈光滑。男性患者出现勃起功能障碍
    时，可在医生指导下服用西地那非（商品名万艾可，俗称伟哥）。肛交和口交均可传播性病，应当使用安全套
    。乳房自检应每月一次。""",
    "法律": """
    公诉机关指控，被告人张某自2018年起利用时时彩、六合彩开奖结果，在其经营的网站接受他人投注，开设赌
    场，共收取投注款人民币三十万元，并通过手机传播淫秽物品、组织卖淫。本院认为，被告人的行为已构成开
    设赌场罪。强奸罪、强制猥亵罪另案处理。辩护人提出被告人系初犯，认罪认罚，请求从轻处罚。依照刑法第
    三百零三条之规定，判决如下。""",
    "性教育": """
    青春期的男孩会出现遗精，女孩会来月经，这都是正常的生理现象。自慰不会影响健康。发生性行为要征得对
    方同意，并正确使用安全套，避免怀孕和感染艾滋病。同性恋和异性恋一样，都不是疾病。遇到性骚扰要告诉
    父母或者老师。""",
    "反诈": """
    警方提醒：近期裸聊敲诈案件高发。骗子先加微信好友，再诱导受害人裸聊并偷拍视频，随后以发给通讯录好
    友相要挟。市民遇到陌生人要求扫码下载软件的，一定要提高警惕。刷单兼职、网络贷款也是常见的诈骗手法
    ，如有疑问请拨打反诈专线。""",
    "古典": """
    那婆子骂道：贱人！淫妇！你还有脸来。众人听了都不敢作声，只有黛玉在窗下听着雨声，慢慢地把那一卷诗
    又看了一遍，心中想着旧日园中的光景，不觉落下泪来。次日一早，宝玉便来问安，说起昨夜的雨，二人又谈
    了半日诗词。""",
    "繁體": """
    臺北市立聯合醫院提醒，性行為後出現排尿疼痛應盡速就醫。同志團體呼籲社會尊重多元性別。娛樂城詐騙案
    件增加，警方破獲線上博弈集團，逮捕嫌犯二十人，檢方依賭博罪嫌聲請羈押。""",
    "gambling, explained": """
    An online casino is a virtual version of a traditional casino. Gamblers play roulette, blackjack,
    baccarat and slot machines through the Internet. Many casinos offer a welcome bonus; a no deposit
    bonus may be given at registration, and free spins are common. Online gambling is illegal in several
    states, and betting sites must hold a licence. Problem gambling is treated with cognitive therapy.""",
    "pornography, studied": """
    Researchers studied the effects of pornography on adolescents. Free porn websites were visited by 60
    per cent of boys. Porn performers, including porn stars interviewed for the study, described
    coercion. The most viewed categories of porn videos were analysed for verbal aggression such as
    bitch and slut. The authors call for sex education at school.""",
    "dictionary": """
    In British English, wanker and twat are insults; arsehole corresponds to American asshole. Bollocks
    means nonsense. Shit and fuck are used as intensifiers, and bastard can be affectionate. The
    dictionary marks cunt as taboo. The etymology of each word is discussed below, with citations from
    Chaucer to Larkin.""",
    "court": """
    The plaintiff, a stripper at the club, alleged that her manager called her a slut and a whore,
    groped her and demanded sex. Text messages in evidence read 'suck my dick' and 'bitch, you are
    fired'. The jury found for the plaintiff on the hostile work environment claim. The appeals court
    affirmed the award of punitive damages and attorney fees.""",
    "counterfeits": """
    Erectile dysfunction drugs such as sildenafil (sold as Viagra) and tadalafil (Cialis) were
    counterfeit in 77 per cent of samples bought online. Kamagra, an unlicensed Indian product, is sold
    without prescription. The agency seized male enhancement supplements containing undeclared
    sildenafil.""",
    "扫黄": """
    本报讯 市公安局近日开展扫黄打非专项行动，查处传播淫秽色情信息的网站十二家，关闭裸聊直播平台三个
    ，抓获组织卖淫嫌疑人二十名。警方介绍，这些平台以激情视频、约炮为诱饵，诱导用户扫码充值。广大市民
    如发现色情网站、黄色小说等有害信息，请拨打举报电话。""",
    "网赌": """
    中国人民银行提醒：网络赌博十赌九输。不法分子以线上赌场、时时彩、百家乐、棋牌平台等名义招揽赌客，
    以注册送彩金、首存送为诱饵，通过后台操控输赢。出租出借银行卡、收款码为博彩平台转移资金，涉嫌犯罪
    。请远离网络赌博，保护自身财产安全。""",
    "彩票": """
    中国福利彩票双色球第2023045期开奖，当期一等奖中出八注，单注奖金六百余万元。本期全国销量三亿八千
    万元，奖池余额二十亿元。购彩者可持身份证和中奖彩票到当地福彩中心兑奖，投注站工作人员提醒大家理性
    投注。""",
    "裁判": """
    经审理查明，被告人李某在网上开设棋牌平台，招揽他人以百家乐、龙虎斗等方式进行赌博，从中抽头渔利。
    李某还雇用人员在微信群推广，吸引会员注册、充值、下注。案发后，公安机关扣押手机六部、银行卡二十张
    。法院以开设赌场罪判处有期徒刑三年，并处罚金。""",
    "健康": """
    不少男性担心自己的性功能。其实，偶尔出现勃起困难是正常的。不要轻信广告里的壮阳药、延时喷剂，更不
    要自行服用伟哥。夫妻之间应当多沟通，做爱不是任务。性传播疾病包括梅毒、淋病、尖锐湿疣和艾滋病，正
    确使用安全套可以预防。""",
    "语言学": """
    “他妈的”被鲁迅称为国骂。汉语詈语多与性和亲属有关，如“操你妈”“干你娘”“傻逼”“婊子”等，网络上又出现
    谐音替代形式。本文从社会语言学角度讨论其使用场合、性别差异与年龄差异。""",
}


def on_one_line(text: str) -> str:
    return (" " if text.isascii() else "").join(line.strip() for line in text.splitlines())


@pytest.mark.parametrize("subject", RESPECTABLE)
def test_respectable_texts_stay(bad: BadWords, subject: str) -> None:
    language = "en" if subject.isascii() else "zh"
    text = on_one_line(RESPECTABLE[subject])
    assert bad.judge(text, language) == ""
    assert bad.judge(text * 20, language) == ""


SPAM = {
    "pornography": """
    Watch free porn videos of horny milfs and busty camgirls in HD. Hot babes give a blowjob or handjob,
    gangbang and cumshot scenes, shaved pussy, big tits. Live sex chat with naked girls, no sign up!""",
    "gambling": """
    Best online casino 2024: claim your no deposit bonus and 200 free spins today. Play online slots,
    roulette and live casino games, or sports betting with the best casino bonus. Slot gacor, judi
    online!""",
    "pharmacy": """
    Buy Viagra online without prescription. Cheap Cialis, generic Viagra, male enhancement pills and
    Kamagra delivered overnight. Penis enlargement that works. Buy tramadol, Xanax online, lowest price.""",
    "abuse": """
    You fucking cunt, you faggot, shut up you stupid bitch. Suck my dick, motherfucker. Fuck you and
    fuck your whore of a mother, you retarded piece of shit.""",
    "fakes": """
    Replica Rolex, replica handbags, cheap Jordans! Buy Instagram followers. Buy essays online cheap.""",
    "色情": """
    免费看片，国产自拍偷拍，日本av女优无码高清在线播放。美女裸聊直播，激情视频聊天室，同城约炮，巨乳
    少妇人妻熟女，成人电影成人小说天天更新。""",
    "赌博": """
    时时彩平台注册送88元彩金，真人百家乐，美女荷官在线发牌，北京赛车pk10计划群，幸运飞艇，六合彩特码
    资料，足球投注首选，首存送百分之百，加微信领取体验金，返水高。""",
    "垃圾": """
    代开发票，办证刻章，信用卡套现，高仿手表，a货包包，无抵押贷款秒到账，加我微信，扫码领取。""",
    "繁體賭博": """
    線上娛樂城註冊送體驗金，真人百家樂、老虎機、體育投注，線上博弈首選，加line領取，開戶送彩金。""",
    "繁體色情": """
    外送茶，叫小姐，約妹，學生妹援交，無碼av，色情影片免費看片，巨乳人妻，裸聊視訊，加line。""",
    "dating": """
    Hookup tonight! Horny milfs and slutty wives in your area want to fuck. Join free sex chat, watch
    leaked nudes, live sex and naked girls on webcam. Free xxx videos.""",
    "story": """
    She took off her shirt and he stared at her big tits. He kissed her neck slowly while the rain fell
    outside and the music played on in the other room. He kissed her neck slowly while the rain fell
    outside and the music played on in the other room. He kissed her neck slowly while the rain fell
    outside and the music played on in the other room. Her wet pussy was waiting, his hard cock
    throbbing; she gave him a blowjob, then a deepthroat, until jizz ran down. They lay there for a
    while and talked of summer. They lay there for a while and talked of summer. They lay there for a
    while and talked of summer. Fuck me, she said, and the horny slut rode him again, cum everywhere.""",
    "slots": """
    Situs judi slot online gacor terpercaya: daftar slot gacor, togel online, live casino dan
    sportsbook. Free spin setiap hari, casino bonus 100%.""",
    "足彩": """
    欧洲杯投注首选平台！体育投注、足球外围、真人视讯、电子游艺、老虎机应有尽有，开户送38元体验金，存
    送优惠，返水无上限，美女荷官陪你玩，线上娱乐城第一品牌。""",
    "小说站": """
    最新激情小说，人妻熟女，乱伦小说，强奸乱伦，制服诱惑，偷拍自拍，亚洲无码视频，日本av，一本道，东
    京热，大鸡巴插进骚逼，淫水直流。""",
}


@pytest.mark.parametrize("kind", SPAM)
def test_spam_goes(bad: BadWords, kind: str) -> None:
    language = "en" if kind.isascii() else "zh-Hant" if "繁" in kind else "zh-Hans"
    text = on_one_line(SPAM[kind])
    assert bad.judge(text, language) == REASON
    assert bad.judge(text, "ja") == "", "no list for this language"


def test_one_hard_word_over_and_over_goes_but_a_headline_stays(bad: BadWords) -> None:
    assert bad.judge("free porn " * 10, "en") == REASON
    assert bad.judge("广州性文化节邀请日本AV女优助阵", "zh") == ""


@pytest.mark.parametrize(
    ("text", "language", "counts"),
    [
        ("", "en", Counts(0, 0, 0, 0, 0)),
        ("Bitches bitching, a bitch.", "en", Counts(4, 0, 3, 0, 1)),
        ("BLOWJOBS and blow-jobs", "en", Counts(4, 2, 0, 1, 1)),
        ("two orgies, “porn”, l’xxx", "en", Counts(5, 0, 3, 0, 3)),
        ("free porn videos", "en", Counts(3, 1, 0, 1, 1)),  # not also porn video
        ("big boobs, big ideas", "en", Counts(4, 1, 0, 1, 1)),
        ("spices, spiced, spicer", "en", Counts(3, 0, 0, 0, 0)),
        ("Scunthorpe cocktail titles classic Dickens", "en", Counts(5, 0, 0, 0, 0)),
        ("看porn视频，milf很多", "zh-Hans", Counts(7, 1, 1, 1, 2)),
        ("看porn视频", "de", Counts(0, 0, 0, 0, 0)),
        ("他在裸聊直播", "zh", Counts(6, 1, 0, 1, 1)),
        ("裸聊", "zh", Counts(2, 0, 1, 0, 1)),
        ("時時彩平台", "zh-Hant", Counts(5, 1, 0, 1, 1)),
        ("PK10计划", "zh", Counts(3, 1, 0, 1, 1)),
    ],
)
def test_counts(bad: BadWords, text: str, language: str, counts: Counts) -> None:
    assert bad.counts(text, language) == counts


@pytest.mark.parametrize(
    "text",
    [
        "角色情感丰富，绿色情怀，出色情商，特色情景",
        "感情色彩很浓，爱情色彩，热情色彩",
        "他在做爱心公益，做爱国的人，做爱好者",
        "高仿真模型，高仿真环境",
        "叫茶馆的伙计来，叫小姐姐帮忙",
        "性能、操作、操场、体操、鸡肉、干净、干部、树干、日常、草地、射击、高潮迭起、下流的水",
        "男性交往、同性交流、理性交锋",
        "无码头可停，窗口爆炸",
        "商标注册送达回证",
    ],
)
def test_harmless_longer_words(bad: BadWords, text: str) -> None:
    assert bad.counts(text, "zh")[1:] == (0, 0, 0, 0)


def test_lists_of_the_user(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "b.gz"
    plain.write_text(
        "# mine\n[en hard]\nSnark, boo jum  # two\nhunt~\n[zh soft]\n蛇鲨\n[zh harmless]\n裸聊\n", "utf-8"
    )
    packed.write_bytes(gzip.compress("\ufeff[zh harmless]\n蛇鲨鱼\n".encode()))
    own = BadWords([plain, packed], default_list=False)
    assert own.counts("Snarks hunted boo\njums. Porn", "en") == Counts(5, 3, 0, 2, 2)
    assert own.counts("看见蛇鲨了，又看见蛇鲨鱼了", "zh")[1:] == (0, 1, 0, 1)
    assert own.judge("snark " * 3, "en") == REASON
    both = BadWords([plain])
    assert both.counts("snark porn", "en") == Counts(2, 1, 1, 1, 2)
    assert both.counts("裸聊，裸聊直播", "zh")[1:] == (1, 0, 1, 1)


def test_thresholds() -> None:
    text = "milf " + "word " * 99 + "gangbang " + "word " * 99 + "jizz"  # 3 of 201 words, 14.9 of 1,000
    assert BadWords(max_hard=15, min_different=3).judge(text, "en") == ""
    assert BadWords(max_hard=14, min_different=3).judge(text, "en") == REASON
    assert BadWords(max_hard=14, min_different=4).judge(text, "en") == ""
    assert BadWords(max_hard=15, max_all=14, min_different=3).judge(text, "en") == ""
    text += " word" * 99 + " slut nude porn"  # six different of 303 words, 19.8 of 1,000
    assert BadWords(max_hard=15, max_all=20, min_different=3).judge(text, "en") == ""
    assert BadWords(max_hard=15, max_all=19, min_different=3).judge(text, "en") == REASON
    dense = "milf milf milf " + "word " * 27  # 100 of 1,000
    assert BadWords(max_hard=4.9).judge(dense, "en") == REASON
    assert BadWords(max_hard=5).judge(dense, "en") == ""
    assert BadWords().judge("milf milf", "en") == ""


@pytest.mark.parametrize(
    "content", [b"word\n", b"[fr hard]\nmot\n", b"[en harmless]\nword\n", b"\xff\xfe[", b"\x1f\x8b"]
)
def test_lists_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(UserError):
        BadWords([path])
    with pytest.raises(UserError):
        BadWords([tmp_path / "missing"])


@given(
    st.text(alphabet=st.sampled_from("裸聊直播平台色情porn \ud800\0é。"), max_size=60),
    st.sampled_from(["en", "zh", ""]),
)
def test_any_text_is_judged(text: str, language: str) -> None:
    own = BadWords()
    counts = own.counts(text, language)
    assert counts.hard + counts.soft <= counts.units
    assert own.judge(text, language) in ("", REASON)


def test_every_entry_counts_as_what_it_stands_under(bad: BadWords) -> None:
    section = ""
    for line in DEFAULT_LIST.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif section and line and not line.startswith("#"):
            language, severity = section.split()
            for form in line.replace("~", "").split(", "):
                counts = bad.counts(f"，{form}，", language)
                expected = {"hard": (1, 0, 1, 1), "soft": (0, 1, 0, 1), "harmless": (0, 0, 0, 0)}[severity]
                assert counts[1:] == expected, form


def test_real_pages(bad: BadWords) -> None:
    """All planted Chinese spam goes, and of 3,000 pages of documentation none."""
    folder = shared_data("warc-docs")
    with gzip.open(folder / "truth.jsonl.gz", "rt", encoding="utf-8") as lines:
        kinds = {one["url"]: one["kind"] for one in map(json.loads, lines)}
    refused: dict[str, int] = {}
    judged: dict[str, int] = {}
    for page in read_pages(folder / "docs.warc.gz"):
        kind = kinds.get(page.url, "")
        text = html_to_text(charset.decode(page.body, page.content_type)[0], "fast")
        language = identify(text)[0]
        if language.startswith(("en", "zh")):
            judged[kind] = judged.get(kind, 0) + 1
            if bad.judge(text, language):
                refused[kind] = refused.get(kind, 0) + 1
    assert refused == {"zh_spam": 30}
    assert judged["zh_spam"] == 30 and sum(judged.values()) > 3000
