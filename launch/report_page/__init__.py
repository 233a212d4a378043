"""The page that shows a corpus, runs, evaluation and samples: reading, charts, text."""
