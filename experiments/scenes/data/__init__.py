"""Generated street scenes: how they are made, and how they are served in batches."""
