"""The method on real data: one network, trained three times, that differ only in how the losses are summed."""
