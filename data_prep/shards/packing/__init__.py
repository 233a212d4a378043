"""Which documents, and which parts of them, stand in which row: the policies, and the rows that they make."""
