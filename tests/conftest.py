"""What all tests share. How long an example takes says something of the machine, nothing of the code: no deadlines."""

from hypothesis import settings

settings.register_profile("ours", deadline=None)
settings.load_profile("ours")
