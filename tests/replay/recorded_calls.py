"""Recorded calls to replay, right and wrong."""

from ms2torch_roi.parity import calls, operators


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
