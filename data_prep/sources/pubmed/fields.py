"""The fields of one PubMed record straight from its characters, where it has the form that NLM writes.

`read_simple` finds the elements that a document is made of in the order that NLM's DTD gives them, takes
their text where it is plain, lets the XML parser read a title or a section with markup inside, and
refuses every other form with NotSimple: the whole record is then the XML parser's. What it skips
(authors, substances, keywords, references) is not looked into.
"""

import re
from collections.abc import Callable
from typing import Generic, TypeVar

from lxml import etree

from data_prep.documents import NLM_TERMS, Document, empty_metadata
from data_prep.sources.identifiers import first_year, normalised_doi, normalised_pmcid
from data_prep.sources.markup import inline_text, normalised
from data_prep.sources.pubmed.record import (
    chosen_language,
    is_notice_type,
    is_retracted_link,
    is_retracted_type,
    joined_text,
    usable_title,
)
from data_prep.sources.xml_stream import PARSER_OPTIONS

Value = TypeVar("Value")

_PARSER = etree.XMLParser(**PARSER_OPTIONS)

_EMPTY = empty_metadata() | {"kind": "citation", "licence": NLM_TERMS}
# Every PMID to come has 9 digits at most, versions have 4; others are the XML reader's to judge.
_HEAD = re.compile(
    r'\s*<PubmedArticle>\s*<MedlineCitation [^<>/]*>\s*<PMID Version="([1-9]\d{0,3})">([1-9]\d{0,8})</PMID>',
    re.ASCII,
)
_DATE = re.compile(
    r"<PubDate>\s*(?:<Year>(\d{4})</Year>|<MedlineDate>([^<&]*)</MedlineDate>)\s*"
    r"(?:<(Month|Day|Season)>[^<&]*</\3>\s*)*</PubDate>\s*",
    re.ASCII,
)
_JOURNAL = re.compile(
    r"</JournalIssue>\s*<Title>([^<]*)</Title>\s*(?:<ISOAbbreviation>[^<]*</ISOAbbreviation>\s*)?"
)
_SECTION = re.compile(
    r'\s*<AbstractText(?: Label="([^"<&]*)")?(?: NlmCategory="[^"<&]*")?>', re.ASCII
)
_AFTER_SECTIONS = re.compile(
    r"\s*(?:<CopyrightInformation>[^<]*</CopyrightInformation>\s*)?</Abstract>", re.ASCII
)
_LANGUAGES = re.compile(r"(?:<Language>[^<&]*</Language>\s*)+")
_LANGUAGE = re.compile(r"<Language>([^<&]*)</Language>")
_BEFORE_TYPES = re.compile(
    r"(?:<(?:DataBankList|GrantList)[ >].*)?<PublicationTypeList>", re.DOTALL
)
_TYPES = re.compile(r'\s*(?:<PublicationType(?: UI="\w*")?>[^<]*</PublicationType>\s*)*')
_TYPE = re.compile(r"<PublicationType[^>]*>([^<]*)<")
# The beginning of the list or the end of the heading before goes with a heading's name, so that all tags are
# known where each piece is.
_MESH_NAME = re.compile(
    r"(?:<MeshHeadingList>|\s*</MeshHeading>)\s*<MeshHeading>\s*<DescriptorName(?: [^<>]*)?>([^<]*)</Descriptor"
    r"|\s*<QualifierName(?: [^<>]*)?>([^<]*)</Qualifier",
    re.ASCII,
)
_LINK = re.compile(
    r'<CommentsCorrections RefType="(\w+)">\s*(?:<RefSource>[^<]*</RefSource>\s*)?'
    r'(?:<PMID Version="[1-9]\d{0,3}">([1-9]\d{0,8})</PMID>\s*)?(?:<Note>[^<]*</Note>\s*)?</CommentsCorrections>',
    re.ASCII,
)
_ids_listed = re.compile(r'<ArticleId IdType="(\w+)">([^<]*)</ArticleId>', re.ASCII).findall
_AFTER_IDS = re.compile(
    r"</ArticleIdList>\s*(?:(</PubmedData>)\s*\Z|<(?:ReferenceList|ObjectList)[ >])", re.ASCII
)
_END = re.compile(r"</PubmedData>\s*\Z", re.ASCII)
_END_BYTES = 40  # with the white space of NLM's indented layout
_two_spaces = re.compile("  ").search  # a pattern finds them faster than `in`
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos);")
_CHARACTERS = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"}
# Longer ones (grants between language and publication types) hardly ever come twice.
_REPEATED = 400


class NotSimple(Exception):  # noqa: N818 - no error: another reader takes over
    """The record has a form that only the XML parser reads."""


