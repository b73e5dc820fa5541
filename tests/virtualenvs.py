"""Virtual environments on top of the one that runs the tests, to install distributions into for real."""

import os
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Environment", "make_environment"]

SHIM = "#!{python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"


@dataclass(frozen=True)
class Environment:
    """One environment: what is installed here is seen beside all that the tests' own environment holds."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def python(self) -> Path:
        return self.bin / "python"

    def variables(self) -> dict[str, str]:
        """Return the variables under which its commands run: nothing comes from an index, builds use what is here."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON"))}
        return {
            **inherited,
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": str(self.folder),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CONFIG_FILE": os.devnull,
        }

    def install(self, *arguments: str | Path) -> None:
        """Install distributions with pip, as a user would."""
        command = [str(self.python), "-m", "pip", "install", "--quiet", *map(str, arguments)]
        done = subprocess.run(command, env=self.variables(), capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr


def make_environment(folder: Path) -> Environment:
    """Make an environment in `folder`, without downloading anything."""
    venv.create(folder, with_pip=False, symlinks=True)
    environment = Environment(folder)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    # `addsitedir`, because editable installs hang on .pth files that a plain path entry would not read.
    parent = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (Path(packages) / "parent.pth").write_text(parent)
    for name, module in (("modelrack", "modelrack.cli"), ("pip", "pip._internal.cli.main")):
        script = environment.bin / name
        script.write_text(SHIM.format(python=environment.python, module=module))
        script.chmod(0o755)
    return environment
