"""Failing reads in real processes, as from a bad sector or a network mount that does not respond.

A small preloaded library wraps `read(2)` of the C library, which both Python and PyAV's ffmpeg use.
"""

import os
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t read(int file, void *buffer, size_t count) {
    static ssize_t (*next)(int, void *, size_t);
    char link[64], path[PATH_MAX];
    if (!next) next = (ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    char *name = strrchr(path, '/');
    if (name && strstr(name, getenv("FAILING_NAME")) && lseek(file, 0, SEEK_CUR) >= atoll(getenv("FAILING_FROM"))) {
        errno = EIO;
        return -1;
    }
    return next(file, buffer, count);
}
"""


def failing_reads(folder: Path, name: str, offset: int) -> dict[str, str] | None:
    """An environment in which reads at or after `offset` (bytes) fail for files whose names contain `name`.

    The reads fail with EIO. Returns None if there is no C compiler.
    """
    library = folder / "failing_reads.so"
    code = folder / "failing_reads.c"
    code.write_text(SOURCE)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(code), "-ldl"], check=True)
    except FileNotFoundError:
        return None
    return os.environ | {"LD_PRELOAD": str(library), "FAILING_NAME": name, "FAILING_FROM": str(offset)}
