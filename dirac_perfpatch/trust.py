"""Whether anybody who may not decide what runs here could have changed a file.

Trusted are root, the effective user, and the owners of this plugin's own code, of the root of the DIRAC installation
and of ``/``: they can change what runs anyway. (In a container, ``/`` may belong to the user who stands for root.) The
groups of all these are trusted, too, because many sites have a group of administrators, and on some systems every file
of a user is writable for a group of his own. Whatever is mounted read-only cannot be changed, whoever owns it.

All folders and links on the way count, because whoever can write to a folder can exchange what is in it. In a folder
with the sticky bit, only the owner of an entry can.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from dirac_perfpatch import host
from dirac_perfpatch.notices import OperatorError

# As many links as Linux follows (path_resolution(7)).
_MOST_LINKS = 40


def look(path: str) -> os.stat_result:
    """``os.stat(path)`` of what nobody else could have changed. If it is no regular file, only the way to it is judged.

    Raises:
        OperatorError: Somebody else could have changed it; the text says who, where, and what to do.
        OSError: As ``os.stat``.
    """
    ours = (0, os.geteuid())
    for place, found in _way(path):
        # Nearly always, all belongs to root or to us, and nobody else can write to it.
        if found.st_uid not in ours or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            _judge(place, found)
    return found


def _way(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Each folder and link that the path leads through, then what it leads to; with what ``lstat`` says of it."""
    whole = path if path.startswith("/") else os.path.join(os.getcwd(), path)
    place, left, links = "/", whole.split("/")[::-1], 0
    yield place, os.lstat(place)
    while left:
        name = left.pop()
        if name in ("", ".", ".."):
            place = os.path.dirname(place) if name == ".." else place
            continue
        here = os.path.join(place, name)
        found = os.lstat(here)
        yield here, found
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink(here)
            place = "/" if target.startswith("/") else place
            left += target.split("/")[::-1]
        else:
            place = here


def _judge(place: str, found: os.stat_result) -> None:
    kind = stat.S_IFMT(found.st_mode)
    is_link, is_folder = kind == stat.S_IFLNK, kind == stat.S_IFDIR
    if not (is_link or is_folder or kind == stat.S_IFREG):
        return
    users, groups = _trusted()
    if found.st_uid not in users:
        problem, remedy = f"belongs to the user {found.st_uid}", f"chown root {place}"
    elif is_link or (is_folder and found.st_mode & stat.S_ISVTX):
        return
    elif found.st_mode & stat.S_IWOTH:
        problem, remedy = "can be changed by everybody", f"chmod o-w {place}"
    elif found.st_mode & stat.S_IWGRP and found.st_gid not in groups:
        problem, remedy = f"can be changed by the group {found.st_gid}", f"chmod g-w {place}"
    else:
        return
    if not os.statvfs(os.path.dirname(place) if is_link else place).f_flag & os.ST_RDONLY:
        raise OperatorError(f"is not trusted, because {place} {problem}; {remedy}")


def _trusted() -> tuple[set[int], set[int]]:
    """The users and the groups that can change what runs here anyway."""
    places = [os.stat(place) for place in ("/", __file__, host.root_path()) if place]
    users, groups = {one.st_uid for one in places}, {one.st_gid for one in places}
    return users | {0, os.geteuid()}, groups | {0, os.getegid()}