class _Memory(dict[str, Value], Generic[Value]):
    """What `read` made of each string so far; it forgets all when it holds `most`."""

    def __init__(self, read: Callable[[str], Value], most: int):
        super().__init__()
        self._read, self._most = read, most

    def __missing__(self, key: str) -> Value:
        value = self._read(key)
        if len(self) >= self._most:
            self.clear()
        self[key] = value
        return value


def read_simple(record: str) -> tuple[Document, bool]:
    """The document of a PubmedArticle, and whether its issue is dated in words (MedlineDate).

    `record` is the record's XML without the last end tag and with white space at most before it; it holds
    no comment, CDATA section or processing instruction. Raises NotSimple.
    """
    find = record.find
    head = _HEAD.match(record)
    if head is None:
        raise NotSimple
    # Each search begins where the one before ended; after one that failed (-1) the next fail too.
    date = find("<PubDate>", head.end())
    issue_end = find("</JournalIssue>", date)
    journal_end = find("</Journal>", issue_end)
    title_start = find("<ArticleTitle>", journal_end)
    if title_start < 0:
        raise NotSimple
    title, title_end = _text(record, title_start + 14, "ArticleTitle", "</ArticleTitle>")
    title = usable_title(title)
    if not title:
        raise NotSimple  # the vernacular title may serve
    metadata = _EMPTY.copy()
    # Abstract or AuthorList; or, where there is neither, a date behind the language.
    abstract = find("<A", title_end)
    if record.startswith("<Abstract", abstract):
        metadata["sections"], lines, abstract_end = _sections(record, abstract)
    else:
        metadata["sections"], lines, abstract_end = [], [], title_end
    language = find("<Language>", abstract_end)
    types_end = find("</PublicationTypeList>", language)
    article_end = find("</Article>", types_end)
    status = find("<PublicationStatus>", article_end)
    data = record.rfind("<PubmedData>", article_end, status)
    if data < 0 or status < 0:
        raise NotSimple
    metadata["version"], metadata["pmid"] = int(head[1]), int(head[2])
    metadata["year"], in_words = _dates[record[date:issue_end]]
    metadata["journal"] = _journals[record[issue_end:journal_end]]
    about = record[language:types_end]
    metadata["language"], types, retracted, metadata["notice"] = (
        _abouts[about] if len(about) < _REPEATED else _about(about)
    )
    metadata["publication_types"] = [*types]
    metadata["abstract"] = bool(lines)
    metadata["mesh"], mesh_start = _mesh(record, article_end, data)
    metadata["links"] = links = _links(record, article_end, mesh_start)
    metadata["retracted"] = retracted or is_retracted_link(links)
    metadata["pmcid"], doi = _ids(record, status)
    if doi is None and find("<ELocationID", title_end, article_end) > 0:
        raise NotSimple
    metadata["doi"] = doi
    text = joined_text(title, lines)
    document: Document = {
        "id": f"pmid:{head[2]}",
        "text": text,
        "source": "pubmed",
        "metadata": metadata,
    }
    return document, in_words


def _text(record: str, start: int, tag: str, end_tag: str) -> tuple[str, int]:
    """What inline_text gives of the element whose start tag ends at `start`, and where its end tag ends."""
    stop = record.find("<", start)
    if record.startswith(end_tag, stop):
        return _plain(record[start:stop]), stop + len(end_tag)
    stop = record.find(end_tag, start)
    if stop < 0:
        raise NotSimple
    try:
        element = etree.fromstring(f"<{tag}>{record[start:stop]}{end_tag}".encode(), _PARSER)
    except etree.XMLSyntaxError as error:
        raise NotSimple from error
    return inline_text(element), stop + len(end_tag)


def _plain(raw: str) -> str:
    """What inline_text gives of an element with `raw`, which has no "<", inside."""
    if ">" in raw:
        raise NotSimple  # may be the "]]>" that XML forbids
    if "&" in raw:
        if raw.count("&") != len(_ENTITY.findall(raw)):
            raise NotSimple
        return normalised(_ENTITY.sub(lambda match: _CHARACTERS[match[0]], raw))
    # Of the characters that show nothing, the file has no other below 128 (the pieces are so cut).
    if raw.isascii() and "\n" not in raw and not _two_spaces(raw):
        return raw.strip(" ")
    if "\ufffe" in raw or "\uffff" in raw:
        raise NotSimple  # no XML
    return normalised(raw)


def _date(block: str) -> tuple[int, bool]:
    """Year of publication, and whether it stands in words ("1998 Dec-1999 Jan")."""
    match = _DATE.fullmatch(block)
    if match is None:
        raise NotSimple
    year = int(match[1]) if match[1] else first_year(_plain(match[2]))
    if not year:
        raise NotSimple
    return year, not match[1]


