"""Properties are checked on the same examples every time, however busy the machine is."""

from hypothesis import settings

settings.register_profile("secateur", deadline=None, derandomize=True, database=None)
settings.load_profile("secateur")
