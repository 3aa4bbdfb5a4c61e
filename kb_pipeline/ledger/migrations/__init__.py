"""How the schema came to be: ``ledger.migrate`` applies what lies in ``versions``."""
