"""The same work by others, each script run by the Python of an environment that holds its package."""