def _journal(block: str) -> str:
    match = _JOURNAL.fullmatch(block)
    name = _plain(match[1]) if match else ""
    if not name:
        raise NotSimple
    return name


def _about(block: str) -> tuple[str | None, list[str], bool, bool]:
    """Language, publication types, and whether these say that it is retracted or a notice."""
    languages = _LANGUAGES.match(block)
    before = _BEFORE_TYPES.match(block, languages.end()) if languages else None
    if languages is None or before is None or not _TYPES.fullmatch(block, before.end()):
        raise NotSimple
    names = [_plain(name) for name in _LANGUAGE.findall(languages[0])]
    types = [name for raw in _TYPE.findall(block, before.end()) if (name := _plain(raw))]
    return chosen_language(names), types, is_retracted_type(types), is_notice_type(types)


def _sections(record: str, start: int) -> tuple[list[str], list[str], int]:
    """Labels and lines of the abstract that begins at `start`, and where it ends."""
    if not record.startswith("<Abstract>", start):
        raise NotSimple
    labels: list[str] = []
    lines: list[str] = []
    position = start + 10
    while section := _SECTION.match(record, position):
        text, position = _text(record, section.end(), "AbstractText", "</AbstractText>")
        if text:
            label = section[1]
            if label and (label := " ".join(label.split())):
                labels.append(label)
                text = f"{label}: {text}"
            lines.append(text)
    end = _AFTER_SECTIONS.match(record, position)
    if end is None:
        raise NotSimple
    return labels, lines, end.end()


def _mesh(record: str, start: int, end: int) -> tuple[list[str], int]:
    """The headings between the two places, and where their list begins (`end` where there is none)."""
    first = record.find("<MeshHeadingList", start, end)
    if first < 0:
        if record.find("<OtherAbstract", start, end) > 0:
            raise NotSimple
        return [], end
    # Backwards: the end tag's name begins like that of each heading, which makes the search slow.
    last = record.rfind("</MeshHeadingList>", first, end)
    if last < 0 or record.find("<OtherAbstract", last, end) > 0:
        raise NotSimple
    # Each piece ends with a name; after the last one, only the heading's end is left.
    *pieces, rest = record[first:last].split("Name>")
    if rest.strip() != "</MeshHeading>":
        raise NotSimple
    names: list[str] = []
    descriptor, is_alone = "", False
    for name, is_qualifier in map(_names.__getitem__, pieces):
        if not is_qualifier:
            names.append(name)
            descriptor, is_alone = name, True
        elif is_alone:
            names[-1] = descriptor + name
            is_alone = False
        else:
            names.append(descriptor + name)
    return names, first


def _mesh_name(piece: str) -> tuple[str, bool]:
    """A heading's name, or "/" and a qualifier; and whether it is one."""
    match = _MESH_NAME.fullmatch(piece)
    name = _plain(match[1] or match[2] or "") if match else ""
    if match is None or not name:
        raise NotSimple
    return ("/" + name, True) if match[2] else (name, False)


def _links(record: str, start: int, end: int) -> list[dict[str, str | int | None]]:
    first = record.find("<CommentsCorrectionsList", start, end)
    if first < 0:
        return []
    last = record.find("</CommentsCorrectionsList>", first, end)
    found = _LINK.findall(record, first, last)
    # The list's own name begins like theirs.
    if last < 0 or len(found) != record.count("<CommentsCorrections", first, last) - 1:
        raise NotSimple
    return [{"type": kind, "pmid": int(pmid) if pmid else None} for kind, pmid in found]


def _ids(record: str, first: int) -> tuple[str | None, str | None]:
    """PMCID and DOI in the list behind the status, which begins there; the lists of references come later."""
    last = record.find("</ArticleIdList>", first)
    after = _AFTER_IDS.match(record, last) if last > 0 else None
    if after is None or not (after[1] or _END.search(record, max(0, len(record) - _END_BYTES))):
        raise NotSimple
    found = _ids_listed(record, first, last)
    # All tags are PublicationStatus, the list's start and the ids found.
    if record.count("<", first, last) != 3 + 2 * len(found):
        raise NotSimple
    pmcid = doi = None
    for kind, raw in found:
        if kind == "doi":
            doi = doi or normalised_doi(_plain(raw))
        elif kind in ("pmc", "pmcid"):
            pmcid = pmcid or normalised_pmcid(_plain(raw))
    return pmcid, doi


# MeSH has 30,000 descriptors and 80 qualifiers, each major or not and after another name or heading. At 400
# bytes an entry the memories take 40 MB at most.
_dates = _Memory(_date, 1 << 13)
_journals = _Memory(_journal, 1 << 14)
_abouts = _Memory(_about, 1 << 13)
_names = _Memory(_mesh_name, 1 << 16)
