"""How the schema came to be, for alembic: ``env`` runs what lies in ``versions``."""
