"""Labelled sentences with personal data and with what merely looks like it, in English and Chinese.

The values are drawn by Faker, which someone else wrote, in its own formats and with its own check digits; the
sentences are ours. A case is the text before and as it should be afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from faker import Faker

SENTENCES = {
    "en": (
        "{cue}{value}",
        "If the cabinet is locked, {plain}{value} is what you need.",
        "Smith, J. ({plain}{value}), Main Street",
        "{cue}{value}; ask for Bob in 2024.",
        "It was changed on 2023-11-05 ({plain}{value}).\nSee page 12.",
    ),
    "zh": (
        "{cue}{value}。",
        "如果柜子锁着，{plain}{value}就是你要的。",
        "张三（{plain}{value}），北京市海淀区",
        "{cue}{value}，2024年后请找小王。",
        "2023-11-05改过{plain}{value}的资料，见第12页",
    ),
}


AREAS = (206, 212, 305, 312, 404, 415, 512, 617, 702, 808)


@dataclass(frozen=True)
class Case:
    kind: str
    before: str
    after: str


def _mobile(fake: Faker, rng: random.Random) -> str:
    number = fake["zh_CN"].phone_number()
    return rng.choice((number, f"{number[:3]}-{number[3:7]}-{number[7:]}", f"+86 {number}"))


def _american(fake: Faker, rng: random.Random) -> str:
    area, exchange, line = rng.choice(AREAS), rng.randrange(220, 1000), rng.randrange(10_000)
    form = rng.choice(("({}) {}-{:04}", "{}-{}-{:04}", "{}.{}.{:04}", "+1-{}-{}-{:04}", "+1 {} {} {:04}"))
    return form.format(area, exchange, line)


def _card(fake: Faker, rng: random.Random) -> str:
    kind = rng.choice(("visa", "visa19", "mastercard", "amex", "discover", "diners"))
    number = fake["en_US"].credit_card_number(card_type=kind)
    groups = (4, 6, 5) if len(number) < 16 else (4, 4, 4, 4, 3)
    ends = [sum(groups[: i + 1]) for i in range(len(groups))]
    parts = [number[end - size : end] for end, size in zip(ends, groups, strict=True)]
    return rng.choice((number, " ".join(filter(None, parts)), "-".join(filter(None, parts))))


Draw = Callable[[Faker, random.Random], str]
PERSONAL: dict[str, tuple[tuple[str, str], Draw]] = {
    "email": (("E-mail: ", "邮箱："), lambda fake, rng: fake["en_US"].company_email()),
    "ip": (("Host ", "主机"), lambda fake, rng: fake["en_US"].ipv4_public(address_class=rng.choice("abc"))),
    "phone": (("Phone: ", "电话："), lambda fake, rng: rng.choice((_mobile, _american))(fake, rng)),
    "id-number": (("ID ", "身份证号："), lambda fake, rng: fake["zh_CN"].ssn(min_age=18, max_age=80)),
    "bank-card": (("Card: ", "卡号："), _card),
}
HARMLESS: dict[str, tuple[tuple[str, str], Draw]] = {
    "isbn": (("ISBN ", "ISBN "), lambda fake, rng: rng.choice((fake.isbn13, fake.isbn10))()),
    "date": (
        ("On ", "日期："),
        lambda fake, rng: fake.date(rng.choice(("%Y-%m-%d %H:%M:%S", "%Y%m%d%H%M%S", "%d.%m.%Y"))),
    ),
    "version": (("version ", "版本"), lambda fake, rng: fake.numerify("%.#.#.#")),
    "hash": (("commit ", "提交"), lambda fake, rng: rng.choice((fake.sha1, fake.md5, fake.uuid4))()),
    "timestamp": (("at ", "时间戳"), lambda fake, rng: str(fake.unix_time() * 1000)),
    "order": (("Order no. ", "订单号："), lambda fake, rng: fake.numerify("13#########")),
    "amount": (("$", "￥"), lambda fake, rng: f"{rng.randrange(10**6, 10**10):,}.{rng.randrange(100):02}"),
    "decimal": (("x = ", "圆周率"), lambda fake, rng: fake.numerify("#.################")),
    "barcode": (("EAN ", "条码"), lambda fake, rng: fake.ean13()),
    "private address": (("gateway ", "网关"), lambda fake, rng: fake.ipv4_private()),
    "example address": (("mail ", "邮箱"), lambda fake, rng: fake.safe_email()),
    "coordinates": (
        ("at ", "坐标"),
        lambda fake, rng: f"+{fake.latitude()} +{fake.longitude()}".replace("+-", "-"),
    ),
    "broken identity number": (("no. ", "编号"), lambda fake, rng: _other_check(fake["zh_CN"].ssn())),
    "broken card": (
        ("no. ", "编号"),
        lambda fake, rng: _other_check(fake["en_US"].credit_card_number(card_type="visa")),
    ),
    "mac": (("MAC ", "网卡"), lambda fake, rng: fake.mac_address()),
}


def _other_check(number: str) -> str:
    """The number with a wrong check digit."""
    return number[:-1] + str((int(number[-1], 11) + 5) % 10 if number[-1] != "X" else 4)


def cases(seed: int, each: int) -> Iterator[Case]:
    """`each` cases of every kind and language, the same for the same seed."""
    fake, rng = Faker(["en_US", "zh_CN"]), random.Random(seed)
    fake.seed_instance(seed)
    for personal, kinds in ((True, PERSONAL), (False, HARMLESS)):
        for kind, (cues, draw) in kinds.items():
            for turn in range(2 * each):
                language = ("en", "zh")[turn % 2]
                sentence = SENTENCES[language][turn // 2 % 5]
                value, cue = draw(fake, rng), cues[turn % 2]
                before = sentence.format(cue=cue, plain=cue if not personal else "", value=value)
                after = sentence.format(cue=cue, plain=cue if not personal else "", value=f"<{kind}>")
                yield Case(kind, before, after if personal else before)
