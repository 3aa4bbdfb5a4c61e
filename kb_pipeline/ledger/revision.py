"""Which revision of the schema this code works with: what opening the ledger compares, without loading alembic."""

HEAD = "0002"
