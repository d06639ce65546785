"""The article's Table 1 on generated scenes: settings, cells, the runner, the table and its figures."""
