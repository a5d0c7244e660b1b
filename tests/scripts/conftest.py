"""Scripts as a user writes them by command, and runs them where this package is not."""

import os
import subprocess
import sys

import pytest

from ms2torch_roi.cli import main


@pytest.fixture
def run(tmp_path):
    """Write a script to the folder of the test, and run it there, or code before it, without this package."""

    def run(name, *arguments, before="", timeout=300):
        path = tmp_path / f"{name}.py"
        assert main([name, "--out", str(path)]) == 0
        absent = "import sys; sys.modules['ms2torch_roi'] = None\n"
        code = (
            f"{absent}{before}\nimport runpy\nsys.argv = [{path.name!r}, *sys.argv[1:]]\n"
            f"runpy.run_path({str(path)!r}, run_name='__main__')"
        )
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
