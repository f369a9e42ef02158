"""Anybody's photos: read, their faces found and aligned as the corpus is, judged by exported detectors.

Nothing here imports TensorFlow, which alone takes longer to start than all of this takes to answer.
"""
