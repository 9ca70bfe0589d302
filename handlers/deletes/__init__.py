"""Carries deletions downstream: a delete is the one thing that cannot be taken back.

Two stages: `requests`, by customer, says what is to be deleted where; `executor`, by target, holds, checks and does it.
"""
