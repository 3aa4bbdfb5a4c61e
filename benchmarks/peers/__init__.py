"""The peers that ``benchmarks.ingest`` measures beside ``kb``: an environment of their own, and a program for each."""
