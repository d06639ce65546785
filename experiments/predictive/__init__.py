"""What a sigma at prediction time is worth: coverage of intervals on fresh data, and the likelihood of market days."""
