import hypothesis

# The frameworks are slow to start and the machines noisy: no deadline for a single example.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")
