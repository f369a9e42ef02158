"""The report: its figures, its sentences and what must be known before them, its templates; the leaderboard drawn."""
