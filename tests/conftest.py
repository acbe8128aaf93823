"""One Hypothesis profile for all tests: none of them judges by the clock."""

from hypothesis import HealthCheck, settings

settings.register_profile("sponge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sponge")
