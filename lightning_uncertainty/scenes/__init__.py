"""The article's experiment: one network for semantics, instances and depth, on scenes made here."""
