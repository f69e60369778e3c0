"""The load generator: asks a server, or the engine in this process, to speak for many listeners, and says how it went.

`command` reads the flags, `measurement` tells the story, `load` issues the requests (closed and open loop), `player`
listens, `summary` adds up, `report` and `plot` show it. Of the modules only `inproc` ever meets the engine, and only
`http_target` an HTTP library.
"""
