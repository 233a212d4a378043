"""Revisions, versions and deletions of real PubMed records, against a dictionary filled file by file."""

import gzip
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from lxml import etree
from tokenizers import Tokenizer

from data_prep.config import CorpusConfig
from data_prep.config_file import load_config
from data_prep.pipeline import run
from data_prep.shards.reader import ShardSet
from data_prep.units import finished
from tests import tiny
from tests.data_prep.shards.encoded import rebuilt

LANGUAGES = ("eng",)
MIN_CHARACTERS = 100
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<PubmedArticleSet>\n'
TAIL = "</PubmedArticleSet>\n"
MARKED = re.compile(
    r"<(?:ArticleTitle|AbstractText)[^>]*>[^<]*<(?!/(?:ArticleTitle|AbstractText)>)"
)


def real_records(folder: Path, name: str) -> list[str]:
    """The records of a real file as they stand in it, without those whose text has markup inside.

    What markup becomes is tested with the readers; here a text is compared letter by letter.
    """
    text = gzip.decompress((folder / f"{name}.xml.gz").read_bytes()).decode()
    records = re.findall(r"<PubmedArticle>.*?</PubmedArticle>", text, re.DOTALL)
    return [record for record in records if not MARKED.search(record)]


def pmid_of(record: str) -> str:
    return re.search(r"<PMID Version=\"\d+\">(\d+)</PMID>", record)[1]  # type: ignore[index]


def revised(record: str, note: str, version: int = 1) -> str:
    """The record with another beginning of its title, in this version."""
    record = re.sub(r"(<ArticleTitle[^>]*>)", rf"\g<1>{note}: ", record, count=1)
    return record.replace('<PMID Version="1">', f'<PMID Version="{version}">', 1)


def deletions(*pmids: tuple[str, int]) -> str:
    entries = "".join(f'<PMID Version="{version}">{pmid}</PMID>' for pmid, version in pmids)
    return f"<DeleteCitation>{entries}</DeleteCitation>"


def history(first: list[str], second: list[str]) -> dict[str, str]:
    """Three files: a baseline and two update files, in which every kind of change occurs."""
    base, late = sorted(first, key=lambda record: "<Abstract>" not in record), second[:6]
    renewed, raised, gone, again, older, twice = base[:6]
    update = [
        revised(renewed, "Revised"),
        revised(raised, "Second version", 2),
        revised(older, "Second version too", 2),
        revised(twice, "Once"),
        revised(twice, "Twice in one file"),
        *late,
        # Acts after its own file's records: the last of `late` never appears.
        deletions((pmid_of(gone), 1), (pmid_of(again), 1), (pmid_of(late[-1]), 1)),
    ]
    last = [
        revised(again, "Added again"),
        revised(raised, "An older version, late"),
        revised(renewed, "Revised again"),
        deletions((pmid_of(older), 1), ("99999999", 1)),
    ]
    files = {"pubmed26n0001": base, "pubmed26n0002": update, "pubmed26n0010": last}
    return {name: HEAD + "".join(records) + TAIL for name, records in files.items()}


NOTICES = {
    "Retraction of Publication", "Retraction Notice", "Published Erratum", "Expression of Concern",
}  # fmt: skip


@dataclass
class Standing:
    """What plain lxml and dictionaries say of some files, loaded one after another."""

    texts: dict[str, str]  # of what stands and passes the rules, by id
    fates: Counter[str]
    files: dict[str, dict[str, Any]]  # counts of each


def words(element: etree._Element) -> str:
    """The element's text with single spaces, as the readers promise it."""
    return " ".join("".join(element.itertext()).split())


def abstract_of(citation: etree._Element) -> list[etree._Element]:
    """The abstract's sections; those of another abstract in English where there is none."""
    others = [a for a in citation.findall("OtherAbstract") if a.get("Language", "eng") == "eng"]
    own = citation.findall("Article/Abstract/AbstractText")
    return own or (others[0].findall("AbstractText") if others else [])


def text_of(citation: etree._Element) -> str:
    article = citation.find("Article")
    sections = [(part.get("Label"), words(part)) for part in abstract_of(citation)]
    lines = [f"{label}: {text}" if label else text for label, text in sections if text]
    title = words(article.find("ArticleTitle"))
    bare = re.fullmatch(r"\[(.*?)\.?\]\.?", title)  # as NLM marks a translated one
    whole = [f"{bare[1]}." if bare else title, "\n".join(lines)]
    return "\n\n".join(part for part in whole if part)


def expect(files: dict[str, str]) -> Standing:
    alive: dict[str, dict[int, etree._Element]] = {}
    standing = Standing({}, Counter(), {})
    for name, text in files.items():
        root = etree.fromstring(text.encode())
        counts: Counter[str] = Counter()
        for record in root.findall("PubmedArticle/MedlineCitation"):
            counts["documents"] += 1
            counts["with_abstract"] += bool(abstract_of(record))
            counts[f"language {record.findtext('Article/Language')}"] += 1
            versions = alive.setdefault(record.findtext("PMID"), {})
            version = int(record.find("PMID").get("Version"))
            standing.fates["superseded"] += version in versions
            versions[version] = record
        for entry in root.findall("DeleteCitation/PMID"):
            counts["deletions"] += 1
            versions = alive.get(entry.text, {})
            for version in [v for v in versions if v <= int(entry.get("Version"))]:
                del versions[version]
                standing.fates["deleted"] += 1
        standing.files[name] = dict(counts)
    for pmid, versions in alive.items():
        if versions:
            standing.fates["superseded"] += len(versions) - 1
            _decide(pmid, versions[max(versions)], standing)
    return standing


