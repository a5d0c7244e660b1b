"""Recorded calls to replay, right and wrong, and what is none."""

import os
import socket

from ms2torch_roi.parity import operators
from ms2torch_roi.parity.recording import calls


def record(path, case, **changes):
    """Write what MindSpore gives for a case, by the NumPy reference, which has its bits."""
    output = None if case.raises else operators.reference(case)
    known = {"output": output, "versions": {"mindspore": "2.10.0", "torchvision": "0.29.2"}}
    path.parent.mkdir(exist_ok=True)
    calls.write(path, calls.Call(case=case, **{**known, **changes}))


def falsify(path, by=1.0):
    call = calls.read(path)
    call.output[-1, 0, 0, 0] += by
    calls.write(path, call)


# What reading it would wait for, or never come to the end of, and links to that; and what is said of it.
NO_FILES = {
    "pipe": "it is a named pipe, not a file",
    "link-to-pipe": "it is a named pipe, not a file",
    "socket": "it is a socket, not a file",
    "folder": "it is a folder, not a file",
    "link-to-folder": "it is a folder, not a file",
    "link-to-device": "it is a device, not a file",
    "link-to-nothing": "No such file or directory",
    "link-to-itself": "Too many levels of symbolic links",
}


def make_no_files(folder, suffix):
    """Make all of them in a folder, by these names; the links lead out of it."""
    paths = {name: folder / f"{name}{suffix}" for name in NO_FILES}
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    os.mkfifo(paths["pipe"])
    os.mkfifo(elsewhere / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(paths["socket"]))  # which may be short only
    paths["folder"].mkdir()
    for name, target in (
        ("link-to-pipe", elsewhere / "pipe"),
        ("link-to-folder", elsewhere),
        ("link-to-device", "/dev/zero"),
        ("link-to-nothing", "nowhere"),
        ("link-to-itself", paths["link-to-itself"]),
    ):
        paths[name].symlink_to(target)
    return paths
