"""Workers as another user than the supervisor, which stays root.

The supervisor opens ports, sockets and files as root and goes on to: more workers need listeners of
the same owner as the first (Linux lets nobody else join a SO_REUSEPORT group), and a next
supervisor needs all of it. It runs no code of the application and reads nothing that a client sent.
A worker becomes the user before it imports the application, in all three of its identities and
every group, and makes sure that there is no way back.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from dataclasses import dataclass

from fastserve.config import Config
from fastserve.errors import ConfigError, StartupError


@dataclass(frozen=True)
class User:
    """Who workers are to be.

    name:  for the groups that it belongs to by the system's list; None: it has no name
    """

    uid: int
    gid: int
    name: str | None

    @classmethod
    def from_config(cls, config: Config) -> User | None:
        """The user of a Config, or None where workers stay what the supervisor is.

        Raises ConfigError for names that are unknown, and where this process may not.
        """
        if config.user is None:
            return None
        if os.geteuid() != 0:
            raise ConfigError(
                f"user={config.user!r}: only root may become somebody else, and this process is "
                f"user {os.geteuid()}: start it as root, or leave user out")
        found = _user(config.user)
        uid = int(config.user) if found is None else found.pw_uid
        if uid == 0:
            raise ConfigError(f"user={config.user!r} is root: name another, or leave user out")
        if config.group is not None:
            gid = _gid(config.group)
        elif found is not None:
            gid = found.pw_gid
        else:
            raise ConfigError(
                f"user={config.user!r} has no entry in the system's list of users, and so no "
                "group: give group too")
        return cls(uid, gid, None if found is None else found.pw_name)

    def give(self, path: str) -> None:
        """Make a file that is not there yet, this user's; what is there is left as it is."""
        with contextlib.suppress(OSError):      # who opens it will say what is wrong
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            os.fchown(number, self.uid, self.gid)
            os.close(number)

    def become(self) -> None:
        """Be this user from now on, for good. Raises StartupError where the system refuses."""
        try:
            if self.name is not None:
                os.initgroups(self.name, self.gid)
            else:
                os.setgroups([self.gid])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
        except OSError as error:
            raise StartupError(f"cannot become user {self.uid}: {error.strerror}") from None
        self._make_sure()

    def _make_sure(self) -> None:
        if os.getresuid() != (self.uid,) * 3 or os.getresgid() != (self.gid,) * 3:
            raise StartupError(f"still user {os.getresuid()} and group {os.getresgid()}")
        with contextlib.suppress(PermissionError):
            os.seteuid(0)
            raise StartupError(f"user {self.uid} can become root again")


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        pass
    if not _is_number(name):
        raise ConfigError(f"user={name!r}: there is no such user")
    try:
        return pwd.getpwuid(int(name))
    except KeyError:
        return None


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if _is_number(name):
            return int(name)
        raise ConfigError(f"group={name!r}: there is no such group") from None


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and int(name) < 2**32 - 1
