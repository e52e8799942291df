"""What is seen and kept of a run while it goes: terminal progress and the metrics file."""
