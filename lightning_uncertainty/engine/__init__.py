"""The machinery that every strategy needs: losses by name, their weighted sum, the window between two steps, saving."""
