"""Figures, curves, thresholds and intervals, from scores alone: numpy arrays in, numbers out, no network in sight.

===============  ======================================================================================================
``scores``       reads one detector's scores on one split, and refuses those that no figure can be made of
``thresholds``   where to cut a score into real and fake, chosen on the validation split
``calibration``  a score into a probability, and into real, uncertain or fake
``figures``      the numbers: loss, AUC, average precision, accuracy, precision, recall, F1, Brier, calibration error
``intervals``    how sure the numbers are, and whether one detector's lead over another is more than chance
``curves``       the points that plots are drawn of: ROC, precision and recall, histogram, confusion, reliability
===============  ======================================================================================================

Label 1 is fake, 0 is real; a score is P(fake); an image is called fake when its score is the threshold or more.
"""
