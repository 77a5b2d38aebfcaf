"""Run a command that ends when its parent does: `python tether.py COMMAND…`.

The parent holds our standard input open. When it ends, however it ends, we read end-of-file and
kill our process group, which holds the command and us. Run by file, without site-packages:
it costs some 20 ms and 8 MB a child.
"""

import os
import signal
import subprocess
import sys
import threading
from types import FrameType


def main(command: list[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def forward(signum: int, _frame: FrameType | None) -> None:
        child.send_signal(signum)

    def watch_parent() -> None:
        sys.stdin.buffer.read()
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch_parent, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # Not sys.exit: the watcher holds the lock of stdin's buffer, which finalising would want.
    os._exit(code if code >= 0 else 128 - code)
