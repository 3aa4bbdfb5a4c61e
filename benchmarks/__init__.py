"""Reproducible measurements, with peers beside them. ``make bench`` runs all; docs/performance.md shows the figures."""
