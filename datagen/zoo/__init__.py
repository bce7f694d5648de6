"""The zoo: tiny models trained here and now, so that everything runs for real on a laptop.

It tests code and methods. Numbers measured on it are no evidence about large models.
"""
