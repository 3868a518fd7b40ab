"""What a server has from the system around it, and leaves there.

Sockets that others opened, a service manager to talk to, a pid file, the supervisor before this
one: taken from the environment before anything else starts, and put in order at the end.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping

from fastserve import systemd
from fastserve.config import Config
from fastserve.listeners import Group, open_groups
from fastserve.pidfile import PidFile
from fastserve.systemd import Notifier
from fastserve.upgrade import Before

logger = logging.getLogger("fastserve")


class Deployment:
    """The surroundings of one server process, whose variables are taken from the environment."""

    def __init__(self, config: Config, environ: MutableMapping[str, str]) -> None:
        self.config = config
        self.notifier = Notifier.from_environment(environ)
        self.heritage = systemd.heritage(environ)
        self.before = Before.from_environment(environ)
        if self.before is not None:
            self.heritage = self.before.heritage
        self.groups: list[Group] = []
        self.pid_file: PidFile | None = None
        self._unwanted: list[tuple[int, str]] = []

    def open(self) -> list[Group]:
        """Listen, and write the pid file, which is not in its place yet. Raises ConfigError."""
        self.groups = open_groups(self.config, self.heritage)
        if self.heritage.activated:
            logger.warning("LISTEN_FDS: its sockets are left alone, since an address was given")
        if self.config.pid_file is not None:
            self.pid_file = PidFile(self.config.pid_file, replaces=self.before is not None)
        return self.groups

    def settle(self) -> None:
        """Everything that was inherited is in use, or nobody wants it."""
        for key, sockets in self.heritage.sockets.items():
            self._unwanted += [(slot, key) for slot in range(len(sockets))]
        self.heritage.close()

    def take_over(self) -> None:
        """From now on what others look for is ours. Raises ConfigError."""
        if self.pid_file is not None:
            self.pid_file.place()
        for slot, key in self._unwanted:
            self.notifier.forget(slot, key)
        self.notifier.store(self.groups, 1)

    def close_group(self, group: Group) -> None:
        """Close it, and remove its file unless that is another's, or kept for the next one."""
        before = self.before
        if before is not None and before.hands_on and group.key in before.keys:
            group.leave_file()
        if self.notifier.keeps(group.key):
            group.leave_file()
        group.close()

    def close_in_child(self) -> None:
        """In a forked process: all of it is the parent's."""
        self.notifier.close_in_child()
        if self.pid_file is not None:
            self.pid_file.close_in_child()

    def close(self) -> None:
        """Close what is open, and remove what is ours."""
        self.heritage.close()
        for group in self.groups:
            self.close_group(group)
        if self.pid_file is not None:
            self.pid_file.remove()
        self.notifier.leave()
