"""A Dask cluster of processes on this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from support.commands import ENVIRONMENT

LONGEST = 120  # seconds that a test waits for what must come, before it fails
WORKERS_SEE = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(Path(__file__).parents[1])])}


def until(true):
    end = time.monotonic() + LONGEST
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


class Started:
    """A Dask scheduler, and workers as they are asked for."""

    def __init__(self, folder):
        self.folder, self.file, self.running = folder, folder / "scheduler.json", []
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", self.file)
        until(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]

    def start(self, *words):
        with open(self.folder / "log.txt", "a") as log:
            self.running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *map(str, words), "--no-dashboard"],
                    env=WORKERS_SEE, stdout=log, stderr=log, cwd=self.folder,
                )
            )  # fmt: skip
        return self.running[-1]

    def workers(self, *words):
        return self.start("worker", self.address, "--local-directory", self.folder, *words)

    def end(self, process):
        process.terminate()
        process.wait(LONGEST)
        self.running.remove(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running.copy()):
            self.end(process)
