"""Where faces come from: our own sample, a person's folder or zip, Kaggle.

Each module has one public door, ``fetch(…, archive: Path) -> dict[str, Any]``. It writes one zip at ``archive``, a path
that does not exist yet, and returns what there is to say about its origin, as JSON-ready values. ``images`` is always
among them; ``counts`` (images in each place, such as ``train/fake``), ``skipped`` (what is no image, by kind),
``licence`` and ``sha256`` where the source knows them. :mod:`stages.faces.classes` says which members are images; the
pipeline passes over any other. What a person can mend is raised as :class:`stages.errors.UserError`.
"""
