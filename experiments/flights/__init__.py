"""The second table of real data: flights from New York, in one network with four tasks."""
