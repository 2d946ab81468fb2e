"""What is kept of a run: its record, and the folder it lies in."""
