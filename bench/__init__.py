"""Side-by-side timings: what the pipeline takes, and what the same job takes in the ways that people know.

``python -m bench.run`` (or ``make bench``) runs the measures of ``bench/suite``, each against a target. The others
answer one question each: ``archive``, ``predict``, ``scale``, ``settings``; ``make_archive`` makes archives of any
size. ``results`` keeps what was measured on real faces, and ``simulate`` tells of machines that were not there.
"""
