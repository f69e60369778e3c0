"""Several processes that speak HTTP, and one that owns the engine: records over a Unix socket between them.

A front end runs the same application as a server in one process, around a `RemoteEngine`. Text is prepared and audio
encoded there; voices, limits, caches and metrics stay with the engine. Records are typed and never code.
"""
