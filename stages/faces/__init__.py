"""The archive of faces, its images, their duplicates and facts, and what later stages make of them."""
