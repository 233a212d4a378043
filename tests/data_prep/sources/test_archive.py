"""PMC's bulk archives as they were: read member by member, with the licences of the list beside them."""

import gzip
import io
import tarfile
from collections import Counter

import pytest

from data_prep.config import CorpusConfig
from data_prep.documents import Reject, read_documents
from data_prep.download.stage import download
from data_prep.errors import DataError
from data_prep.extract.readers import read_records
from data_prep.extract.stage import ExtractStage
from data_prep.run.executor import run_stage
from data_prep.source_config import Source
from data_prep.units import finished

HEAD = "Article File,Article Citation,AccessionID,LastUpdated (YYYY-MM-DD HH:MM:SS),PMID,License,Retracted\n"


def article(number, licence=""):
    return (
        f'<article><front><article-meta><article-id pub-id-type="pmc">{number}</article-id>'
        f"<title-group><article-title>Title {number}</article-title></title-group>"
        f"<permissions>{licence}</permissions></article-meta></front><body><p>Body {'x' * number}.</p></body></article>"
    ).encode()


def archive(*members, mode="w:gz"):
    """Bytes of a tar file; members are (name, content) or TarInfo."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return target.getvalue()


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def folder(name):
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def read(path, tally=None, **options):
    source = Source(format="jats", path=path.parent, **options)
    tally = Counter() if tally is None else tally
    for record in read_records(path, path.name, source, tally):
        yield record if isinstance(record, Reject) else record.document


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar"])
def test_the_articles_of_an_archive_are_read_and_the_list_tells_their_licence(tmp_path, suffix):
    by = '<license xmlns:x="http://www.w3.org/1999/xlink" x:href="https://creativecommons.org/licenses/by/4.0/"/>'
    members = [
        folder("PMC000xxxxxx"),
        ("PMC000xxxxxx/PMC1.xml", article(1)),
        ("PMC000xxxxxx/PMC2.nxml", article(2, by)),
        ("PMC000xxxxxx/readme.txt", b"hello"),
        ("PMC000xxxxxx/PMC3.xml", article(3)),
    ]
    path = tmp_path / f"oa_comm_xml.PMC000xxxxxx.baseline.2023-06-17{suffix}"
    path.write_bytes(archive(*members, mode="w" if suffix == ".tar" else "w:gz"))
    listed = (
        f"{HEAD}a/PMC1.xml,Cell. 2001,PMC1,2020-01-01,11,CC BY-NC,no\n"
        'a/PMC2.xml,"Cell, 2002",PMC2,2020-01-01,22,CC BY-NC-SA,no\n'
        "a/PMC3.xml,Cell. 2003,PMC3,2020-01-01,33,CC0,yes\n"
    )
    (tmp_path / f"{path.name.removesuffix(suffix)}.filelist.csv").write_text(listed)
    tally = Counter()
    found = list(read(path, tally))
    assert [d["id"] for d in found] == ["pmcid:PMC1", "pmcid:PMC2", "pmcid:PMC3"]
    about = [d["metadata"] for d in found]
    assert [a["licence"] for a in about] == ["cc-by-nc", "cc-by-nc-sa", "cc0"]
    assert [a["pmid"] for a in about] == [11, 22, 33]
    assert [a["retracted"] for a in about] == [False, False, True]
    assert (tally["licence disagreements"], tally["other members"]) == (1, 1)


def test_members_that_lead_out_of_the_folder_are_rejected_and_nothing_is_written(tmp_path):
    inside = tmp_path / "deep" / "deeper"
    inside.mkdir(parents=True)
    path = inside / "a.tar.gz"
    path.write_bytes(
        archive(
            ("../evil.xml", article(1)),
            ("/tmp/evil.xml", article(2)),
            ("a/../../evil.xml", article(3)),
            link("a.xml", "/etc/passwd"),
            link("b.xml", "c.xml", tarfile.LNKTYPE),
            ("c.xml", article(4)),
            ("d.xml.gz", gzip.compress(article(5))),
            ("e.xml", gzip.compress(article(6))),
            ("f.xml", article(5000)),
            ("g.xml", article(7)[:-9]),
            ("h.xml", article(8)),
        )
    )
    found = list(read(path, max_article_bytes=4000))
    assert [record["id"] for record in found if isinstance(record, dict)] == [
        "pmcid:PMC4",
        "pmcid:PMC8",
    ]
    rejects = [record for record in found if isinstance(record, Reject)]
    assert [reject.reason.partition(":")[0] for reject in rejects] == [
        *["unsafe"] * 5, *["compressed twice"] * 2, "too large", "malformed XML",
    ]  # fmt: skip
    assert rejects[0].place == "a.tar.gz/../evil.xml"
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_cut_archive_fails_after_its_whole_members(tmp_path, mode):
    path = tmp_path / ("a.tar" if mode == "w" else "a.tar.gz")
    content = archive(*[(f"{n}.xml", article(n)) for n in range(1, 40)], mode=mode)
    places = range(512, len(content) - 1100, 700) if mode == "w" else range(40, len(content), 61)
    seen = set()
    for place in places:
        path.write_bytes(content[:place])
        with pytest.raises(DataError, match=r"a\.tar\S*: broken after (\d+) whole") as raised:
            list(read(path))
        seen.add(int(str(raised.value).split("broken after ")[1].split()[0]))
    assert len(seen) > 3
    path.write_bytes(content)
    assert len(list(read(path))) == 39


def test_bytes_damaged_in_the_middle_are_an_error(tmp_path):
    path = tmp_path / "a.tar"
    content = bytearray(archive(*[(f"{n}.xml", article(n)) for n in range(1, 9)], mode="w"))
    place = content.index(b"5.xml")
    content[place + 20 : place + 200] = b"\xff" * 180
    path.write_bytes(content)
    with pytest.raises(DataError, match="broken after 4 whole members"):
        list(read(path))
    path.write_bytes(gzip.compress(gzip.compress(bytes(content))))
    path = path.rename(tmp_path / "a.tar.gz")
    with pytest.raises(DataError, match="compressed twice"):
        list(read(path))


def test_a_list_without_the_column_of_ids_is_an_error(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(archive(("1.xml", article(1)), mode="w"))
    (tmp_path / "a.filelist.txt").write_text("2020-01-01 10:00:00\nx\ty\n")
    with pytest.raises(DataError, match=r"a\.filelist\.txt: no column AccessionID"):
        list(read(path))


def test_archives_are_a_unit_each_and_done_again_when_their_list_changes(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("one", "two"):
        (raw / f"{name}.tar.gz").write_bytes(archive((f"{name}/PMC3.xml", article(3))))
    (raw / "single.xml").write_bytes(article(9))
    listed = raw / "one.filelist.csv"
    listed.write_text(f"{HEAD}a,b,PMC3,,11,CC BY,no\n")
    config = CorpusConfig.model_validate(
        {"output": str(tmp_path / "out"), "sources": {"pmc": {"format": "jats", "path": str(raw)}}}
    )
    download(config)
    report = run_stage(ExtractStage(config))
    assert (len(report.ran), report.failed) == (3, {})
    assert {"pmc/one", "pmc/two"} < set(report.ran)
    listed.write_text(f"{HEAD}a,b,PMC3,,11,CC BY-NC,no\n")
    download(config)
    assert run_stage(ExtractStage(config)).ran == ["pmc/one"]
    (one,) = [unit for unit in finished(config.extracted) if unit.name == "pmc/one"]
    (document,) = read_documents(one.folder / "documents.jsonl.zst")
    assert document["metadata"]["licence"] == "cc-by-nc"
