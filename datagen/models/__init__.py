"""Models on disk, whoever made them: named by reference, read lazily, and never trusted further than the user says."""
