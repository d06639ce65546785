"""The evidence: every strategy, single tasks, a search by hand and two peers, on nine sets of data."""
