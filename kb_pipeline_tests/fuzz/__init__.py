"""Hostile files: mutated and made on purpose, through the parser process and the archive source."""
