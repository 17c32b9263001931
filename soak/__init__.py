"""Real services under load for minutes, while their toggles change all the time: `python3 -m soak`."""
