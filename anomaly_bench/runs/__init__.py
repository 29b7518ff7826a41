"""A run is one folder: what is trained, measured and stored there, and how it goes on after any end."""
