"""The commands that people run; see docs/."""
