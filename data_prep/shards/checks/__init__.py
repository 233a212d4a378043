"""What must hold of a shard set: of its files, its rows, its list of documents, and of all of them together."""
