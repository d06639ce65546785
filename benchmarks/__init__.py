"""What the plugin costs: ``python -m benchmarks`` measures it and writes RESULTS.md."""
