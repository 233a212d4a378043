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
