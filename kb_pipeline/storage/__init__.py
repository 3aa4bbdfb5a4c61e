"""What everything above stands on: tables that are replaced whole, leases, ids, partitions, small facts.

What belongs here: how things are kept and who may write them. What doesn't: what the tables mean.
"""
