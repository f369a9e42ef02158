"""The report: figures that lay the detectors over each other, and the templates of the page and of the model cards."""
