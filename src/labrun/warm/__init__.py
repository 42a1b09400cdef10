"""The warm interpreter: a process of the user's that has imported the libraries, and forks for each command.

`client.py` is what the console scripts start, `server.py` the process that forks, `session.py` how the forked process
becomes the command, `wire.py` their messages, `identity.py` what makes two interpreters equal, `fingerprint.py` whether
what was imported is still what lies on the disk, and `stock.py` the process that a sweep's pool is made of. Linux only.
"""
