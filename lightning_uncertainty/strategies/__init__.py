"""Strategies say how the factors before the losses follow from the losses."""
