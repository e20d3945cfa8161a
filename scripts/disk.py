"""An ext4 file system in a file, whose power can be cut and which can be filled. Needs root."""
import errno
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

from node import NotRun

SHUTDOWN = 0x8004587D       # EXT4_IOC_SHUTDOWN
WITHOUT_JOURNAL_FLUSH = 2   # EXT4_GOING_FLAGS_NOLOGFLUSH


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotRun(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")


def halt(pids):
    """Stops processes: none of their threads runs when this returns, though some may be in the kernel."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while any(runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the processes {pids} do not stop")
        time.sleep(0.001)


def runs(pid):
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            state = task.read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # A thread that has ended.
        if state in "RS":
            return True
    return False


class Disk:
    """Mounted at `folder/disk`, from the image `folder/disk.img`."""

    def __init__(self, folder, size=3 << 30):
        self.image, self.root = folder / "disk.img", folder / "disk"
        if os.geteuid() != 0:
            raise NotRun("mounting needs root")
        if shutil.which("mkfs.ext4") is None:
            raise NotRun("mkfs.ext4 is not installed")
        self.root.mkdir(parents=True)
        with open(self.image, "wb") as image:
            image.truncate(size)
        # No blocks kept back for root: the nodes may be root.
        run("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
        self.mount()

    def mount(self):
        run("mount", "-o", "loop", self.image, self.root)

    def cut(self, *pids):
        """What was not fsynced is gone; the file system answers EIO until it is mounted again.

        The processes `pids` end with it: they are stopped before, to be killed after. A power cut
        takes all at once, but here an fdatasync that is under way as the file system goes may return
        0 although nothing was written (ext4 gives up the conversion of extents without a word), and
        a process that lived on would acknowledge by it.
        """
        halt(pids)
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", WITHOUT_JOURNAL_FLUSH))
        finally:
            os.close(handle)

    def fill(self):
        """Takes all the space that is left, but for a few blocks. The node may write meanwhile."""
        with open(self.root / "ballast", "wb") as ballast:
            size = 0
            for _ in range(100):
                if (spare := self._free() - (64 << 10)) < 1 << 12:
                    break
                try:
                    os.posix_fallocate(ballast.fileno(), size, spare)
                    size += spare
                except OSError as e:
                    if e.errno != errno.ENOSPC:
                        raise

    def _free(self):
        now = os.statvfs(self.root)
        return now.f_bavail * now.f_frsize

    def drain(self):
        (self.root / "ballast").unlink(missing_ok=True)

    def unmount(self):
        for _ in range(100):
            if subprocess.run(["umount", self.root], capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError("the disk could not be unmounted")
