"""The network for three tasks: its losses, its metrics, and the instances that it finds."""