def _decide(pmid: str, citation: etree._Element, standing: Standing) -> None:
    article = citation.find("Article")
    types = [kind.text for kind in article.findall("PublicationTypeList/PublicationType")]
    text = text_of(citation)
    if "Retracted Publication" in types:
        reason = "retracted"
    elif article.findtext("Language") not in LANGUAGES:
        reason = "language"
    elif "\n\n" not in text:
        reason = "no_abstract"
    elif len(text) < MIN_CHARACTERS:
        reason = "too_short"
    elif NOTICES.intersection(types):
        reason = "notice"
    else:
        reason = "kept"
        standing.texts[f"pmid:{pmid}"] = text
    standing.fates[reason] += 1


def make_config(folder: Path, raw: Path) -> CorpusConfig:
    path = folder / "corpus.yaml"
    values = {
        "output": str(folder / "corpus"),
        "sources": {"pubmed": {"format": "pubmed", "path": str(raw)}},
        "curate": {
            "languages": list(LANGUAGES),
            "min_characters": MIN_CHARACTERS,
            "validation_fraction": 0.25,
        },
        "tokenizer": {"path": str(tiny.byte_tokenizer(folder / "tokenizer"))},
        "pack": {"sequence_length": 512, "row_group": 64},
    }
    path.write_text(yaml.safe_dump(values))
    return load_config(CorpusConfig, path)


def texts_in_shards(corpus: Path) -> dict[str, str]:
    """The documents of all shard sets, decoded by the tokenizers library."""
    found: dict[str, str] = {}
    for manifest in corpus.glob("shards/*/manifest.json"):
        folder = manifest.parent
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
        end = tokenizer.token_to_id(tiny.END)
        files = [folder / file.name for file in ShardSet(folder).manifest.files]
        for name, tokens in rebuilt(files).items():
            assert tokens[-1] == end
            assert name not in found, "a document is in two sets"
            found[name] = tokenizer.decode(tokens[:-1], skip_special_tokens=False)
    return found


def counted(corpus: Path) -> tuple[dict[str, dict[str, Any]], Counter[str]]:
    """Counts of the stages, in the words of `Standing`."""
    files = {}
    for unit in finished(corpus / "extract"):
        counts = unit.counts
        of_file = {key: counts[key] for key in ("documents", "with_abstract", "deletions")}
        of_file |= {f"language {code}": n for code, n in counts["languages"].items()}
        files[unit.name.removeprefix("pubmed/")] = {k: n for k, n in of_file.items() if n}
    fates: Counter[str] = Counter()
    for unit in finished(corpus / "curate"):
        fates.update(unit.counts["dropped"])
        fates["kept"] += unit.counts["kept"]
    return files, fates


@pytest.fixture
def files(real_data: Path) -> dict[str, str]:
    return history(
        real_records(real_data / "pubmed/baseline", "pubmed26n1334"),
        real_records(real_data / "pubmed/updatefiles", "pubmed26n1335"),
    )


def test_after_each_file_the_shards_hold_what_a_dictionary_holds(
    files: dict[str, str], tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    config = make_config(tmp_path, raw)
    there: dict[str, str] = {}
    for name, text in files.items():
        there[name] = text
        # NLM's two layouts of a file: both must do.
        path = raw / (f"{name}.xml.gz" if len(there) % 2 else f"{name}.xml")
        path.write_bytes(gzip.compress(text.encode()) if len(there) % 2 else text.encode())
        run("all", config, allow_failed=False)
        expected = expect(there)
        assert texts_in_shards(config.output) == expected.texts
        of_files, fates = counted(config.output)
        assert of_files == expected.files
        assert +fates == +expected.fates


def test_the_history_holds_every_kind_of_change(files: dict[str, str]) -> None:
    """Or the test above would prove less than it says."""
    by_file = list(files.values())
    baseline, after = expect({"a": by_file[0]}), expect(files)
    notes = Counter(text.partition(":")[0] for text in after.texts.values())
    for note in ("Revised again", "Second version", "Second version too", "Twice in one file"):
        assert notes[note] == 1, note
    assert notes["Added again"] == 1
    assert not notes["Once"]
    assert not notes["Revised"]
    assert not notes["An older version, late"]
    assert after.fates["deleted"] == 4
    assert len(set(baseline.texts) - set(after.texts)) == 1
    assert after.fates["no_abstract"] + after.fates["language"] > 0
    assert len(after.texts) > 12


def test_a_real_update_file_comes_on_top_of_a_real_baseline_file(
    real_data: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path, real_data / "pubmed")
    paths = sorted(real_data.glob("pubmed/*/pubmed26n*.xml.gz"))
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in paths:
        (raw / path.name).symlink_to(path)
    config = make_config(tmp_path, raw)
    run("all", config, allow_failed=False)
    files = {
        path.name.removesuffix(".xml.gz"): gzip.decompress(path.read_bytes()).decode()
        for path in paths
    }
    expected = expect({name: re.sub(r"<!DOCTYPE.*?>", "", text) for name, text in files.items()})
    found = texts_in_shards(config.output)
    assert len(found) > 50
    assert set(found) == set(expected.texts)
    of_files, fates = counted(config.output)
    assert of_files == expected.files
    assert +fates == +expected.fates
