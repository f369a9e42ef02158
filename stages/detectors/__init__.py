"""Detectors: a backbone, a head, and how they are trained.

``resnet50`` and ``densenet121`` each hold one backbone: its constructor and the preprocessing that it was trained with.
``assembly`` puts backbone and head together, ``training`` fits them, ``device`` says on what.
"""
