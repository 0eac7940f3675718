"""Settings, the models file, the API keys file: the only readers of the environment and of files
that people write.
"""
