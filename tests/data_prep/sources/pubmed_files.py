"""Small PubMed files for tests."""

import gzip


def citation(
    pmid="<PMID Version='1'>17</PMID>",
    title="<ArticleTitle>A title.</ArticleTitle>",
    abstract="<Abstract><AbstractText>Some text.</AbstractText></Abstract>",
    date="<PubDate><Year>1999</Year></PubDate>",
    article="<Language>eng</Language>",
    after="",
    data="",
):
    return f"""<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM">{pmid}
      <Article PubModel="Print"><Journal><JournalIssue>{date}</JournalIssue>
      <Title>The journal</Title></Journal>{title}{abstract}{article}</Article>
      <MedlineJournalInfo><MedlineTA>J</MedlineTA></MedlineJournalInfo>{after}</MedlineCitation>
      <PubmedData>{data}</PubmedData></PubmedArticle>"""


def put(tmp_path, *records, root="PubmedArticleSet", name="pubmed26n0001.xml"):
    path = tmp_path / name
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<{root}>{"".join(records)}</{root}>'
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


MESH = """<MeshHeadingList><MeshHeading>
        <DescriptorName UI="D000818" MajorTopicYN="N">Animals</DescriptorName></MeshHeading>
        <MeshHeading><DescriptorName UI="D009369" MajorTopicYN="Y">Neoplasms</DescriptorName>
          <QualifierName UI="Q000188" MajorTopicYN="N">drug therapy</QualifierName>
          <QualifierName UI="Q000235" MajorTopicYN="N">genetics</QualifierName>
        </MeshHeading></MeshHeadingList>"""
LINKS = """<CommentsCorrectionsList><CommentsCorrections RefType="RetractionIn">
        <RefSource>J. 2001;1:1</RefSource><PMID Version="1">41</PMID><Note>n</Note></CommentsCorrections>
        <CommentsCorrections RefType="CommentIn"><RefSource>K</RefSource></CommentsCorrections>
        </CommentsCorrectionsList>"""
TYPES = '<PublicationType UI="D016428">Journal Article</PublicationType>'


def nlm_record(
    pmid="17",
    version="1",
    date="<Year>1999</Year><Month>Jan</Month>",
    journal="<Title>The journal</Title><ISOAbbreviation>J</ISOAbbreviation>",
    title="A title.",
    located='<ELocationID EIdType="doi" ValidYN="Y">10.1000/x</ELocationID>',
    abstract="<Abstract><AbstractText>Some text.</AbstractText></Abstract>",
    authors='<AuthorList CompleteYN="Y"><Author ValidYN="Y"><LastName>Doe</LastName></Author></AuthorList>',
    language="<Language>eng</Language>",
    types=TYPES,
    vernacular="",
    links="",
    mesh=MESH,
    other="",
    ids='<ArticleId IdType="pmc">PMC5</ArticleId><ArticleId IdType="doi">10.1000/ABC</ArticleId>',
    references="",
    indent="",
):
    """A record with the elements, attributes and order of those that NLM distributes."""
    return f"""<PubmedArticle>{indent}<MedlineCitation Status="MEDLINE" Owner="NLM">{indent}<PMID Version="{version}">{pmid}</PMID>
      <DateRevised><Year>2001</Year><Month>01</Month><Day>02</Day></DateRevised><Article PubModel="Print"><Journal>
      <ISSN IssnType="Print">1-1</ISSN><JournalIssue CitedMedium="Print"><Volume>5</Volume><PubDate>{indent}{date}</PubDate>
      </JournalIssue>{indent}{journal}</Journal>{indent}<ArticleTitle>{title}</ArticleTitle>
      <Pagination><MedlinePgn>1-2</MedlinePgn></Pagination>{located}{indent}{abstract}{indent}{authors}{language}
      <PublicationTypeList>{types}</PublicationTypeList>{vernacular}</Article>
      <MedlineJournalInfo><MedlineTA>J</MedlineTA></MedlineJournalInfo>{links}{mesh}{other}
      <KeywordList Owner="NOTNLM"><Keyword MajorTopicYN="N">k</Keyword></KeywordList></MedlineCitation>{indent}<PubmedData>
      <History><PubMedPubDate PubStatus="pubmed"><Year>2000</Year></PubMedPubDate></History>
      <PublicationStatus>ppublish</PublicationStatus><ArticleIdList><ArticleId IdType="pubmed">{pmid}</ArticleId>
      {ids}</ArticleIdList>{references}</PubmedData></PubmedArticle>"""
