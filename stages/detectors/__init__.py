"""Detectors: a backbone, a head, and how they are trained.

``resnet50`` and ``densenet121`` each hold one backbone: its constructor and the preprocessing that it was trained with.
``levels`` says what of it a head sees, ``assembly`` puts backbone and head together, ``discriminant`` solves a
head for ``rows`` of features; ``training`` fits them, ``record`` says what that took, ``device`` on what it ran.
"""
