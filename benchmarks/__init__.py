"""Reproducible measurements, with peers side by side. ``make bench`` runs them all; docs/performance.md shows the figures."""
