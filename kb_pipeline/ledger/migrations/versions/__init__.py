"""One module a change of the schema, numbered; ``revision.HEAD`` names the last. What is released never changes.

``upgrade`` is given its operations: alembic's global ``op`` may be another thread's.
"""
