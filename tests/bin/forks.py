"""Run `labrun` several times, each in a fork of this interpreter: cold, but sharing the modules imported before.

Reads JSON from standard input: `imports`, a list of modules, and `commands`, a list of argument lists. Writes JSON to
standard output: the exit code and the output of each command.
"""

import importlib
import json
import os
import sys
import tempfile

asked = json.load(sys.stdin)
for name in asked["imports"]:
    importlib.import_module(name)
told = []
for arguments in asked["commands"]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            for number, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out.fileno()), (2, err.fileno())):
                os.dup2(target, number)
            sys.argv[:] = ["labrun", *arguments]
            from labrun.app import main

            main()
            sys.exit()
        status = os.waitpid(child, 0)[1]
        for file in (out, err):
            file.seek(0)
        told.append([os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode()])
json.dump(told, sys.stdout)
