"""Full-text articles in JATS and the NLM DTDs before it."""
