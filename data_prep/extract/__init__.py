"""Source files to documents: units of work, the index beside them, and the gate on their coverage."""
