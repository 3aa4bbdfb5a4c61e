"""kb_pipeline: keeps a knowledge base in step with many sources, on Dagster."""

__version__ = "0.1.0"
