"""The method on real data: one network, trained three times, with nothing changed but the weights of the losses."""
