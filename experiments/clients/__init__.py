"""Real clients, kept working: public libraries that train through Lightning, with and without learned weights."""
