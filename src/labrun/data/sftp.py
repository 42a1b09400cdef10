"""fsspec's SFTP file system, which knows the hosts that this machine's `ssh` knows, and tries again at a busy one."""

from __future__ import annotations

import random
import time

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

TRIES = 6
WAIT_S = 0.5


class KnowingSFTP(SFTPFileSystem):  # type: ignore[misc]
    """As fsspec's, whose `host_key_policy` would hold for every host: it loads no known ones."""

    def _connect(self) -> None:
        for left in reversed(range(TRIES)):
            self.client = paramiko.SSHClient()
            self.client.load_system_host_keys()
            self.client.set_missing_host_key_policy(self.host_key_policy)
            try:
                self.client.connect(self.host, **self.ssh_kwargs)
                break
            except (paramiko.AuthenticationException, paramiko.BadHostKeyException):
                raise
            except (paramiko.SSHException, EOFError, ConnectionResetError):
                # A server drops some of many connections that come at once (sshd's MaxStartups).
                if not left:
                    raise
                time.sleep(random.uniform(0.5, 1.5) * WAIT_S)
        self.ftp = self.client.open_sftp()
