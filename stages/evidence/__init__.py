"""What a detector's answers rest on: numpy arrays in, a table and a picture out, no network in sight.

===============  ======================================================================================================
``deletion``     does the evidence map point at what matters? Places to delete, images without them, what that costs
``sheet``        faces with their evidence laid over them, as one picture
===============  ======================================================================================================

An evidence map says, place by place, what speaks for fake (positive) and for real (negative), in logits; an answer is
the sign of its mean.
"""
