"""Run by alembic: applies migrations through the connection, and inside the transaction, that ``migrate`` opened."""

from alembic import context

from kb_pipeline.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
