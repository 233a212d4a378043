"""Full texts of Semantic Scholar's S2ORC."""
