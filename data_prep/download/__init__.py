"""Brings the files of each source here, whole: from mirrors, buckets, APIs and local folders."""
