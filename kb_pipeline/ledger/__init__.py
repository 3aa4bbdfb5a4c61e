"""The ledger: everything that must be true for all processes of one knowledge base at once, in one small database.

Leases, pointers to tables, outcomes of connections and counts of errors, circuit breakers, requested retries, applied
listings, retirements, and the progress of runs. SQLite in the storage folder by default, Postgres by URL.

What belongs here: facts of a few bytes that several processes agree on, each in a transaction that is over at once. What
doesn't: anything slow (writing a table, uploading it, syncing it to disk), which comes before the transaction; and what
the facts mean to sources, stages or releases: names here are plain strings.

``errors`` and ``processes`` import nothing heavy, so that every command can name them; the rest imports SQLAlchemy.
"""
