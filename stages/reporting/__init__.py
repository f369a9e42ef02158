"""The report: its figures, what must be known before them, what they say in sentences, and the templates."""
