"""PubMed citations from NLM's XML."""
