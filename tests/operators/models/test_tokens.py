"""The bound holds for the real tokenizer of the embedded model, which has few tokens for other scripts than Latin."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.models.embedded import EmbeddedServer
from operators.models.tokens import token_bound

SENTENCES = {
    "English": "00:10 - 00:20: A man in a red coat runs down the stairs, past a sign that reads NATIONAL MUSEUM.",
    "German": "Eine ältere Frau öffnet die Wohnungstür, während der Straßenbahnfahrer an der Haltestelle wartet.",
    "Polish": "Zbigniew Wojciechowski otwiera drzwi i wychodzi na korytarz, gdzie czekają wszyscy jego przyjaciele.",
    "Vietnamese": "Một người đàn ông mặc áo khoác đỏ bước xuống cầu thang và mở cửa.",
    "Turkish": "Kırmızı paltolu bir adam merdivenlerden iniyor ve kapıyı yavaşça açıyor.",
    "Russian": "Мужчина в красном пальто спускается по лестнице и открывает дверь в музей.",
    "Greek": "Ένας άντρας με κόκκινο παλτό κατεβαίνει τις σκάλες και ανοίγει την πόρτα.",
    "Arabic": "رجل يرتدي معطفا أحمر ينزل السلم ويفتح باب المتحف ثم ينتظر صديقه.",
    "Hebrew": "גבר במעיל אדום יורד במדרגות ופותח את דלת המוזיאון.",
    "Hindi": "लाल कोट पहने एक आदमी सीढ़ियों से नीचे आता है और संग्रहालय का दरवाज़ा खोलता है।",
    "Thai": "ชายคนหนึ่งสวมเสื้อโค้ทสีแดงเดินลงบันไดและเปิดประตูพิพิธภัณฑ์",
    "Chinese": "一个穿红色外套的男人走下楼梯，打开博物馆的门，等他的朋友。",
    "Japanese": "赤いコートを着た男性が階段を降りて、博物館のドアを開けます。",
    "Korean": "빨간 코트를 입은 남자가 계단을 내려와 박물관 문을 엽니다.",
    "emoji": "🎬🙂👨‍👩‍👧‍👦🇩🇪 ❤️ 🏳️‍🌈",
    "digits": "1:02:03 - 1:02:13, 2026-11-30, 3.14159, +49 30 1234567, 0x7f",
    "code": '{"answer": "B", "why": "x_1 >= y[0] && !done"}\n\t\treturn (a -> b);',
}
ASCII_WORDS = sorted({word for text in SENTENCES.values() for word in text.split() if word.isascii()})


@pytest.fixture(scope="module")
def count():
    """Number of tokens by the tokenizer of SmolLM2."""
    with EmbeddedServer() as endpoint, httpx.Client(base_url=endpoint.base_url.removesuffix("/v1")) as client:
        yield lambda text: len(client.post("/tokenize", json={"content": text}).json()["tokens"])


@pytest.mark.parametrize("language", SENTENCES)
def test_the_bound_holds_for_every_script(count, language):
    text = SENTENCES[language]
    assert count(text) <= token_bound(text) <= len(text.encode()) + 2


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(ASCII_WORDS)
        | st.text(st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), max_size=8)
        | st.text("0123456789!\"#$%&'()*+,-./:;<=>?@[]^_{|}~ \n\t", max_size=8),
        max_size=12,
    ).map(" ".join)
)
def test_the_bound_holds_for_mixed_text(count, text):
    assert count(text) <= token_bound(text)


def test_english_is_not_counted_by_its_bytes(count):
    text = SENTENCES["English"] * 20
    assert token_bound(text) < len(text) * 0.7 < count(text) * 2.5


@given(st.text(st.characters(codec="utf-8")))
def test_the_bound_never_exceeds_the_bytes_by_more_than_two(text):
    assert token_bound(text) <= len(text.encode()) + 2
