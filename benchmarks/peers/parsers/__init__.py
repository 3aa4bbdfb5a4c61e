"""The parsers that ``benchmarks.parsing`` measures beside ours: an environment of their own, and a program for all."""
