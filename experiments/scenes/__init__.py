"""The experiment of Kendall et al.: one network for semantics, instances and depth, on scenes made here."""
