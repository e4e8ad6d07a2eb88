"""Results, which are plain JSON, as tables in the terminal and as one HTML page."""
