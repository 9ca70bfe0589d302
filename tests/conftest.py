"""What all tests share."""

import os

from hypothesis import HealthCheck, settings

# Examples are never timed: the machine may be busy. More of them with HYPOTHESIS_PROFILE=thorough.
settings.register_profile("quick", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("quick"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
