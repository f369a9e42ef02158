"""Whether a detector can be worth anything for photographs, before any figure is looked at."""


def worthless(source: str, weights: str) -> str | None:
    """Why a detector is worth nothing for photographs, in a sentence; None where only measuring tells what it is worth.

    ``source``: where its faces came from (sample, folder or kaggle). ``weights``: what its backbone started from
    (imagenet, folder or random).
    """
    if source == "sample":
        return "Worth nothing for photographs: it was trained on faces that this project draws, and has never seen one."
    if weights == "random":
        return "Worth little for photographs: its backbone started from random weights, not from ImageNet's."
    return None
