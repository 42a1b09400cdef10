"""The warm interpreter: a background process of the user that has imported the libraries and forks for each command.

`client.py` is the entry point of the console scripts, `server.py` the process that forks, `session.py` turns the forked
process into the command, `wire.py` holds their messages, `identity.py` decides whether two interpreters are equal,
`fingerprint.py` detects changes on disk since the imports, and `zygote.py` forks the server of a sweep's pool. Linux
only.
"""
