import hashlib
import os

import pytest

from data_prep.config import CorpusConfig
from data_prep.download.inventory import find_files, md5_of, read_inventory
from data_prep.download.stage import download
from data_prep.errors import ConfigError, DataError


def corpus(output, path, format="pubmed"):
    values = {"output": str(output), "sources": {"raw": {"format": format, "path": str(path)}}}
    return CorpusConfig.model_validate(values)


def put(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("format", "names"),
    [
        ("pubmed", ["a.xml.gz", "deep/b.xml"]),
        ("jats", ["a.xml.gz", "c.nxml", "deep/b.xml"]),
        ("text", ["d.jsonl", "e.jsonl.gz", "f.jsonl.zst", "g.txt"]),
    ],
)
def test_the_files_of_the_format_are_found_sorted_wherever_they_lie(tmp_path, format, names):
    put(tmp_path / "in", deep__b_xml=b"b", a_xml_gz=b"a", c_nxml=b"c", d_jsonl=b"d")
    put(tmp_path / "in", e_jsonl_gz=b"e", f_jsonl_zst=b"f", g_txt=b"g", h_pdf=b"h")
    hidden = ("a.xml.gz.part", ".x.xml", ".hidden/y.xml", ".git/z.txt")
    for name in hidden:
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"not an input")
    config = corpus(tmp_path / "out", tmp_path / "in", format)
    assert download(config).ran == [f"raw/{name}" for name in names]
    for file, name in zip(read_inventory(config, "raw"), names, strict=True):
        content = (tmp_path / "in" / name).read_bytes()
        assert (file.name, file.path) == (name, tmp_path / "in" / name)
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_file_that_contradicts_its_md5_fails_alone(tmp_path):
    put(tmp_path, a_xml_gz=b"a", b_xml_gz=b"b", c_xml_gz=b"c", d_xml_gz=b"d")
    (tmp_path / "a.xml.gz.md5").write_text(f"MD5(a.xml.gz)= {hashlib.md5(b'a').hexdigest()}\n")
    (tmp_path / "b.xml.gz.md5").write_text(f"MD5(b.xml.gz)= {'0' * 32}\n")
    (tmp_path / "c.xml.gz.md5").write_text("<html>Not found</html>")
    config = corpus(tmp_path / "out", tmp_path)
    report = download(config)
    assert report.ran == ["raw/a.xml.gz", "raw/d.xml.gz"]
    assert list(report.failed) == ["raw/b.xml.gz", "raw/c.xml.gz"]
    for name, reason in report.failed.items():
        assert str(tmp_path / name.removeprefix("raw/")) in reason
        assert "\n" not in reason
    assert hashlib.md5(b"b").hexdigest() in report.failed["raw/b.xml.gz"]
    assert [file.name for file in read_inventory(config, "raw")] == ["a.xml.gz", "d.xml.gz"]


def test_a_file_is_read_again_only_when_its_size_or_time_changed(tmp_path):
    put(tmp_path, a_xml=b"old", b_xml=b"b")
    config = corpus(tmp_path / "out", tmp_path)
    download(config)
    before = (tmp_path / "a.xml").stat()
    put(tmp_path, a_xml=b"new")
    os.utime(tmp_path / "a.xml", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert download(config).done == ["raw/a.xml", "raw/b.xml"]
    os.utime(tmp_path / "a.xml", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    report = download(config)
    assert (report.ran, report.done) == (["raw/a.xml"], ["raw/b.xml"])
    assert read_inventory(config, "raw")[0].sha256 == hashlib.sha256(b"new").hexdigest()


def test_an_md5_that_arrives_later_is_compared(tmp_path):
    put(tmp_path, a_xml=b"a")
    config = corpus(tmp_path / "out", tmp_path)
    download(config)
    (tmp_path / "a.xml.md5").write_text("0" * 32)
    assert list(download(config).failed) == ["raw/a.xml"]


def test_the_manifest_does_not_depend_on_place_or_time(tmp_path):
    manifests = []
    for place in ("one", "two"):
        put(tmp_path / place, a_xml=b"a", deep__b_xml=b"b")
        os.utime(tmp_path / place / "a.xml", (len(manifests), len(manifests)))
        download(corpus(tmp_path / place / "out", tmp_path / place))
        manifests.append((tmp_path / place / "out/download/raw/manifest.jsonl").read_bytes())
    assert manifests[0] == manifests[1]


def test_linked_folders_are_followed_and_a_circle_of_links_ends(tmp_path):
    put(tmp_path / "elsewhere", a_xml=b"a")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")
    assert download(corpus(tmp_path / "out", tmp_path / "in")).ran == ["raw/link/a.xml"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_is_missing_or_empty_is_an_error_that_names_the_field(tmp_path, exists):
    folder = tmp_path / "in"
    if exists:
        folder.mkdir()
        (folder / "read.me").write_text("nothing here")
    with pytest.raises(ConfigError, match=r"sources\.raw\.path: no") as error:
        download(corpus(tmp_path / "out", folder))
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_read_is_an_error_that_names_field_and_folder(
    tmp_path, monkeypatch
):
    put(tmp_path / "in", a_xml=b"a")
    # Linux refuses paths above 4,096 bytes, whoever asks: a folder that no permission opens to root.
    monkeypatch.chdir(tmp_path / "in")
    for _ in range(17):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    with pytest.raises(ConfigError, match=r"sources\.raw\.path: cannot read the folder .*/ddd"):
        find_files(tmp_path / "in", "pubmed", "sources.raw.path")


def test_a_file_name_that_is_not_utf8_is_an_error_that_names_it(tmp_path):
    put(tmp_path / "in", a_xml=b"a")
    (tmp_path / "in" / os.fsdecode(b"Stra\xdfe.xml")).write_bytes(b"b")
    with pytest.raises(ConfigError, match=r"sources\.raw\.path: .*Stra\\xdfe\.xml"):
        download(corpus(tmp_path / "out", tmp_path / "in"))


def test_an_inventory_that_is_missing_or_old_is_refused(tmp_path):
    put(tmp_path, a_xml=b"a")
    config = corpus(tmp_path / "out", tmp_path)
    with pytest.raises(DataError, match="run the stage download first"):
        read_inventory(config, "raw")
    download(config)
    put(tmp_path, a_xml=b"longer")
    with pytest.raises(DataError, match=r"a\.xml: it has 6 bytes.*download again"):
        read_inventory(config, "raw")
    (tmp_path / "a.xml").unlink()
    with pytest.raises(DataError, match=r"a\.xml: it is gone.*download again"):
        read_inventory(config, "raw")


def test_checksum_files_of_nlm_and_of_md5sum_are_read():
    md5 = hashlib.md5(b"x").hexdigest()
    assert md5_of(f"MD5(pubmed26n0001.xml.gz)= {md5}\n") == md5
    assert md5_of(f"{md5.upper()} *pubmed26n0001.xml.gz\n") == md5
    assert md5_of("404 Not Found") is None


def test_real_pubmed_files_agree_with_their_checksums(real_data, tmp_path):
    report = download(corpus(tmp_path, real_data / "pubmed"))
    assert not report.failed
    assert "raw/updatefiles/pubmed26n1335.xml.gz" in report.ran
