"""One module a change of the schema, numbered; ``revision.HEAD`` names the last. What is released never changes."""
